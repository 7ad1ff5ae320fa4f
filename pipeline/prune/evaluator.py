"""The loss of a circuit by the compact executor: calibrated on train pairs, measured on validation pairs.

Minimisation asks for it thousands of times, and what goes by so few pairs may be missed by others. So a circuit that
meets its target on these has to meet it on further pairs, which are run for it alone: most removals never get so far.
Where a few pairs that go badly make up most of the loss, the mean over new pairs may be much larger: by all pairs, it
has to be nearly sure that over as many new ones it meets the target too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit.compact import Compact, Frozen, Trace
from pipeline.circuit.compact_parts import Edges, Nodes
from pipeline.data.pairs import PairBatch, of_pairs, prompt_losses
from pipeline.model.layout import PackedPrompts
from pipeline.model.scoring import calibrated
from pipeline.prune.calibrate import calibrate

SURE = 2.33  # standard deviations of what is normal, that it exceeds once in a hundred times


@dataclass(frozen=True)
class Evaluation:
    """A circuit's loss in nats on validation pairs and on the train pairs that its calibration was fitted to, that
    calibration, each pair's loss, and what running it left behind, per draw. Where it came to further pairs, what it
    has to answer for by those (``Evaluator.further_loss``), and what running them left behind."""

    validation_loss: float
    fit_loss: float
    calibration: tuple[float, float]
    losses: Float[Tensor, " pair"]
    compacts: tuple[Compact, ...]
    traces: tuple[Trace, ...]
    further_loss: float | None = None
    further_traces: tuple[Trace, ...] = ()

    @property
    def loss(self) -> float:
        """The largest: a circuit that meets a target has to meet it on all, so that none is fitted to."""
        return max(loss for loss in (self.validation_loss, self.fit_loss, self.further_loss) if loss is not None)


class Evaluator:
    """Runs circuits of one model on the same pairs again and again; only what changed is computed again."""

    def __init__(
        self,
        frozen: Sequence[Frozen],
        fit: PairBatch,
        validation: PairBatch,
        steps: int,
        most_scale: float,
        extra: PairBatch | None = None,
    ) -> None:
        """``frozen``: the model with each draw of held values; ``steps`` and ``most_scale`` are calibration's."""
        self.frozen = tuple(frozen)
        self.steps, self.most_scale, self.n_fit_pairs = steps, most_scale, fit.n_pairs
        self.fit, self.validation = fit, validation
        both = stacked(fit.to(torch.device("cpu")), validation.to(torch.device("cpu")))
        self.prompts, self.pairs = PackedPrompts.of(both.tokens, both.last), both
        self.extra = extra and extra.to(torch.device("cpu"))
        self.further_prompts = self.extra and PackedPrompts.of(self.extra.tokens, self.extra.last)

    def smaller(self, share: float) -> Evaluator:
        """A judge of the same models by the first pairs only, and no further ones: faster, and less sure."""
        fit, validation = (
            batch.take(torch.arange(max(1, int(share * batch.n_pairs)))) for batch in (self.fit, self.validation)
        )
        return Evaluator(self.frozen, fit, validation, self.steps, self.most_scale)

    def __call__(self, nodes: Nodes, edges: Edges, target: float = -math.inf) -> Evaluation:
        """The verdict on a circuit, with further pairs where the others meet the target."""
        return self._verdict(self.compacts(nodes, edges), None, 0, target)

    def compacts(self, nodes: Nodes, edges: Edges) -> tuple[Compact, ...]:
        """The circuit to be run, with each draw of held values."""
        return tuple(Compact(frozen, nodes, edges) for frozen in self.frozen)

    def changed(self, before: Evaluation, halves: set[int], nodes: Nodes, edges: Edges, target: float) -> Evaluation:
        """The verdict on a circuit that differs from an earlier one only in some half layers."""
        compacts = tuple(compact.with_halves(halves, nodes, edges) for compact in before.compacts)
        return self._verdict(compacts, before, min(halves), target)

    def _verdict(
        self, compacts: tuple[Compact, ...], before: Evaluation | None, first: int, target: float
    ) -> Evaluation:
        traces = since(before.traces if before else (), compacts, first)
        answers = _answers(compacts, self.prompts, self.pairs, traces, first)
        calibration = calibrate(answers[:, : 2 * self.n_fit_pairs].flatten(0, 1), self.steps, self.most_scale)
        losses = losses_of(answers, calibration)
        means = float(losses[self.n_fit_pairs :].mean()), float(losses[: self.n_fit_pairs].mean())
        found = Evaluation(*means, calibration, losses, compacts, traces)
        if found.loss > target or self.extra is None:
            return found
        known = before.further_traces if before else ()
        traces = since(known, compacts, first)
        extra = self._further(compacts, traces, first if known else 0, calibration, losses)
        return replace(found, further_loss=extra, further_traces=traces)

    def further_loss(
        self, nodes: Nodes, edges: Edges, calibration: tuple[float, float], losses: Float[Tensor, " pair"]
    ) -> float:
        """The loss in nats that a circuit has to answer for by further pairs, by its ``losses`` on the others too.

        That is the further pairs' mean or, if it is more, what the mean over new pairs hardly exceeds, by all pairs.
        −∞ where there are no further pairs.
        """
        if self.extra is None:
            return -math.inf
        compacts = self.compacts(nodes, edges)
        return self._further(compacts, since((), compacts, 0), 0, calibration, losses)

    def all_pairs(self, nodes: Nodes, edges: Edges, calibration: tuple[float, float]) -> tuple[PairBatch, Tensor]:
        """All pairs, and by how much what a circuit has to answer for rises where the loss of each does [pair]."""
        pairs = self.pairs if self.extra is None else stacked(self.pairs, self.extra)
        compacts, prompts = self.compacts(nodes, edges), PackedPrompts.of(pairs.tokens, pairs.last)
        losses = losses_of(_answers(compacts, prompts, pairs, since((), compacts, 0), 0), calibration)
        losses.requires_grad_(True)
        total = losses.mean() if self.extra is None else _most(losses)
        return pairs, torch.autograd.grad(total, losses)[0]

    def _further(
        self,
        compacts: Sequence[Compact],
        traces: Sequence[Trace],
        first: int,
        calibration: tuple[float, float],
        known: Float[Tensor, " pair"],
    ) -> float:
        assert self.extra is not None and self.further_prompts is not None
        losses = losses_of(_answers(compacts, self.further_prompts, self.extra, traces, first), calibration)
        return max(float(losses.mean()), at_most(torch.cat([known, losses])))


def at_most(losses: Float[Tensor, " pair"]) -> float:
    """What the mean loss over as many new pairs hardly exceeds: both means, of these and of those, are uncertain."""
    return float(_most(losses))


def _most(losses: Float[Tensor, " pair"]) -> Float[Tensor, ""]:
    return losses.mean() + SURE * losses.std() * (2 / len(losses)) ** 0.5


def losses_of(answers: Float[Tensor, "draw prompt 2"], calibration: tuple[float, float]) -> Float[Tensor, " pair"]:
    """The task loss in nats of every pair, the mean over draws."""
    return of_pairs(prompt_losses(calibrated(answers, calibration)).mean(0))


def since(traces: Sequence[Trace], compacts: Sequence[Compact], first: int) -> tuple[Trace, ...]:
    """Traces of their own of what came before the ``first`` half layer; empty ones where there are none."""
    return tuple(trace.prefix(first) for trace in traces) or tuple(Trace() for _ in compacts)


@torch.no_grad()
def _answers(
    compacts: Sequence[Compact], prompts: PackedPrompts, pairs: PairBatch, traces: Sequence[Trace], first: int
) -> Float[Tensor, "draw prompt 2"]:
    """Logits of the pairs' answers, for every draw, from the ``first`` half layer on, whose past is in its trace."""
    both = zip(compacts, traces, strict=True)
    return torch.stack([compact.answers(prompts, pairs.answers, trace, first) for compact, trace in both])


def stacked(one: PairBatch, other: PairBatch) -> PairBatch:
    """The pairs of two batches, one after the other."""
    longest = max(one.tokens.shape[1], other.tokens.shape[1])
    tokens = torch.cat([torch.nn.functional.pad(b.tokens, (0, longest - b.tokens.shape[1])) for b in (one, other)])
    return PairBatch(tokens, torch.cat([one.last, other.last]), torch.cat([one.answers, other.answers]))
