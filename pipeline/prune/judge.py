"""The loss of a circuit by the compact executor: calibrated on train pairs, measured on validation pairs.

Minimisation asks for it thousands of times, and what goes by so few pairs may be missed by others. So a circuit that
meets its target on these has to meet it on further pairs, which are run for it alone: most removals never get so far.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.data.pairs import PairBatch
from pipeline.model.compact import Compact, Frozen, Prompts, Trace
from pipeline.model.scoring import mean_loss
from pipeline.prune.calibrate import calibrate

Nodes = Mapping[str, Int[Tensor, " n"]]
Edges = Mapping[str, Int[Tensor, "n 2"]]


@dataclass(frozen=True)
class Verdict:
    """A circuit's loss in nats on validation pairs and on the train pairs that its calibration was fitted to, that
    calibration, and what running it left behind, per draw; its loss on further pairs, where it came to those."""

    validation_loss: float
    fit_loss: float
    calibration: tuple[float, float]
    compacts: tuple[Compact, ...]
    traces: tuple[Trace, ...]
    further_loss: float | None = None

    @property
    def loss(self) -> float:
        """The largest: a circuit that meets a target has to meet it on all, so that none is fitted to."""
        return max(loss for loss in (self.validation_loss, self.fit_loss, self.further_loss) if loss is not None)


class Judge:
    """Runs circuits of one model on the same pairs again and again; only what changed is computed again."""

    def __init__(
        self,
        frozen: Sequence[Frozen],
        fit: PairBatch,
        validation: PairBatch,
        steps: int,
        most_scale: float,
        further: PairBatch | None = None,
    ) -> None:
        """``frozen``: the model with each draw of held values; ``steps`` and ``most_scale`` are calibration's."""
        self.frozen = tuple(frozen)
        self.steps, self.most_scale, self.n_fit = steps, most_scale, len(fit.tokens)
        self.fit, self.validation = fit, validation
        both = stacked(fit.to(torch.device("cpu")), validation.to(torch.device("cpu")))
        self.prompts, self.pairs = Prompts.of(both.tokens, both.last), both
        self.further = further and further.to(torch.device("cpu"))

    def smaller(self, share: float) -> Judge:
        """A judge of the same models by the first pairs only, and no further ones: faster, and less sure."""
        fit, validation = (
            batch.take(torch.arange(max(1, int(share * batch.n_pairs)))) for batch in (self.fit, self.validation)
        )
        return Judge(self.frozen, fit, validation, self.steps, self.most_scale)

    def __call__(self, nodes: Nodes, edges: Edges, target: float = -math.inf) -> Verdict:
        """The verdict on a circuit, with further pairs where the others meet the target."""
        return self._verdict(tuple(Compact(frozen, nodes, edges) for frozen in self.frozen), None, 0, target)

    def changed(self, before: Verdict, halves: set[int], nodes: Nodes, edges: Edges, target: float) -> Verdict:
        """The verdict on a circuit that differs from an earlier one only in some half layers."""
        compacts = tuple(compact.replaced(halves, nodes, edges) for compact in before.compacts)
        return self._verdict(compacts, before, min(halves), target)

    def _verdict(self, compacts: tuple[Compact, ...], before: Verdict | None, first: int, target: float) -> Verdict:
        traces = tuple(trace.until(first) for trace in before.traces) if before else tuple(Trace() for _ in compacts)
        answers = _answers(compacts, self.prompts, self.pairs, traces, first)
        fit, validation = (answers[:, rows].flatten(0, 1) for rows in self._parts())
        calibration = calibrate(fit, self.steps, self.most_scale)
        losses = mean_loss(validation, calibration), mean_loss(fit, calibration)
        found = Verdict(*losses, calibration, compacts, traces)
        if found.loss > target or self.further is None:
            return found
        return replace(found, further_loss=self._loss_on(self.further, compacts, calibration))

    def _parts(self) -> tuple[slice, slice]:
        return slice(0, self.n_fit), slice(self.n_fit, None)

    def further_loss(self, nodes: Nodes, edges: Edges, calibration: tuple[float, float]) -> float:
        """A circuit's loss in nats on the further pairs; −∞ where there are none."""
        if self.further is None:
            return -math.inf
        return self._loss_on(self.further, [Compact(frozen, nodes, edges) for frozen in self.frozen], calibration)

    def _loss_on(self, pairs: PairBatch, compacts: Sequence[Compact], calibration: tuple[float, float]) -> float:
        prompts = Prompts.of(pairs.tokens, pairs.last)
        return mean_loss(_answers(compacts, prompts, pairs, [Trace() for _ in compacts], 0).flatten(0, 1), calibration)


@torch.no_grad()
def _answers(
    compacts: Sequence[Compact], prompts: Prompts, pairs: PairBatch, traces: Sequence[Trace], first: int
) -> Float[Tensor, "draw prompt 2"]:
    """Logits of the pairs' answers, for every draw, from the ``first`` half layer on, whose past is in its trace."""
    both = zip(compacts, traces, strict=True)
    return torch.stack([compact.answers(prompts, pairs.answers, trace, first) for compact, trace in both])


def stacked(one: PairBatch, other: PairBatch) -> PairBatch:
    """The pairs of two batches, one after the other."""
    longest = max(one.tokens.shape[1], other.tokens.shape[1])
    tokens = torch.cat([torch.nn.functional.pad(b.tokens, (0, longest - b.tokens.shape[1])) for b in (one, other)])
    return PairBatch(tokens, torch.cat([one.last, other.last]), torch.cat([one.answers, other.answers]))
