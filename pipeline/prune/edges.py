"""The edges between kept nodes: every nonzero weight whose two ends are kept (METHOD §5)."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float, Int
from torch import Tensor

from pipeline.model.transformer import Transformer
from pipeline.sites import EDGE_KINDS, edge_key, site_key


def induced_edges(model: Transformer, masks: Mapping[str, Float[Tensor, " width"]]) -> dict[str, Int[Tensor, "n 2"]]:
    """Edge key → (source index, target index) of every edge between nodes with mask 1, sorted; no empty kinds."""
    edges = {}
    for layer, block in enumerate(model.transformer["h"]):
        for kind in EDGE_KINDS:
            weight = block.get_submodule(kind.weight).weight
            weight = weight[kind.rows(len(weight))]  # [target, source]
            sources, targets = masks[site_key(layer, kind.source)] > 0, masks[site_key(layer, kind.target)] > 0
            pairs = ((weight != 0) & targets[:, None] & sources[None, :]).T.nonzero()
            if len(pairs):
                edges[edge_key(layer, kind)] = pairs.cpu()
    return edges


def count_edges(model: Transformer, masks: Mapping[str, Float[Tensor, " width"]]) -> int:
    """How many edges there are between nodes with mask 1."""
    return sum(len(pairs) for pairs in induced_edges(model, masks).values())
