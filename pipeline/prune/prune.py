"""One model, one task: all phases, from the gate to the smallest circuit found (§4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.ablation_values import AblationValues, Values
from pipeline.config import Baseline, PruneConfig
from pipeline.data.pairs import PairBatch
from pipeline.model.scoring import mean_loss, score
from pipeline.model.transformer import Transformer
from pipeline.prune import limits
from pipeline.prune.evaluator import Candidate, Measured, sizes
from pipeline.prune.minimise import RemovalPath, minimal
from pipeline.prune.problem import PruneProblem, make_problem
from pipeline.prune.search import NodeMasking, attribution
from pipeline.prune.tune import Tuner
from pipeline.rows import Certificate, CurvePoint, PruneRow, Sizes, TrialRow
from pipeline.seeds import seed_of

OnProgress = Callable[[str], None]
ByTarget = Mapping[float, Candidate | None]  # target loss in nats, the strictest first → the smallest circuit found
MeasuredByTarget = Mapping[float, Measured | None]
Some = TypeVar("Some", Candidate, Measured)


@dataclass(frozen=True)
class Pruned:
    """A summary row, the circuit where the model does the task, and a row a trial."""

    row: PruneRow
    circuit: Circuit | None
    trials: list[TrialRow]


def prune_task(
    *,
    model: Transformer,
    means: Values,
    batches: Mapping[str, PairBatch],
    config: PruneConfig,
    seed: int,
    about: Mapping[str, Any],
    ablations: Sequence[AblationValues] = (),
    storage: Path | None = None,
    on_progress: OnProgress = lambda what: None,
) -> Pruned:
    """All phases: the smallest circuit for a task at ``config.target_loss``; none where the model fails the gate.

    ``batches`` has the train, validation and test pairs; test pairs are only reported on, never chosen by.
    ``ablations``: the complement's values; the target has to be met under each (none: ``means``).
    ``about`` (model, task, hashes) goes into the circuit.
    ``storage``: a folder in which an interrupted search goes on. ``on_progress`` is told the step that begins.
    """
    row = empty_row() | {
        "unpruned_loss": mean_loss(score(model, batches["test"])),
        "unpruned_validation_loss": mean_loss(score(model, batches["validation"])),
    }
    if row["unpruned_validation_loss"] > config.target_loss:  # Phase 1: gate
        return Pruned(row, None, [])
    problem = make_problem(model, ablations or [AblationValues.at_means(means)], batches, config, seed)
    tuner = Tuner(problem, storage)
    tuner.run(on_progress)  # Phase 2: search, and Phase 3: discretise, of every trial
    trials, best = tuner.table(), list(islice(tuner.best(), limits.N_STARTS))
    row |= {"n_trials": len(trials)}
    if not best:
        return Pruned(row, None, trials)
    trial, ranking = best[0]
    discretised = ranking.fewest(config.target_loss)
    on_progress("minimise")
    rankings = [ranking for _, ranking in best]
    targets = sorted({*config.curve_losses, config.target_loss})
    first = {target: smallest(ranking.fewest(target) for ranking in rankings) for target in targets}
    curve, certificate = minimise(first, problem)
    candidate = curve[config.target_loss]
    assert isinstance(candidate, Candidate)
    found = {"target_loss": config.target_loss, "validation_loss": candidate.validation_loss}
    circuit = Circuit(
        nodes=candidate.nodes,
        edges=candidate.edges,
        means={key: value.cpu() for key, value in means.items()},
        scores={key: torch.clone(scores) for key, scores in problem.masking.layout.by_site(ranking.scores).items()},
        ablations=problem.evaluator.ablations,
        calibration=candidate.calibration,
        about=dict(about) | found | {"hyperparameters": trial.params},
        certificate=certificate,
    )
    row |= {
        "n_nodes": candidate.n_nodes,
        "n_edges": candidate.n_edges,
        "validation_loss": candidate.validation_loss,
        "solved": True,
        "target_loss": config.target_loss,
        "discretised": sizes(discretised),
        "calibration_scale": candidate.calibration[0],
        "hyperparameters": trial.params,
        "one_minimal": certificate is not None,
        "curve": [point(target, curve[target], first[target]) for target in config.curve_losses],
    }
    on_progress("baselines")
    row["baselines"] = baselines(problem)
    return Pruned(row, circuit, trials)


def empty_row() -> PruneRow:
    """A summary row of a task without a circuit."""
    return {
        "unpruned_loss": None, "unpruned_validation_loss": None, "n_nodes": None, "n_edges": None,
        "validation_loss": None, "discretised": None, "calibration_scale": None, "hyperparameters": None,
        "n_trials": None, "one_minimal": None, "solved": False, "curve": [], "baselines": {},
    }  # fmt: skip


def point(target: float, candidate: Candidate | Measured | None, discretised: Measured | None) -> CurvePoint:
    """A point of the loss-size curve; ``discretised``: its circuit before minimisation."""
    found = sizes(candidate)
    return {
        "target_loss": target,
        "loss": found["validation_loss"],
        "n_nodes": found["n_nodes"],
        "n_edges": found["n_edges"],
        "discretised": sizes(discretised),
    }


def minimise(
    discretised: MeasuredByTarget, problem: PruneProblem
) -> tuple[Mapping[float, Candidate | Measured | None], Certificate | None]:
    """Phases 4 to 6: the smallest circuit of every target of the curve and, 1-minimal, of the main target.

    ``discretised``: those of Phase 3. Also the main circuit's certificate. Of circuits that are too large to be
    minimised only the main target's is made. Raises ValueError where none meets the main target.
    """
    main = problem.config.target_loss
    enough = discretised[main]
    if enough is not None and enough.n_edges > problem.config.max_minimised_edges:
        return {**discretised, main: enough.candidate}, None
    made = {target: None if found is None else found.candidate for target, found in discretised.items()}
    learned = learn_edges(problem, made, main)
    start = start_of(learned, main, limits.MAX_START_EXTRA)
    path = RemovalPath(problem, start, max(discretised))
    curve = {target: smallest([candidate, path.smallest(target)]) for target, candidate in learned.items()}
    curve[main], certificate = minimal(problem, curve[main] or start, main)
    return curve, certificate


def learn_edges(problem: PruneProblem, found: ByTarget, main: float) -> ByTarget:
    """Phase 4: edges. The smallest circuit of each target by learned masks over edges, too.

    Each search starts where the last one ended; none is made where all edges are few enough to be tried.
    """
    found = dict(found)
    for k_coefs in limits.EDGE_K_COEFS:
        if start_of(found, main, limits.MAX_START_EXTRA).n_edges <= limits.MAX_TRIED_EDGES:
            break
        for ranking in problem.edge_rankings(start_of(found, main), k_coefs):
            for target, candidate in found.items():
                max_edges = int(limits.MAX_LEARNED_RATIO * candidate.n_edges) if candidate else None
                found[target] = smallest([candidate, ranking.smallest(target, max_edges)])
    return found


def start_of(found: ByTarget, main: float, max_extra: float = math.inf) -> Candidate:
    """The circuit to remove edges from: that of the strictest target met, if it is not too large.

    Removal from a circuit of lower loss than needed ends at smaller circuits than removal from one that just meets the
    target. ``max_extra``: edges that it may have beyond the main target's. Raises ValueError where no circuit meets the
    main target.
    """
    enough = found[main]
    if enough is None:
        raise ValueError(f"no circuit reaches a loss of {main} nats")
    most = min(limits.MAX_START_RATIO * enough.n_edges, enough.n_edges + max_extra)
    return next(candidate for candidate in found.values() if candidate and candidate.n_edges <= most)


def smallest(candidates: Iterable[Some | None]) -> Some | None:
    """The circuit of fewest edges, None for none."""
    return min(filter(None, candidates), key=lambda candidate: candidate.n_edges, default=None)


def baselines(problem: PruneProblem) -> dict[str, Sizes]:
    """Baseline → size of the circuit that Phase 3 makes of its scores at the target loss.

    Baselines are ways to score nodes without learning a mask: learned pruning has to give smaller circuits (the paper's
    Fig 31).
    """
    pairs, found = problem.train.first(limits.BASELINE_PAIRS), {}
    for kind in problem.config.baselines:
        seed = seed_of(problem.seed, "baseline", kind.value)
        scores = baseline_scores(kind, problem.masking, pairs, seed, problem.config.batch_pairs)
        found[kind.value] = sizes(problem.ranking(scores).fewest(problem.config.target_loss))
    return found


def baseline_scores(
    kind: Baseline, masking: NodeMasking, pairs: PairBatch, seed: int, chunk: int
) -> Float[Tensor, " unit"]:
    """Every unit's score by a baseline, the larger the more needed; ``pairs`` are run ``chunk`` at a time.

    Attributions are of the task loss: a unit that lowers it is needed.
    """
    ones = torch.ones(masking.layout.n_units)
    if kind is Baseline.RANDOM:
        return torch.rand(len(ones), generator=torch.Generator().manual_seed(seed))
    if kind is Baseline.ATTRIBUTION:
        return attribution(masking, ones, pairs, chunk)
    shares = (torch.arange(limits.INTEGRAL_STEPS) + 0.5) / limits.INTEGRAL_STEPS
    return torch.stack([attribution(masking, share * ones, pairs, chunk) for share in shares]).mean(0)
