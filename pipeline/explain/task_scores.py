"""How well a place tells a node's values apart: of the two sides there, and there of everywhere else.

Sums over groups of positions are enough: how many they are, of the values, of their ranks, of their slopes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.explain.task_places import TaskPlace, TaskPlaces
from pipeline.stats import auc, ranks

ROUNDING = 1e-4  # of the largest magnitude: differences that count as none


def in_steps(numbers: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Numbers in whole steps, so that those that differ by rounding only are equal."""
    return (numbers / (ROUNDING * numbers.abs().max().clamp(min=1e-30))).round() if len(numbers) else numbers


def ranks_of(numbers: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """From 1, the mean rank of numbers that are equal but for rounding."""
    return ranks(in_steps(numbers))


def auc_of(numbers: Float[Tensor, " n"], group: Bool[Tensor, " n"]) -> float:
    """``stats.auc``, numbers that are equal but for rounding being equal."""
    return auc(in_steps(numbers), group)


@dataclass(frozen=True)
class Contrast:
    """Two groups of values: AUC of the first against the second, both means, and ``moves``: the logits by which the
    difference of the means moves the answer, to first order."""

    auc: Float[Tensor, " place"]
    mean: Float[Tensor, " place"]
    other: Float[Tensor, " place"]
    moves: Float[Tensor, " place"]


class Half:
    """One half of the prompts, and which of its positions each place has."""

    def __init__(self, places: TaskPlaces, rows: Int[Tensor, " n"]) -> None:
        self.places, self.rows, self.there = places, rows, places.there[rows]
        self.tokens = places.batch.tokens[rows][self.there]
        self.previous = places.previous[rows][self.there]
        self.side_a = places.side_a[rows]

    @cached_property
    def fixed(self) -> list[TaskPlace]:
        """Places that are the same for every node."""
        return [*self.places.named, *self.places.kinds, *self.places.early]

    @cached_property
    def members(self) -> Float[Tensor, "place n"]:
        """1 where a position of this half belongs to a fixed place."""
        return torch.stack([place.mask[self.rows][self.there] for place in self.fixed]).double()

    def columns(
        self, values: Float[Tensor, "prompt pos"], slopes: Float[Tensor, "prompt pos"]
    ) -> Float[Tensor, "n column"]:
        """1, rank, value, steepness of each position of this half."""
        x, s = (numbers[self.rows][self.there].double() for numbers in (values, slopes))
        return torch.stack([torch.ones_like(x), ranks_of(x), x, s.abs()], dim=1)

    def by_token(self, columns: Float[Tensor, "n column"], follows: bool, n_tokens: int) -> Tensor:
        """Sums of the columns by the token of a position, or the one before it: [token, column]."""
        tokens = self.previous if follows else self.tokens
        some = tokens >= 0
        sums = torch.zeros(n_tokens, columns.shape[1], dtype=columns.dtype)
        return sums.index_add_(0, tokens[some], columns[some])

    def against_elsewhere(self, sums: Tensor, whole: Tensor) -> Contrast:
        """Groups of positions, by the sums of their columns [group, column], against all other positions."""
        n, of_ranks, values, steep = sums.T
        others = whole[0] - n
        found = (of_ranks - n * (n + 1) / 2) / (n * others).clamp(min=1)
        mean, other = values / n.clamp(min=1), (whole[2] - values) / others.clamp(min=1)
        known = (n > 0) & (others > 0)
        moves = (mean - other).abs() * steep / len(self.rows)
        return Contrast(torch.where(known, found, 0.5), mean, other, torch.where(known, moves, 0))

    def distinct(
        self, places: Sequence[TaskPlace], found: Contrast, values: Float[Tensor, "prompt pos"]
    ) -> Float[Tensor, " place"]:
        """How well each place is told by its positions being nearer to its mean than to the others' (F1): low where the
        node is as high at many others."""
        x = values[self.rows][self.there]
        inside = torch.stack([place.mask[self.rows][self.there] for place in places])
        high, middle = found.mean > found.other, (found.mean + found.other) / 2
        nearer = (x > middle[:, None]) == high[:, None]
        return 2 * (inside & nearer).sum(1) / (inside.sum(1) + nearer.sum(1)).clamp(min=1)

    def of_sides(self, values: Tensor, slopes: Tensor, least: int) -> Contrast:
        """Side a against side b at each named place; nothing is told where a side has fewer than ``least`` prompts."""
        masks = torch.stack([place.mask[self.rows] for place in self.places.named])
        n = masks.sum(-1)
        means = (masks * values[self.rows]).sum(-1) / n.clamp(min=1)  # [place, prompt]
        steep = (masks * slopes[self.rows].abs()).sum(-1).mean(-1)
        sides = [(n > 0) & side for side in (self.side_a, ~self.side_a)]
        a, b = ((means * side).sum(-1) / side.sum(-1).clamp(min=1) for side in sides)
        known = torch.stack([side.sum(-1) >= least for side in sides]).all(0)
        aucs = [auc_of(row[n_row > 0], self.side_a[n_row > 0]) for row, n_row in zip(means, n, strict=True)]
        moves = torch.where(known, (a - b).abs() * steep, 0)
        return Contrast(torch.where(known, torch.tensor(aucs), 0.5), a, b, moves)
