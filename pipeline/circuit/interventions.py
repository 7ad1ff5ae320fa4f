"""Interventions on nodes and edges: nodes ablated, edges cut (§4 and §5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.circuit.ablation_values import Values
from pipeline.model.transformer import Cut, Intervene, Transformer, at_rows, position_free
from pipeline.sites import EDGE_KINDS, site_key, split_edge_key

Broadcast = Mapping[str, Float[Tensor, "... _width"]]  # site key → values that broadcast over prompts and positions
SOURCES = {kind.weight: kind.source for kind in EDGE_KINDS}  # matrix → the site that it reads


def node_masks(nodes: Mapping[str, Int[Tensor, " _n"]], values: Values) -> dict[str, Float[Tensor, " _width"]]:
    """Site key → 1 for the nodes, 0 for the others, for every site that has a value."""
    masks = {key: torch.zeros_like(value) for key, value in values.items()}
    for key, indices in nodes.items():
        masks[key][indices] = 1
    return masks


def masks_in(model: Transformer, nodes: Mapping[str, Int[Tensor, " _n"]]) -> dict[str, Float[Tensor, " _width"]]:
    """The same for every site of a model, on its device."""
    return node_masks(nodes, {key: torch.empty(n, device=model.device) for key, n in model.widths().items()})


def in_matrix(key: str, pairs: Int[Tensor, "n 2"], n_rows: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Rows and columns of edges in their matrix, which has ``n_rows``."""
    _, kind = split_edge_key(key)
    return kind.rows(n_rows).start + pairs[:, 1], pairs[:, 0]


def edge_codes(pairs: Int[Tensor, "n 2"]) -> Int[Tensor, " n"]:
    """One number for each edge of a kind: 2³² · source + target."""
    return pairs[:, 0] * 2**32 + pairs[:, 1]


def mask_nodes(masks: Broadcast, means: Broadcast) -> Intervene:
    """An intervention x → m·x + (1 − m)·mean at every site that has a mask (1 = keep, any shape that broadcasts)."""

    def intervene(key: str, x: Tensor) -> Tensor:
        if key not in masks:
            return x
        mask = masks[key].to(x.dtype)
        return mask * x + (1 - mask) * at_rows(means[key].to(x.dtype), x)

    free = all(value.ndim == 1 for key, mask in masks.items() for value in (mask, means[key]))
    return position_free(intervene) if free else intervene


def edge_weights(model: Transformer, key: str) -> Float[Tensor, "target source"]:
    """The weights of all edges of an edge key; those that are zero are no edges."""
    layer, kind = split_edge_key(key)
    matrix: Tensor = model.transformer["h"][layer].get_submodule(kind.weight).weight
    return matrix[kind.rows(len(matrix))]


def edge_cuts(
    model: Transformer, edges: Mapping[str, Int[Tensor, "_n 2"]], means: Values, *, keep: bool
) -> dict[str, Cut]:
    """Cuts for ``Transformer.forward``: all edges but the given ones (``keep=True``), or only them (``keep=False``)."""
    cuts: dict[str, Cut] = {}
    for layer, block in enumerate(model.transformer["h"]):
        for name, source in SOURCES.items():
            weight = block.get_submodule(name).weight
            start = torch.zeros_like(weight) if keep else torch.ones_like(weight)
            cuts[f"{layer}.{name}"] = Cut(start.detach(), means[site_key(layer, source)].to(weight.dtype))
    for key, pairs in edges.items():
        layer, kind = split_edge_key(key)
        matrix = cuts[f"{layer}.{kind.weight}"].keep
        matrix[in_matrix(key, pairs, len(matrix))] = float(keep)
    return cuts
