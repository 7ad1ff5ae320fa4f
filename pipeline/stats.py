"""Confidence intervals of means, all by the percentile bootstrap: over pairs, over draws and pairs, over groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def interval(values: Float[Tensor, " pair"], n_resamples: int, generator: torch.Generator) -> list[float]:
    """[low, high]: the central 95 % of the means of resampled pairs (percentile bootstrap)."""
    picks = torch.randint(len(values), (n_resamples, len(values)), generator=generator)
    return central(values.double()[picks].mean(1))


def central(means: Float[Tensor, " resample"], tail: float = 0.025) -> list[float]:
    """[low, high] of resampled means without a share of them, the ``tail``, at either end; by default 95 %."""
    return means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()


def group_interval(groups: Sequence[Sequence[float]], n_resamples: int, seed: int) -> list[float]:
    """[low, high]: the central 95 % of the mean over all values, when groups are resampled with all their values."""
    sums, counts = np.array([sum(group) for group in groups]), np.array([len(group) for group in groups])
    picks = np.random.default_rng(seed).integers(len(groups), size=(n_resamples, len(groups)))
    low, high = np.quantile(sums[picks].sum(1) / counts[picks].sum(1), [0.025, 0.975])
    return [float(low), float(high)]


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
