"""Confidence intervals of means: one percentile bootstrap, over pairs, over draws and pairs, over groups.

And the area under the curve (AUC), by ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def central(means: Float[Tensor, " resample"], tail: float = 0.025) -> list[float]:
    """[low, high] of resampled means without a share of them, the ``tail``, at either end; by default 95 %."""
    return means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()


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


def interval(values: Float[Tensor, " pair"], times: int, generator: torch.Generator) -> list[float]:
    """[low, high]: the central 95 % of the mean when pairs are resampled."""
    return central(resampled_means(rows(values), times, generator))


def group_interval(groups: Sequence[Sequence[float]], times: int, generator: torch.Generator) -> list[float]:
    """[low, high]: the central 95 % of the mean over all values, when groups are resampled with all their values."""
    sums, counts = torch.tensor([[sum(group), len(group)] for group in groups], dtype=torch.float64).T
    picked = weights(len(groups), times, generator)
    return central((picked @ sums) / (picked @ counts))


def ranks(numbers: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """From 1; equal numbers have their mean rank."""
    _, place, counts = numbers.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[place]


def auc(numbers: Float[Tensor, " n"], group: Bool[Tensor, " n"]) -> float:
    """Probability that a number of the group is above one of the others, a tie counts half; ½ where either is
    missing."""
    n, others = int(group.sum()), int((~group).sum())
    if not n or not others:
        return 0.5
    return float((ranks(numbers)[group].sum() - n * (n + 1) / 2) / (n * others))
