"""Each node's mean over the pretraining distribution: its ablation value by default (§4)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from pipeline.model.record import record
from pipeline.model.transformer import Transformer


@torch.no_grad()
def node_means(
    model: Transformer, batches: Iterable[Int[Tensor, "_batch _pos"]]
) -> dict[str, Float[Tensor, " _width"]]:
    """Site key → mean of every node over all positions of all batches, summed in float64.

    Raises ValueError where there is no batch: a mean is never assumed.
    """
    sums: dict[str, Tensor] = {}
    n_tokens = 0
    for tokens in tqdm(batches, desc="node means", leave=False):
        _, values = record(model, tokens.to(model.device))
        n_tokens += tokens.numel()
        for key, value in values.items():
            sums[key] = sums.get(key, 0) + value.double().sum(dim=(0, 1))
    if n_tokens == 0:
        raise ValueError("no tokens to take node means over; raise pretrain.mean_tokens")
    return {key: (total / n_tokens).float().cpu() for key, total in sums.items()}
