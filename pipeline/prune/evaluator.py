"""The loss of a circuit by the compact executor: calibrated on train pairs, measured on validation pairs.

Phases 3 to 6 evaluate thousands of circuits, so these pairs are few, and a circuit may meet a target on them by chance.
One that does is evaluated on the extra pairs as well, the other train pairs; most circuits are refused before. Where a
few pairs make up most of the loss, the mean over new pairs may be much larger. So the target also has to be above the
upper 99 % bound on the mean loss over an equally large fresh sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit.compact import Compact, Frozen, Trace
from pipeline.circuit.graph import Subgraph
from pipeline.data.pairs import PairBatch, of_pairs, prompt_losses
from pipeline.kernels.calibrate_cpu import margin_loss, newton
from pipeline.model.layout import PackedPrompts
from pipeline.model.scoring import calibrated
from pipeline.prune.limits import MIN_SCALE, Z_99
from pipeline.rows import Sizes


@dataclass(frozen=True)
class Candidate(Subgraph):
    """A circuit in the making, with its losses in nats."""

    loss: float  # the largest of those on fit, validation and extra pairs: a target has to be met on all of them
    validation_loss: float
    calibration: tuple[float, float]  # scale, shift
    losses: Float[Tensor, " pair"]  # of fit pairs, then validation pairs


@dataclass(frozen=True)
class Evaluation(Candidate):
    """A circuit's losses in nats, and per draw of ablation values the state that its run left for a similar circuit."""

    compacts: tuple[Compact, ...]
    traces: tuple[Trace, ...]
    extra_loss: float | None = None  # ``Evaluator.extra_loss``; None where the extra pairs were not run
    extra_traces: tuple[Trace, ...] = ()

    @property
    def candidate(self) -> Candidate:
        """The circuit with its losses, without the state."""
        return Candidate(**{each.name: getattr(self, each.name) for each in fields(Candidate)})


class Evaluator:
    """Runs circuits of one model on the same pairs again and again; only half layers that changed are run again."""

    def __init__(
        self,
        frozen: Sequence[Frozen],
        fit: PairBatch,
        validation: PairBatch,
        steps: int,
        most_scale: float,
        extra: PairBatch | None = None,
    ) -> None:
        """``frozen``: the model with each draw of ablation values; ``steps`` and ``most_scale`` are calibration's."""
        self.frozen = tuple(frozen)
        self.steps, self.most_scale, self.n_fit_pairs = steps, most_scale, fit.n_pairs
        self.fit, self.validation = fit, validation
        self.pairs = stacked(fit.to(torch.device("cpu")), validation.to(torch.device("cpu")))
        self.prompts = PackedPrompts.of(self.pairs.tokens, self.pairs.last)
        self.extra = extra and extra.to(torch.device("cpu"))
        self.extra_prompts = self.extra and PackedPrompts.of(self.extra.tokens, self.extra.last)

    def smaller(self, share: float) -> Evaluator:
        """An evaluator by the first pairs only, and no extra ones: faster, and less reliable."""
        fit, validation = (batch.first(max(1, int(share * batch.n_pairs))) for batch in (self.fit, self.validation))
        return Evaluator(self.frozen, fit, validation, self.steps, self.most_scale)

    def __call__(self, circuit: Subgraph, target: float = -math.inf) -> Evaluation:
        """The evaluation of a circuit; on the extra pairs only where it meets the target on the others."""
        return self._evaluate(circuit, self.compacts(circuit), None, 0, target)

    def compacts(self, circuit: Subgraph) -> tuple[Compact, ...]:
        """The circuit ready to be run, with each draw of ablation values."""
        return tuple(Compact(frozen, circuit.nodes, circuit.edges) for frozen in self.frozen)

    def changed(self, before: Evaluation, halves: set[int], circuit: Subgraph, target: float) -> Evaluation:
        """The evaluation of a circuit that differs from an earlier one only in some half layers."""
        compacts = tuple(compact.with_halves(halves, circuit.nodes, circuit.edges) for compact in before.compacts)
        return self._evaluate(circuit, compacts, before, min(halves), target)

    def _evaluate(
        self, circuit: Subgraph, compacts: tuple[Compact, ...], before: Evaluation | None, first: int, target: float
    ) -> Evaluation:
        traces = prefixes(before.traces if before else (), compacts, first)
        answers = _answers(compacts, self.prompts, self.pairs, traces, first)
        calibration = calibrate(answers[:, : 2 * self.n_fit_pairs].flatten(0, 1), self.steps, self.most_scale)
        losses = pair_losses(answers, calibration)
        validation_loss, fit_loss = float(losses[self.n_fit_pairs :].mean()), float(losses[: self.n_fit_pairs].mean())
        loss = max(validation_loss, fit_loss)
        found = Evaluation(circuit.nodes, circuit.edges, loss, validation_loss, calibration, losses, compacts, traces)
        if loss > target or self.extra is None:
            return found
        known = before.extra_traces if before else ()
        extra_traces = prefixes(known, compacts, first)
        extra_loss = self.extra_loss(found, compacts, extra_traces, first if known else 0)
        return replace(found, loss=max(loss, extra_loss), extra_loss=extra_loss, extra_traces=extra_traces)

    def extra_loss(
        self, candidate: Candidate, compacts: Sequence[Compact] = (), traces: Sequence[Trace] = (), first: int = 0
    ) -> float:
        """The loss in nats by the extra pairs, which has to meet a target as well; −∞ where there are no extra pairs.

        It is the larger of their mean and of the upper bound (``upper_bound``) by all pairs. ``compacts``, ``traces``:
        the candidate's, where they are known, with all that is before the ``first`` half layer.
        """
        if self.extra is None or self.extra_prompts is None:
            return -math.inf
        answers = _answers(compacts or self.compacts(candidate), self.extra_prompts, self.extra, traces, first)
        extra = pair_losses(answers, candidate.calibration)
        return max(float(extra.mean()), float(upper_bound(torch.cat([candidate.losses, extra]))))

    def all_pairs(self, candidate: Candidate) -> tuple[PairBatch, Float[Tensor, " pair"]]:
        """All pairs, and ∂(the loss that has to meet a target) / ∂(the loss of each pair)."""
        pairs = self.pairs if self.extra is None else stacked(self.pairs, self.extra)
        compacts, prompts = self.compacts(candidate), PackedPrompts.of(pairs.tokens, pairs.last)
        losses = pair_losses(_answers(compacts, prompts, pairs), candidate.calibration).requires_grad_(True)
        total = losses.mean() if self.extra is None else upper_bound(losses)
        return pairs, torch.autograd.grad(total, losses)[0]


def calibrate(answers: Float[Tensor, "prompt 2"], steps: int, most_scale: float) -> tuple[float, float]:
    """(scale, shift) that minimise the task loss of ``answers``, after ``steps`` of Newton; never worse than (1, 0).

    The paper takes 16 steps of LBFGS (§4). The loss is convex in these two numbers, so Newton's steps reach the same
    minimum in a thousandth of the time, and Phases 5 and 6 calibrate after every removal. Where a circuit prefers the
    right answer in all fit pairs there is no minimum, since the loss falls with any larger scale: the scale stops at a
    bound.

    The shift is added to the logit of side a's answer; a second one, for side b's, would add nothing. The scale stays
    within [``MIN_SCALE``, ``most_scale``].
    """
    margin = (answers[:, 0] - answers[:, 1]).double().cpu().numpy()
    scale, shift = newton(margin, steps, MIN_SCALE, most_scale)
    return (scale, shift) if margin_loss(margin, scale, shift) < margin_loss(margin, 1.0, 0.0) else (1.0, 0.0)


def upper_bound(losses: Float[Tensor, " pair"]) -> Float[Tensor, ""]:
    """Upper 99 % bound on the mean loss over an equally large fresh sample, in nats.

    By the normal approximation; both sample means vary, hence 2 / n.
    """
    return losses.mean() + Z_99 * losses.std() * (2 / len(losses)) ** 0.5


def pair_losses(answers: Float[Tensor, "draw prompt 2"], calibration: tuple[float, float]) -> Float[Tensor, " pair"]:
    """The task loss in nats of every pair, the mean over draws."""
    return of_pairs(prompt_losses(calibrated(answers, calibration)).mean(0))


def prefixes(traces: Sequence[Trace], compacts: Sequence[Compact], first: int) -> tuple[Trace, ...]:
    """Copies of the traces up to the ``first`` half layer; empty traces where there are none."""
    return tuple(trace.prefix(first) for trace in traces) or tuple(Trace() for _ in compacts)


@torch.no_grad()
def _answers(
    compacts: Sequence[Compact], prompts: PackedPrompts, pairs: PairBatch, traces: Sequence[Trace] = (), first: int = 0
) -> Float[Tensor, "draw prompt 2"]:
    """Logits of the pairs' answers, for every draw, from the ``first`` half layer on; traces have what is before it."""
    both = zip(compacts, traces or prefixes((), compacts, 0), strict=True)
    return torch.stack([compact.answers(prompts, pairs.answers, trace, first) for compact, trace in both])


def stacked(one: PairBatch, other: PairBatch) -> PairBatch:
    """The pairs of two batches, one after the other."""
    longest = max(one.tokens.shape[1], other.tokens.shape[1])
    tokens = torch.cat([torch.nn.functional.pad(b.tokens, (0, longest - b.tokens.shape[1])) for b in (one, other)])
    return PairBatch(tokens, torch.cat([one.last, other.last]), torch.cat([one.answers, other.answers]))


def sizes(candidate: Candidate | None) -> Sizes:
    """Nodes, edges and validation loss in nats of a circuit; None each where there is none."""
    if candidate is None:
        return {"n_nodes": None, "n_edges": None, "validation_loss": None}
    return {"n_nodes": candidate.n_nodes, "n_edges": candidate.n_edges, "validation_loss": candidate.validation_loss}
