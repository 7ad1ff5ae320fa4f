"""Confidence intervals of mean losses, by resampling pairs."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def interval(values: Float[Tensor, " pair"], n_resamples: int, generator: torch.Generator) -> list[float]:
    """[low, high]: the central 95 % of the means of resampled pairs (percentile bootstrap)."""
    picks = torch.randint(len(values), (n_resamples, len(values)), generator=generator)
    means = values.double()[picks].mean(1)
    return means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
