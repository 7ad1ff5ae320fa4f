"""From an order of nodes to a circuit: bisect to the smallest number that meets a target loss (§4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit.compact_parts import Edges, Nodes
from pipeline.prune.evaluator import Evaluation, Evaluator
from pipeline.prune.masks import EdgeLayout, UnitLayout

START = 8  # units: small circuits are cheap to run, and looking upwards ends at the first size that does
TOLERANCE = 0.02  # of a large circuit's units, within which bisection stops
STEP = 0.05  # of the units, by which a circuit grows at first that misses the target on further pairs
MORE_TOLERANCE = 0.5  # of what it grows by, within which bisection stops


@dataclass(frozen=True)
class Candidate:
    """A circuit in the making."""

    nodes: Nodes
    edges: Edges
    loss: float  # nats; what it has to answer for (``Evaluation.loss``)
    validation_loss: float
    calibration: tuple[float, float]
    losses: Float[Tensor, " pair"]  # nats, of fit and validation pairs

    @classmethod
    def of(cls, nodes: Nodes, edges: Edges, evaluation: Evaluation) -> Candidate:
        return cls(nodes, edges, evaluation.loss, evaluation.validation_loss, evaluation.calibration, evaluation.losses)

    @property
    def n_nodes(self) -> int:
        return sum(map(len, self.nodes.values()))

    @property
    def n_edges(self) -> int:
        return sum(map(len, self.edges.values()))


@dataclass
class Ranking:
    """Units in order of need; runs the circuit of the first k, each k once."""

    evaluator: Evaluator
    layout: UnitLayout | EdgeLayout
    order: Float[Tensor, " unit"]
    seen: dict[int, Candidate] = field(default_factory=dict)
    checked: dict[int, Candidate] = field(default_factory=dict)  # with further pairs

    def __post_init__(self) -> None:
        self.sequence = self.order.argsort(descending=True, stable=True)

    def first(self, k: int) -> Candidate:
        """The circuit of the first k units; ties to the lower unit."""
        if k not in self.seen:
            mask = torch.zeros_like(self.order)
            mask[self.sequence[:k]] = 1
            nodes, edges = self.layout.circuit(mask, self.evaluator.frozen[0].model)
            self.seen[k] = Candidate.of(nodes, edges, self.evaluator(nodes, edges))
        return self.seen[k]

    def smallest(self, target: float, most: int | None = None) -> Candidate | None:
        """The fewest first units, as bisection finds them, whose loss meets the target; None where none does.

        And then some more of them, where further pairs ask for more. ``most``: units that are tried (None: all).
        """
        most = len(self.order) if most is None else min(most, len(self.order))
        start, low = self.between(target, most)
        k = smallest_that(lambda k: self.first(k).loss <= target, start=start, most=most, low=low)
        if k is not None and self.check(k).loss > target:
            k = self.surer(k, target, most)
        return None if k is None else self.check(k)

    def between(self, target: float, most: int) -> tuple[int, int]:
        """Of the numbers that were run for other targets, the least that meets this one, and the next below it.

        Where none does, where to start, and −1.
        """
        enough = min((k for k, candidate in self.seen.items() if k <= most and candidate.loss <= target), default=None)
        if enough is None:
            return START, -1
        return enough, max((k for k in self.seen if k < enough), default=-1)

    def surer(self, k: int, target: float, most: int) -> int | None:
        """A number above k that meets the target on further pairs too; None where not even ``most`` units do."""

        def enough(more: int) -> bool:
            return self.check(k + more).loss <= target

        more = smallest_that(enough, start=int(STEP * k), most=most - k, tolerance=MORE_TOLERANCE)
        return None if more is None else k + more

    def check(self, k: int) -> Candidate:
        """The same as ``first``, by further pairs too."""
        if k not in self.checked:
            candidate = self.first(k)
            extra = self.evaluator.further_loss(
                candidate.nodes, candidate.edges, candidate.calibration, candidate.losses
            )
            self.checked[k] = replace(candidate, loss=max(candidate.loss, extra))
        return self.checked[k]


def smallest_that(
    holds: Callable[[int], bool], start: int, most: int, tolerance: float = TOLERANCE, low: int = -1
) -> int | None:
    """The smallest k in 0 … ``most`` that ``holds``, if that is monotone in k; else one near one that does not.

    Looks upwards from ``start`` by doubling, then bisects until it is known within ``tolerance`` · k (exactly, for
    small k). None where not even ``most`` holds. ``low``: a k that is known not to.
    """
    high = min(max(start, 1), most)  # what is known to hold
    while not holds(high):
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > max(1, int(tolerance * high)):
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
