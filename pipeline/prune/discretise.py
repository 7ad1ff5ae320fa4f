"""Phase 3: discretise. From scores of units to a circuit: bisect to the fewest that meet a target loss (§4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit.graph import Subgraph
from pipeline.prune import limits
from pipeline.prune.evaluator import Candidate, Evaluator, Measured
from pipeline.prune.masks import EdgeLayout, UnitLayout


@dataclass
class Ranking:
    """Units by descending score; evaluates the circuit of the first k, each k once."""

    evaluator: Evaluator
    layout: UnitLayout | EdgeLayout
    scores: Float[Tensor, " unit"]
    seen: dict[int, Measured] = field(default_factory=dict)
    checked: dict[int, Measured] = field(default_factory=dict)  # on the extra pairs, too

    def __post_init__(self) -> None:
        self.sequence = self.scores.argsort(descending=True, stable=True)

    def first(self, k: int) -> Measured:
        """The circuit of the first k units; of equal scores, the lower unit comes first."""
        if k not in self.seen:
            self.seen[k] = Measured.of(self.evaluator(self.circuit(k)), partial(self.circuit, k))
        return self.seen[k]

    def circuit(self, k: int) -> Subgraph:
        """The first k units and all edges between them."""
        mask = torch.zeros_like(self.scores)
        mask[self.sequence[:k]] = 1
        return self.layout.circuit(mask, self.evaluator.model)

    def check(self, k: int) -> Measured:
        """The same as ``first``, evaluated on the extra pairs, too."""
        if k not in self.checked:
            found = self.first(k)
            self.checked[k] = replace(found, loss=max(found.loss, self.evaluator.extra_loss(found.candidate)))
        return self.checked[k]

    def smallest(self, target: float, max_units: int | None = None) -> Candidate | None:
        """Phase 3: the fewest first units that meet the target (``fewest``), as a circuit."""
        found = self.fewest(target, max_units)
        return None if found is None else found.candidate

    def fewest(self, target: float, max_units: int | None = None) -> Measured | None:
        """The fewest first units, as bisection finds them, whose loss meets the target; None where none does.

        Where they miss it on the extra pairs, more units are added. ``max_units``: that are tried (None: all).
        """
        most = len(self.scores) if max_units is None else min(max_units, len(self.scores))
        # Of the sizes that were run for other targets, the least that meets this one, and the next below it.
        enough = [k for k, found in self.seen.items() if k <= most and found.loss <= target]
        start = min(enough, default=limits.START_UNITS)
        low = max((k for k in self.seen if enough and k < start), default=-1)
        k = smallest_that(lambda k: self.first(k).loss <= target, start=start, most=most, low=low)
        if k is not None and self.check(k).loss > target:
            k = self.grown(k, target, most)
        return None if k is None else self.check(k)

    def grown(self, k: int, target: float, most: int) -> int | None:
        """A size above k that meets the target on the extra pairs, too; None where not even ``most`` units do."""
        start, tolerance = int(limits.GROWTH * k), limits.GROWTH_TOLERANCE
        more = smallest_that(lambda more: self.check(k + more).loss <= target, start, most - k, tolerance)
        return None if more is None else k + more


def smallest_that(
    holds: Callable[[int], bool], start: int, most: int, tolerance: float = limits.TOLERANCE, low: int = -1
) -> int | None:
    """The smallest k in 0 … ``most`` that ``holds``, if that is monotone in k; else some k next to one that does not.

    Doubles from ``start``, then bisects until k is known within ``tolerance`` · k (exactly, for small k). None where
    not even ``most`` holds. ``low``: a k that is known not to hold.
    """
    high = min(max(start, 1), most)  # holds, after the loop
    while not holds(high):
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > max(1, int(tolerance * high)):
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
