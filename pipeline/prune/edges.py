"""The edges between kept nodes: every nonzero weight whose two ends are kept (§5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.circuit.interventions import edge_weights
from pipeline.model.transformer import Transformer
from pipeline.sites import edge_keys, site_key, split_edge_key


def induced_edges(model: Transformer, masks: Mapping[str, Float[Tensor, " width"]]) -> dict[str, Int[Tensor, "n 2"]]:
    """Edge key → (source index, target index) of every edge between nodes with mask 1, sorted; no empty kinds."""
    edges = {}
    for key in edge_keys(model.config.n_layer):
        layer, kind = split_edge_key(key)
        sources = (masks[site_key(layer, kind.source)] > 0).nonzero().flatten()
        targets = (masks[site_key(layer, kind.target)] > 0).nonzero().flatten()
        between = (edge_weights(model, key)[targets][:, sources] != 0).T.nonzero()
        if len(between):
            edges[key] = torch.stack([sources[between[:, 0]], targets[between[:, 1]]], dim=1).cpu()
    return edges
