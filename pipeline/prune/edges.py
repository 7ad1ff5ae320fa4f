"""The edges between kept nodes: every nonzero weight whose two ends are kept (METHOD §5)."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float, Int
from torch import Tensor

from pipeline.model.ablation import edge_weights
from pipeline.model.transformer import Transformer
from pipeline.sites import edge_keys, site_key, split_edge_key


def induced_edges(model: Transformer, masks: Mapping[str, Float[Tensor, " width"]]) -> dict[str, Int[Tensor, "n 2"]]:
    """Edge key → (source index, target index) of every edge between nodes with mask 1, sorted; no empty kinds."""
    edges = {}
    for key in edge_keys(model.config.n_layer):
        layer, kind = split_edge_key(key)
        sources, targets = masks[site_key(layer, kind.source)] > 0, masks[site_key(layer, kind.target)] > 0
        pairs = ((edge_weights(model, key) != 0) & targets[:, None] & sources[None, :]).T.nonzero()
        if len(pairs):
            edges[key] = pairs.cpu()
    return edges


def count_edges(model: Transformer, masks: Mapping[str, Float[Tensor, " width"]]) -> int:
    """How many edges there are between nodes with mask 1."""
    return sum(len(pairs) for pairs in induced_edges(model, masks).values())
