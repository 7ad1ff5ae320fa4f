"""The loss of a circuit by the compact executor: calibrated on train pairs, measured on validation pairs.

Phases 3 to 6 evaluate thousands of circuits, so these pairs are few, and a circuit may meet a target on them by chance.
One that does is evaluated on the extra pairs as well, the other train pairs; most circuits are refused before. Where a
few pairs make up most of the loss, the mean over new pairs may be much larger. So the target also has to be above the
upper 99 % bound on the mean loss over an equally large fresh sample.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.background import background
from pipeline.circuit.compact import Compact, Frozen, Trace
from pipeline.circuit.compact_parts import Edges, Nodes
from pipeline.circuit.compact_rows import CompactRows, FrozenRows, RowsTrace
from pipeline.circuit.graph import Subgraph
from pipeline.config import PruneConfig
from pipeline.data.pairs import PairBatch, of_pairs, prompt_losses
from pipeline.model.layout import PackedPrompts
from pipeline.model.scoring import calibrate, calibrated
from pipeline.model.transformer import Transformer
from pipeline.prune.limits import Z_99
from pipeline.rows import Sizes

FIT, VALIDATION, EXTRA = range(3)  # the stages of an evaluation: pairs that a circuit is run on, one after the other
Constant = Mapping[int, Sequence[Frozen]]
Prepared = Mapping[Frozen | FrozenRows, Compact | CompactRows]


@dataclass(frozen=True)
class Candidate(Subgraph):
    """A circuit in the making, with its losses in nats."""

    loss: float  # the largest of those on fit, validation and extra pairs: a target has to be met on all of them
    validation_loss: float  # of several ablations, the largest
    calibration: tuple[float, float]  # scale, shift
    losses: Float[Tensor, "ablation pair"]  # of fit pairs, then validation pairs


@dataclass(frozen=True)
class Measured:
    """A candidate's sizes and losses. Its circuit is made again where it is wanted: the edges of a circuit that is
    nearly all of a large dense model take more than a gigabyte."""

    make: Callable[[], Subgraph]
    n_nodes: int
    n_edges: int
    loss: float
    validation_loss: float
    calibration: tuple[float, float]
    losses: Float[Tensor, "ablation pair"]

    @classmethod
    def of(cls, candidate: Candidate, make: Callable[[], Subgraph]) -> Measured:
        """``make``: makes the candidate's circuit again."""
        shared = (candidate.loss, candidate.validation_loss, candidate.calibration, candidate.losses)
        return cls(make, candidate.n_nodes, candidate.n_edges, *shared)

    @property
    def candidate(self) -> Candidate:
        circuit = self.make()
        return Candidate(circuit.nodes, circuit.edges, self.loss, self.validation_loss, self.calibration, self.losses)


@dataclass(frozen=True)
class Evaluation(Candidate):
    """A circuit's losses in nats, and the state that its runs left for a similar circuit: on the fit pairs and, where
    they were run, on the validation pairs and on the extra ones."""

    runs: tuple[Run, ...]
    extra_loss: float | None = None  # ``Evaluator.extra_loss``; None where the extra pairs were not run

    @property
    def candidate(self) -> Candidate:
        """The circuit with its losses, without the state."""
        return Candidate(**{each.name: getattr(self, each.name) for each in fields(Candidate)})


@dataclass(frozen=True)
class Run:
    """A circuit on some pairs: for each draw of ablation values the circuit ready to be run, and what its run left."""

    compacts: tuple[Compact | CompactRows, ...]
    traces: tuple[Trace | RowsTrace, ...]


@dataclass(frozen=True)
class Executor:
    """Some pairs, and the model with every draw of every ablation's values on them."""

    pairs: PairBatch
    prompts: PackedPrompts
    frozen: tuple[Frozen | FrozenRows, ...]

    @classmethod
    def of(
        cls,
        pairs: PairBatch,
        model: Transformer,
        ablations: Sequence[AblationValues],
        constant: Constant | None = None,
    ) -> Executor:
        """``constant``: the model with values that are the same everywhere, by the place of their ablation, where other
        executors have it already (``constants``)."""
        pairs, constant = pairs.to(torch.device("cpu")), constants(model, ablations) if constant is None else constant
        frozen = [
            constant[i] if i in constant else [FrozenRows(background(model, ablated_to, pairs))]
            for i, ablated_to in enumerate(ablations)
        ]
        return cls(pairs, PackedPrompts.of(pairs.tokens, pairs.last), tuple(one for draws in frozen for one in draws))

    def ready(
        self, circuit: Subgraph, before: Run | None = None, halves: Collection[int] = (), made: Prepared | None = None
    ) -> Run:
        """A circuit ready to be run. ``before``: the run of one that differs from it in some half layers only;
        ``made``: what is ready of it elsewhere."""
        compacts = tuple(
            (made or {}).get(frozen) or (
                before.compacts[i].with_halves(halves, circuit.nodes, circuit.edges)
                if before else compacted(frozen, circuit.nodes, circuit.edges)
            )
            for i, frozen in enumerate(self.frozen)
        )  # fmt: skip
        if before is None:
            return Run(compacts, tuple(compact.new_trace() for compact in compacts))
        return Run(compacts, tuple(trace.prefix(min(halves)) for trace in before.traces))

    @torch.no_grad()
    def answers(self, run: Run, first: int = 0) -> Float[Tensor, "draw prompt 2"]:
        """Logits of the pairs' answers, from the ``first`` half layer on; traces have what is before it."""
        both = zip(run.compacts, run.traces, strict=True)
        return torch.stack([one.answers(self.prompts, self.pairs.answers, trace, first) for one, trace in both])


def constants(model: Transformer, ablations: Sequence[AblationValues]) -> Constant:
    """The model with every draw of the ablations whose values are the same everywhere, by their place."""
    return {
        i: [Frozen(model, draw) for draw in ablated_to.draws]
        for i, ablated_to in enumerate(ablations)
        if not ablated_to.kind.varies
    }


def compacted(frozen: Frozen | FrozenRows, nodes: Nodes, edges: Edges) -> Compact | CompactRows:
    """A circuit ready to be run."""
    return Compact(frozen, nodes, edges) if isinstance(frozen, Frozen) else CompactRows(frozen, nodes, edges)


class Evaluator:
    """Runs circuits of one model on the same pairs again and again; only half layers that changed are run again."""

    def __init__(
        self,
        model: Transformer,
        ablations: Sequence[AblationValues],
        fit: PairBatch,
        validation: PairBatch,
        config: PruneConfig,
        extra: PairBatch | None = None,
    ) -> None:
        """``config``: ``calibration_steps`` and ``most_scale`` of calibration."""
        self.model = model.on_cpu()
        self.ablations = tuple(ablated_to.to(torch.device("cpu")) for ablated_to in ablations)
        self.fit, self.validation, self.config = fit, validation, config
        constant = constants(self.model, self.ablations)
        stages = [pairs for pairs in (fit, validation, extra) if pairs is not None]
        self.stages = [Executor.of(pairs, self.model, self.ablations, constant) for pairs in stages]

    def smaller(self, share: float) -> Evaluator:
        """An evaluator by the first pairs only, and no extra ones: faster, and less reliable."""
        fit, validation = (batch.first(max(1, int(share * batch.n_pairs))) for batch in (self.fit, self.validation))
        return Evaluator(self.model, self.ablations, fit, validation, self.config)

    def __call__(self, circuit: Subgraph, target: float = -math.inf) -> Evaluation:
        """The evaluation of a circuit; on the extra pairs only where it meets the target on the others."""
        return self._evaluate(circuit, (), (), target, least=EXTRA)

    def changed(self, before: Evaluation, halves: set[int], circuit: Subgraph, target: float) -> Evaluation:
        """The evaluation of a circuit that differs from an earlier one only in some half layers; it ends with the first
        pairs on which the circuit misses the target, and its loss is that on them."""
        return self._evaluate(circuit, before.runs, halves, target, least=FIT + 1)

    def _evaluate(
        self, circuit: Subgraph, before: Sequence[Run], halves: Collection[int], target: float, least: int
    ) -> Evaluation:
        """``least``: the stages that are run in any case."""
        runs, losses, found = list[Run](), list[Tensor](), list[float]()
        calibration, made = (1.0, 0.0), dict[Frozen | FrozenRows, Compact | CompactRows]()
        for stage, executor in enumerate(self.stages):
            if stage >= least and max(found) > target:
                break
            known = before[stage] if stage < len(before) else None
            runs.append(executor.ready(circuit, known, halves, made))
            made |= zip(executor.frozen, runs[-1].compacts, strict=True)
            answers = executor.answers(runs[-1], min(halves, default=0) if known else 0)
            if stage == FIT:
                calibration = calibrate(answers.flatten(0, 1), self.config.calibration_steps, self.config.most_scale)
            losses.append(self.pair_losses(answers, calibration))
            found.append(loss_of(losses) if stage == EXTRA else float(losses[-1].mean(1).max()))
        return Evaluation(
            circuit.nodes, circuit.edges, loss=max(found), validation_loss=found[min(VALIDATION, len(found) - 1)],
            calibration=calibration, losses=torch.cat(losses[:EXTRA], dim=1), runs=tuple(runs),
            extra_loss=found[EXTRA] if len(found) > EXTRA else None,
        )  # fmt: skip

    def extra_loss(self, candidate: Candidate) -> float:
        """The loss in nats by the extra pairs, which has to meet a target as well; −∞ where there are none."""
        if len(self.stages) == EXTRA:
            return -math.inf
        executor = self.stages[EXTRA]
        answers = executor.answers(executor.ready(candidate))
        return loss_of([candidate.losses, self.pair_losses(answers, candidate.calibration)])

    def all_pairs(self, candidate: Candidate) -> tuple[PairBatch, Float[Tensor, "ablation pair"]]:
        """All pairs, and ∂(the loss that has to meet a target) / ∂(the loss of each pair)."""
        answers = torch.cat([executor.answers(executor.ready(candidate)) for executor in self.stages], dim=1)
        losses = self.pair_losses(answers, candidate.calibration).requires_grad_(True)
        total = (losses.mean(1) if len(self.stages) == EXTRA else upper_bound(losses)).max()
        pairs = functools.reduce(stacked, (executor.pairs for executor in self.stages))
        return pairs, torch.autograd.grad(total, losses)[0]

    def pair_losses(
        self, answers: Float[Tensor, "draw prompt 2"], calibration: tuple[float, float]
    ) -> Float[Tensor, "ablation pair"]:
        """The task loss in nats of every pair under each ablation, the mean over its draws."""
        return of_pairs(over_draws(prompt_losses(calibrated(answers, calibration)), self.ablations))


def over_draws(values: Float[Tensor, "draw n"], ablations: Sequence[AblationValues]) -> Float[Tensor, "ablation n"]:
    """The mean over the draws of each ablation, whose draws follow each other."""
    each = values.split([len(ablated_to.draws) for ablated_to in ablations])
    return torch.stack([of_ablation.mean(0) for of_ablation in each])


def loss_of(losses: Sequence[Float[Tensor, "ablation pair"]]) -> float:
    """The larger of the mean over the last pairs, the extra ones, and of the upper bound (``upper_bound``) by all."""
    return float(torch.maximum(losses[-1].mean(1), upper_bound(torch.cat(list(losses), dim=1))).max())


def upper_bound(losses: Float[Tensor, "ablation pair"]) -> Float[Tensor, " ablation"]:
    """Upper 99 % bound on the mean loss over an equally large fresh sample, in nats.

    By the normal approximation; both sample means vary, hence 2 / n.
    """
    return losses.mean(1) + Z_99 * losses.std(1) * (2 / losses.shape[1]) ** 0.5


def stacked(one: PairBatch, other: PairBatch) -> PairBatch:
    """The pairs of two batches, one after the other."""
    longest = max(one.tokens.shape[1], other.tokens.shape[1])
    tokens = torch.cat([torch.nn.functional.pad(b.tokens, (0, longest - b.tokens.shape[1])) for b in (one, other)])
    return PairBatch(tokens, torch.cat([one.last, other.last]), torch.cat([one.answers, other.answers]))


def sizes(candidate: Candidate | Measured | None) -> Sizes:
    """Nodes, edges and validation loss in nats of a circuit; None each where there is none."""
    if candidate is None:
        return {"n_nodes": None, "n_edges": None, "validation_loss": None}
    return {"n_nodes": candidate.n_nodes, "n_edges": candidate.n_edges, "validation_loss": candidate.validation_loss}
