"""The loss of a circuit by the compact executor: calibrated on train pairs, measured on validation pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
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
    calibration, and what running it left behind, per draw."""

    validation_loss: float
    fit_loss: float
    calibration: tuple[float, float]
    compacts: tuple[Compact, ...]
    traces: tuple[Trace, ...]

    @property
    def loss(self) -> float:
        """The larger of the two: a circuit that meets a target has to meet it on both, so that none is fitted to."""
        return max(self.validation_loss, self.fit_loss)


class Judge:
    """Runs circuits of one model on the same pairs again and again; only what changed is computed again."""

    def __init__(
        self, frozen: Sequence[Frozen], fit: PairBatch, validation: PairBatch, steps: int, most_scale: float
    ) -> None:
        """``frozen``: the model with each draw of held values; ``steps`` and ``most_scale`` are calibration's."""
        self.frozen = tuple(frozen)
        self.steps, self.most_scale, self.n_fit = steps, most_scale, len(fit.tokens)
        self.fit, self.validation = fit, validation
        both = stacked(fit.to(torch.device("cpu")), validation.to(torch.device("cpu")))
        self.prompts, self.pairs = Prompts.of(both.tokens, both.last), both

    def smaller(self, share: float) -> Judge:
        """A judge of the same models by the first pairs only: faster, and less sure."""
        fit, validation = (
            batch.take(torch.arange(max(1, int(share * batch.n_pairs)))) for batch in (self.fit, self.validation)
        )
        return Judge(self.frozen, fit, validation, self.steps, self.most_scale)

    def __call__(self, nodes: Nodes, edges: Edges) -> Verdict:
        """The verdict on a circuit."""
        return self._verdict(tuple(Compact(frozen, nodes, edges) for frozen in self.frozen), None, 0)

    def changed(self, verdict: Verdict, halves: set[int], nodes: Nodes, edges: Edges) -> Verdict:
        """The verdict on a circuit that differs from an earlier one only in some half layers."""
        compacts = tuple(compact.replaced(halves, nodes, edges) for compact in verdict.compacts)
        return self._verdict(compacts, verdict, min(halves))

    def _verdict(self, compacts: tuple[Compact, ...], before: Verdict | None, first: int) -> Verdict:
        traces = tuple(trace.until(first) for trace in before.traces) if before else tuple(Trace() for _ in compacts)
        with torch.no_grad():
            answers = [
                compact.answers(self.prompts, self.pairs.answers, trace, first)
                for compact, trace in zip(compacts, traces, strict=True)
            ]
        fit, validation = (torch.cat([part[rows] for part in answers]) for rows in self._parts())
        calibration = calibrate(fit, self.steps, self.most_scale)
        losses = mean_loss(validation, calibration), mean_loss(fit, calibration)
        return Verdict(*losses, calibration, compacts, traces)

    def _parts(self) -> tuple[slice, slice]:
        return slice(0, self.n_fit), slice(self.n_fit, None)


def stacked(one: PairBatch, other: PairBatch) -> PairBatch:
    """The pairs of two batches, one after the other."""
    longest = max(one.tokens.shape[1], other.tokens.shape[1])
    tokens = torch.cat([torch.nn.functional.pad(b.tokens, (0, longest - b.tokens.shape[1])) for b in (one, other)])
    return PairBatch(tokens, torch.cat([one.last, other.last]), torch.cat([one.answers, other.answers]))
