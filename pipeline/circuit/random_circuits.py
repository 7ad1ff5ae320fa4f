"""The one sampler of random sets: as many nodes per site, or edges per kind, as a circuit to compare with (§6).

Every set is drawn from the complement of the circuit under test. A set that shared nodes or edges with the circuit
would have a part of its effect: with a few of the circuit's nodes in it, any set may cripple the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.interventions import edge_codes, edge_weights
from pipeline.model.transformer import Transformer
from pipeline.sites import edge_keys, site_key, split_edge_key


@dataclass(frozen=True)
class Complement:
    """All nodes and edges of a model that a circuit does not have, and random sets of them."""

    model: Transformer
    circuit: Circuit

    @cached_property
    def nodes(self) -> dict[str, Int[Tensor, " _n"]]:
        """Site key → the nodes that are not the circuit's, ascending."""
        return {key: (mask == 0).nonzero().flatten() for key, mask in self.circuit.node_masks().items()}

    @cached_property
    def edges(self) -> dict[str, Int[Tensor, "_n 2"]]:
        """Edge key → the edges that are not the circuit's."""
        pools = {key: nonzero_edges(self.model, key) for key in edge_keys(self.model.config.n_layer)}
        for key, pairs in self.circuit.edges.items():
            pools[key] = pools[key][~torch.isin(edge_codes(pools[key]), edge_codes(pairs))]
        return pools

    def random_set(self, like: Circuit, generator: torch.Generator, *, of_edges: bool) -> Circuit:
        """A circuit of as many nodes at each site as ``like``, without edges; or, ``of_edges``, of as many edges of
        each kind, whose nodes are the ends of its edges: a node of ``like`` without edges has no counterpart.

        A site or kind that has fewer nodes or edges than are wanted gives all.
        """
        pools, sizes = (self.edges, like.edges) if of_edges else (self.nodes, like.nodes)
        drawn = {key: picked(pools[key], len(some), generator) for key, some in sizes.items() if len(pools[key])}
        if of_edges:
            return replace(like, nodes=ends(drawn), edges=drawn)
        return replace(like, nodes={key: indices.sort().values for key, indices in drawn.items()}, edges={})


def picked(pool: Int[Tensor, "n ..."], n: int, generator: torch.Generator) -> Int[Tensor, "m ..."]:
    """``n`` different rows of a pool at random, or all where it has fewer."""
    return pool[torch.randperm(len(pool), generator=generator)[:n]]


def disjoint_sets(
    pool: Int[Tensor, " node"], *, size: int, n: int, generator: torch.Generator
) -> list[Int[Tensor, " size"]]:
    """Up to ``n`` sets of ``size`` nodes, no more sets than nodes. No node is drawn again before all were."""
    n, drawn = min(n, len(pool)), [pool[:0]]
    while sum(map(len, drawn)) < n * size:
        drawn.append(picked(pool, len(pool), generator))
    return list(torch.cat(drawn)[: n * size].view(n, size))


def nonzero_edges(model: Transformer, key: str) -> Int[Tensor, "n 2"]:
    """All (source index, target index) of an edge key whose weight is not zero."""
    return (edge_weights(model, key) != 0).T.nonzero().cpu()


def ends(edges: Mapping[str, Int[Tensor, "_n 2"]]) -> dict[str, Int[Tensor, " _n"]]:
    """Site key → the nodes that some edge leaves or enters, ascending."""
    found: dict[str, list[Tensor]] = {}
    for key, pairs in edges.items():
        layer, kind = split_edge_key(key)
        found.setdefault(site_key(layer, kind.source), []).append(pairs[:, 0])
        found.setdefault(site_key(layer, kind.target), []).append(pairs[:, 1])
    return {key: torch.cat(parts).unique() for key, parts in found.items()}
