"""Confidence intervals of mean losses, by resampling pairs."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def interval(values: Float[Tensor, " pair"], n_resamples: int, generator: torch.Generator) -> list[float]:
    """[low, high]: the central 95 % of the means of resampled pairs (percentile bootstrap)."""
    picks = torch.randint(len(values), (n_resamples, len(values)), generator=generator)
    return central(values.double()[picks].mean(1))


def central(means: Float[Tensor, " resample"]) -> list[float]:
    """[low, high] of the central 95 % of resampled means."""
    return means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()


def rows(values: Float[Tensor, "*draw pair"]) -> Float[Tensor, "draw pair"]:
    """The same values on the CPU in float64, one row for each draw."""
    return values.detach().cpu().double().view(-1, values.shape[-1])


def resampled_means(
    values: Float[Tensor, "draw pair"], times: int, generator: torch.Generator
) -> Float[Tensor, " resample"]:
    """Means over resampled draws and resampled pairs, the two independently; one draw is no sample."""
    by_draw, by_pair = (weights(n, times, generator) for n in values.shape)
    return torch.einsum("rd,dp,rp->r", by_draw, values, by_pair)


def weights(n: int, times: int, generator: torch.Generator) -> Float[Tensor, "resample n"]:
    """How often each of ``n`` is among ``n`` picked with replacement, as shares."""
    picks = torch.randint(n, (times, n), generator=generator)
    ones = torch.ones(1, dtype=torch.float64).expand(times, n)
    return torch.zeros(times, n, dtype=torch.float64).scatter_add_(1, picks, ones) / n
