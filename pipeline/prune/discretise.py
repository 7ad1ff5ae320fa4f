"""From an order of nodes to a circuit: bisect to the smallest number of nodes that meets a target loss (METHOD §4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.data.pairs import PairBatch
from pipeline.model.held import only
from pipeline.model.scoring import mean_loss, score
from pipeline.model.transformer import Transformer
from pipeline.prune.calibrate import calibrate
from pipeline.prune.masks import by_site
from pipeline.prune.search import Means


@dataclass(frozen=True)
class Evaluation:
    """A circuit of the k first nodes: its calibration (from train pairs) and its loss (on validation pairs, nats)."""

    k: int
    loss: float
    calibration: tuple[float, float]


@dataclass
class Ranking:
    """Nodes in order of need; evaluates the circuit of the first k, each k once."""

    model: Transformer
    means: Means
    order: Float[Tensor, " node"]
    fit: PairBatch  # train pairs that calibration is fitted to
    validation: PairBatch
    calibration_steps: int
    seen: dict[int, Evaluation] = field(default_factory=dict)

    def masks(self, k: int) -> dict[str, Float[Tensor, " width"]]:
        """Site key → 1 for the first k nodes, ties to the lower node."""
        flat = torch.zeros_like(self.order)
        flat[self.order.argsort(descending=True, stable=True)[:k]] = 1
        return by_site(flat, self.means)

    def evaluate(self, k: int) -> Evaluation:
        if k not in self.seen:
            changes = only(self.model, self.masks(k), self.means)
            fitted = calibrate(score(self.model, self.fit, **changes), self.calibration_steps)
            loss = mean_loss(score(self.model, self.validation, **changes), fitted)
            self.seen[k] = Evaluation(k, loss, fitted)
        return self.seen[k]

    def smallest(self, target: float) -> Evaluation | None:
        """The fewest first nodes, as bisection finds them, whose loss meets the target; None where none does."""
        kept = int((self.order > 0).sum())
        k = smallest_that(lambda k: self.evaluate(k).loss <= target, start=kept, most=len(self.order))
        return None if k is None else self.evaluate(k)


def smallest_that(holds: Callable[[int], bool], start: int, most: int) -> int | None:
    """The smallest k in 0 … ``most`` that ``holds``, if that is monotone in k; else one whose k − 1 does not.

    Looks upwards from ``start`` by doubling, then bisects. None where not even ``most`` holds.
    """
    high, low = min(max(start, 1), most), -1  # what is known to hold; what is known not to
    while not holds(high):
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
