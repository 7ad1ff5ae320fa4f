"""Random circuits of the same size per site or per kind of edge: what a real circuit is compared with (§6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.interventions import edge_weights
from pipeline.model.transformer import Transformer
from pipeline.sites import site_key, split_edge_key


def random_nodes(circuit: Circuit, generator: torch.Generator) -> Circuit:
    """A circuit of as many nodes at each site, drawn from all nodes of the site; without edges."""
    nodes = {
        key: torch.randperm(len(circuit.means[key]), generator=generator)[: len(kept)].sort().values
        for key, kept in circuit.nodes.items()
    }
    return replace(circuit, nodes=nodes, edges={})


def random_edges(circuit: Circuit, model: Transformer, generator: torch.Generator) -> Circuit:
    """A circuit of as many edges of each kind, drawn from all nonzero weights of the kind; its nodes are their ends.

    Nodes of the circuit that have no edges (constants, at other values than they are held at) have no counterpart.
    """
    edges = {}
    for key, pairs in circuit.edges.items():
        present = nonzero_edges(model, key)
        edges[key] = present[torch.randperm(len(present), generator=generator)[: len(pairs)]]
    return replace(circuit, nodes=ends(edges), edges=edges)


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
