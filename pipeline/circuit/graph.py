"""A circuit as a graph: items taken away, ends of edges, dead ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.circuit.compact_parts import Edges, Nodes
from pipeline.circuit.interventions import edge_codes, edge_weights
from pipeline.model.transformer import Transformer
from pipeline.sites import edge_keys, site_key, split_edge_key, split_site_key

Node = tuple[str, int]  # site key, index
Edge = tuple[str, int, int]  # edge key, source, target
Item = Node | Edge


@dataclass(frozen=True)
class Subgraph:
    """A circuit's nodes and edges, as ``Circuit`` holds them; no empty sites or kinds."""

    nodes: Nodes
    edges: Edges

    @property
    def n_nodes(self) -> int:
        return sum(map(len, self.nodes.values()))

    @property
    def n_edges(self) -> int:
        return sum(map(len, self.edges.values()))

    def __contains__(self, item: Any) -> bool:
        rows = (self.nodes if len(item) == 2 else self.edges).get(item[0])
        return rows is not None and bool((rows.view(len(rows), -1) == torch.tensor(item[1:])).all(1).any())

    def list_nodes(self) -> list[Node]:
        return [(key, i) for key, indices in self.nodes.items() for i in indices.tolist()]

    def list_edges(self) -> list[Edge]:
        return [(key, s, t) for key, pairs in self.edges.items() for s, t in pairs.tolist()]

    def list_items(self) -> list[Item]:
        return [*self.list_nodes(), *self.list_edges()]

    def without(self, items: Iterable[Item]) -> tuple[Subgraph, set[int]]:
        """The circuit without some items and the edges that end in them; the half layers that this changes."""
        gone = by_key(items)
        nodes = {key: _left(indices, gone.get(key)) for key, indices in self.nodes.items()}
        edges = {key: self._edges_left(key, pairs, gone) for key, pairs in self.edges.items()}
        before = {**self.nodes, **self.edges}
        halves = {half_of(key) for key, rows in {**nodes, **edges}.items() if len(rows) < len(before[key])}
        return Subgraph(*({key: rows for key, rows in kind.items() if len(rows)} for kind in (nodes, edges))), halves

    def _edges_left(self, key: str, pairs: Tensor, gone: dict[str, Tensor]) -> Int[Tensor, "n 2"]:
        source, target = sites_of(key)
        if gone.keys().isdisjoint((key, source, target)):
            return pairs
        stay = ~(_among(pairs[:, 0], gone.get(source)) | _among(pairs[:, 1], gone.get(target)))
        if key in gone:
            stay &= ~_among(edge_codes(pairs), edge_codes(gone[key]))
        return pairs[stay]


def induced_edges(model: Transformer, masks: Mapping[str, Float[Tensor, " _width"]]) -> dict[str, Int[Tensor, "_n 2"]]:
    """Edge key → (source index, target index) of every nonzero weight between nodes with mask 1, sorted (§5).

    Edge keys without an edge are left out.
    """
    edges = {}
    for key in edge_keys(model.config.n_layer):
        sources, targets = ((masks[site] > 0).nonzero().flatten() for site in sites_of(key))
        between = (edge_weights(model, key)[targets][:, sources] != 0).T.nonzero()
        if len(between):
            edges[key] = torch.stack([sources[between[:, 0]], targets[between[:, 1]]], dim=1).cpu()
    return edges


def by_key(items: Iterable[Item]) -> dict[str, Tensor]:
    """Site key → indices [n], edge key → ends [n, 2]."""
    rows: dict[str, list[Any]] = {}
    for item in items:
        rows.setdefault(item[0], []).append(item[1] if len(item) == 2 else item[1:])
    return {key: torch.tensor(values) for key, values in rows.items()}


def _left(indices: Int[Tensor, " n"], gone: Tensor | None) -> Int[Tensor, " m"]:
    return indices if gone is None else indices[~_among(indices, gone)]


def _among(values: Int[Tensor, " n"], some: Tensor | None) -> Bool[Tensor, " n"]:
    return torch.zeros(len(values), dtype=torch.bool) if some is None else torch.isin(values, some)


def dead_ends(parts: Subgraph) -> set[Node]:
    """Nodes without a path from input to output.

    Reads of the residual stream are inputs and writes to it are outputs. Query and key channels lead to all of their
    layer's writes.
    """
    left, between = set(parts.list_nodes()), set(parts.list_edges())
    every = frozenset(left)
    while True:
        sources, targets = {ends(edge)[0] for edge in between}, {ends(edge)[1] for edge in between}
        dead = {node for node in left if not ((reads(node) or node in targets) and (leads(node) or node in sources))}
        if not dead:
            return set(every - left)
        left -= dead
        between = {edge for edge in between if dead.isdisjoint(ends(edge))}


def together(item: Item, tie_qk: bool) -> list[Item]:
    """The items that are removed with an item: itself, and with tied masks the key of a query or the query of a key."""
    if not tie_qk or len(item) != 2:
        return [item]
    layer, site = split_site_key(item[0])
    return [item] if site.partner is None else [item, (site_key(layer, site.partner), item[1])]


def reads(node: Node) -> bool:
    """Whether a node reads the residual stream."""
    return split_site_key(node[0])[1].reads_residual


def leads(node: Node) -> bool:
    """Whether a node has its effect without an edge."""
    site = split_site_key(node[0])[1]
    return site.writes_residual or site.partner is not None


def ends(edge: Any) -> tuple[Node, Node]:
    """Source and target of an edge."""
    source, target = sites_of(edge[0])
    return (source, edge[1]), (target, edge[2])


@cache
def sites_of(key: str) -> tuple[str, str]:
    """Site keys of an edge key's sources and targets."""
    layer, kind = split_edge_key(key)
    return site_key(layer, kind.source), site_key(layer, kind.target)


@cache
def half_of(key: str) -> int:
    """Which half layer a site or an edge key belongs to: attention of layer 0, its MLP, attention of layer 1, …"""
    layer, site = split_site_key(sites_of(key)[0] if "->" in key else key)
    return 2 * layer + (not site.in_attention)
