"""The sampler of random circuits: as many nodes per site, or edges per kind, as a real circuit to compare with (§6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.interventions import edge_codes, edge_weights
from pipeline.model.transformer import Transformer
from pipeline.sites import edge_keys, site_key, split_edge_key


def random_nodes(circuit: Circuit, generator: torch.Generator, excluded: Circuit | None = None) -> Circuit:
    """A circuit of as many nodes at each site and no edges, drawn from all nodes of the site.

    Nodes of ``excluded`` are never drawn: a site that has too few others gives fewer.
    """
    taken = {} if excluded is None else excluded.node_masks()
    pools = {
        key: (taken[key] == 0).nonzero().flatten() if key in taken else torch.arange(len(circuit.means[key]))
        for key in circuit.nodes
    }
    drawn = _drawn(pools, circuit.nodes, generator)
    return replace(circuit, nodes={key: nodes.sort().values for key, nodes in drawn.items()}, edges={})


def random_edges(circuit: Circuit, pools: Mapping[str, Int[Tensor, "n 2"]], generator: torch.Generator) -> Circuit:
    """A circuit of as many edges of each kind, drawn from the pool of the kind; its nodes are the ends of its edges.

    A pool that has too few edges gives fewer. A node of the circuit without edges has no counterpart.
    """
    edges = _drawn(pools, circuit.edges, generator)
    return replace(circuit, nodes=ends(edges), edges=edges)


def _drawn(
    pools: Mapping[str, Tensor], sizes: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, Int[Tensor, "n ..."]]:
    """Random rows of each pool, as many as ``sizes`` has rows there."""
    return {
        key: pools[key][torch.randperm(len(pools[key]), generator=generator)[: len(rows)]]
        for key, rows in sizes.items()
    }


def edge_pools(model: Transformer, excluded: Circuit | None = None) -> dict[str, Int[Tensor, "n 2"]]:
    """Edge key → the model's edges of that kind that are not in ``excluded``."""
    pools = {key: nonzero_edges(model, key) for key in edge_keys(model.config.n_layer)}
    for key, pairs in ({} if excluded is None else excluded.edges).items():
        pools[key] = pools[key][~torch.isin(edge_codes(pools[key]), edge_codes(pairs))]
    return pools


def nonzero_edges(model: Transformer, key: str) -> Int[Tensor, "n 2"]:
    """All (source index, target index) of an edge key whose weight is not zero."""
    return (edge_weights(model, key) != 0).T.nonzero().cpu()


def ends(edges: Mapping[str, Int[Tensor, "n 2"]]) -> dict[str, Int[Tensor, " n"]]:
    """Site key → the nodes that some edge leaves or enters, ascending."""
    found: dict[str, list[Tensor]] = {}
    for key, pairs in edges.items():
        layer, kind = split_edge_key(key)
        found.setdefault(site_key(layer, kind.source), []).append(pairs[:, 0])
        found.setdefault(site_key(layer, kind.target), []).append(pairs[:, 1])
    return {key: torch.cat(parts).unique() for key, parts in found.items()}
