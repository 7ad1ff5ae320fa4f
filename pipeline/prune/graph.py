"""A circuit as sets of nodes and edges: what ends where, what belongs to which half layer, what leads nowhere."""

from __future__ import annotations

from collections.abc import Collection, Container
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pipeline.sites import Site, site_key, split_edge_key, split_site_key

Node = tuple[str, int]  # site key, index
Edge = tuple[str, int, int]  # edge key, source, target
ATTENTION = (Site.ATTN_IN, Site.ATTN_Q, Site.ATTN_K, Site.ATTN_V, Site.ATTN_OUT)


def dead_ends(nodes: Collection[Node], edges: Collection[Edge]) -> set[Node]:
    """Nodes without a path from input to output.

    Reads of the residual stream are inputs and writes to it are outputs. Query and key channels lead to all of their
    layer's writes.
    """
    left, between = set(nodes), set(edges)
    while True:
        sources, targets = {ends(edge)[0] for edge in between}, {ends(edge)[1] for edge in between}
        dead = {node for node in left if not ((reads(node) or node in targets) and (leads(node) or node in sources))}
        if not dead:
            return set(nodes) - left
        left -= dead
        between = {edge for edge in between if dead.isdisjoint(ends(edge))}


def reads(node: Node) -> bool:
    """Whether a node reads the residual stream."""
    return split_site_key(node[0])[1] in (Site.ATTN_IN, Site.MLP_IN)


def leads(node: Node) -> bool:
    """Whether a node has its effect without an edge."""
    return split_site_key(node[0])[1] in (Site.ATTN_Q, Site.ATTN_K, Site.ATTN_OUT, Site.MLP_OUT)


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
    return 2 * layer + (site not in ATTENTION)


def as_tensors(
    nodes: Collection[Node], edges: Collection[Edge], halves: Container[int] | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Nodes and edges as ``Circuit`` holds them, in a fixed order; with ``halves``, only those of these half layers."""
    of_site: dict[str, list[int]] = {}
    of_kind: dict[str, list[tuple[int, int]]] = {}
    for key, index in sorted(node for node in nodes if halves is None or half_of(node[0]) in halves):
        of_site.setdefault(key, []).append(index)
    for key, source, target in sorted(edge for edge in edges if halves is None or half_of(edge[0]) in halves):
        of_kind.setdefault(key, []).append((source, target))
    return {k: torch.tensor(v) for k, v in of_site.items()}, {k: torch.tensor(v) for k, v in of_kind.items()}
