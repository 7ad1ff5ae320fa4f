"""One model, one task: gate, search, discretise, calibrate, minimise; the smallest circuit found (§4)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.ablation_values import AblationValues, Values
from pipeline.circuit.compact import Frozen
from pipeline.circuit.compact_parts import Edges, Nodes
from pipeline.circuit.graph import Item, Parts, ends
from pipeline.config import PruneConfig
from pipeline.data.pairs import PairBatch
from pipeline.model.scoring import mean_loss, score
from pipeline.model.transformer import Transformer
from pipeline.prune.baselines import baseline_order
from pipeline.prune.discretise import Candidate, Ranking
from pipeline.prune.edge_search import K_COEFS, EdgeMasking, edge_rankings, edge_worths
from pipeline.prune.evaluator import Evaluator
from pipeline.prune.minimise import RemovalCosts, RemovalPath, minimal
from pipeline.prune.search import Masking
from pipeline.prune.tune import Tuner
from pipeline.rows import Certificate, CurvePoint, PruneRow, Sizes, TrialRow
from pipeline.seeds import seed_of

SHARE = 0.5  # of the pairs, by which it is decided what goes on the way
MOST = 4.0  # times the main target's edges, that learning edges and a trail may start from
MORE = 300  # edges more than the main target's, that a trail may start from, for speed
DEAD = 1.25  # times the edges of a circuit that a learned one may have before its dead ends are left out
MANY = 1000  # edges, above which learning which of them are needed is faster than trying
STARTS = 2  # of the best trials' rankings, that minimisation may start from
BASELINE_PAIRS = 32  # on which attributions are taken
WORTH_PAIRS = 16  # on which the worth of items is estimated; what goes is decided on all validation pairs
OnProgress = Callable[[str], None]


@dataclass(frozen=True)
class Pruned:
    """What pruning found: a summary row, the circuit where the model does the task, and a row a trial."""

    row: PruneRow
    circuit: Circuit | None
    trials: list[TrialRow]


@dataclass(frozen=True)
class PruneProblem:
    """A model and a task, ready to be pruned."""

    masking: Masking
    evaluator: Evaluator
    train: PairBatch
    config: PruneConfig
    seed: int

    def edge_masking(self, nodes: Nodes, edges: Edges) -> EdgeMasking:
        """Masks over the edges of a circuit."""
        return EdgeMasking.of(self.masking.model, self.masking.ablated_to, nodes, edges, self.config.tie_qk)

    def edge_rankings(self, candidate: Candidate, k_coefs: Sequence[float] = K_COEFS[0]) -> list[Ranking]:
        """Rankings of a circuit's edges, by learned masks."""
        masking = self.edge_masking(candidate.nodes, candidate.edges)
        return edge_rankings(masking, self.evaluator, self.train, self.config, k_coefs, self.seed)

    def worth(self, parts: Parts) -> dict[Item, float]:
        """Estimated worth of every item of a circuit, in nats, by a few pairs."""
        pairs = self.train.take(torch.arange(min(WORTH_PAIRS, self.train.n_pairs)))
        return self._worth(parts, pairs, torch.full((pairs.n_pairs,), 1 / pairs.n_pairs))

    def costs(self, candidate: Candidate) -> RemovalCosts:
        """What single removals from a circuit will cost, estimated by all pairs."""
        parts = Parts(candidate.nodes, candidate.edges)
        pairs, weights = self.evaluator.all_pairs(candidate.nodes, candidate.edges, candidate.calibration)
        return RemovalCosts.estimated(parts, self._worth(parts, pairs, weights, candidate.calibration))

    def _worth(
        self, parts: Parts, pairs: PairBatch, weights: Tensor, calibration: tuple[float, float] = (1.0, 0.0)
    ) -> dict[Item, float]:
        values = edge_worths(self.edge_masking(parts.nodes, parts.edges), pairs, weights, calibration)
        return with_nodes(dict(zip(parts.list_edges(), values.tolist(), strict=True)))


def with_nodes(worths: Mapping[Item, float]) -> dict[Item, float]:
    """The worth of edges, and of each node that of all edges from it, or to it where there are none from it."""
    into, out = defaultdict[Item, float](float), defaultdict[Item, float](float)
    for edge, value in worths.items():
        source, target = ends(edge)
        out[source] += value
        into[target] += value
    return {**worths, **into, **out}


def prune_task(
    *,
    model: Transformer,
    means: Values,
    batches: Mapping[str, PairBatch],
    config: PruneConfig,
    seed: int,
    about: Mapping[str, Any],
    ablated_to: AblationValues | None = None,
    storage: Path | None = None,
    on_progress: OnProgress = lambda what: None,
) -> Pruned:
    """The smallest circuit for a task at ``config.target_loss``, or none where the model does not do the task unpruned.

    ``batches`` has the train, validation and test pairs; test pairs are only reported on, never chosen by.
    ``ablated_to``: what everything outside the circuit is held at (None: ``means``). ``about`` (model, task, hashes)
    goes into the circuit. ``storage``: a folder in which an interrupted search goes on. ``on_progress`` is told what is
    being done.
    """
    row = empty_row() | {
        "unpruned_loss": mean_loss(score(model, batches["test"])),
        "unpruned_validation_loss": mean_loss(score(model, batches["validation"])),
    }
    if row["unpruned_validation_loss"] > config.target_loss:
        return Pruned(row, None, [])
    problem = make_problem(model, ablated_to or AblationValues.at_means(means), batches, config, seed)
    tuner = Tuner(problem.masking, problem.evaluator, problem.train, config, seed, storage)
    tuner.run(on_progress)
    trials = tuner.table()
    best = next(tuner.best(), None)
    row |= {"n_trials": len(trials)}
    if best is None:
        return Pruned(row, None, trials)
    trial, ranking = best
    discretised = ranking.smallest(config.target_loss)
    assert discretised is not None
    on_progress("minimise")
    path = minimise_path(problem, [ranking for _, ranking in tuner.best()][:STARTS])
    candidate, certificate = path[config.target_loss]
    assert candidate is not None
    about = dict(about) | {
        "target_loss": config.target_loss, "validation_loss": candidate.validation_loss,
        "hyperparameters": trial.params,
    }  # fmt: skip
    circuit = as_circuit(candidate, ranking, problem, means, about, certificate)
    row |= {
        "n_nodes": candidate.n_nodes,
        "n_edges": candidate.n_edges,
        "validation_loss": candidate.validation_loss,
        "solved": True,
        "discretised": sizes(discretised),
        "calibration_scale": candidate.calibration[0],
        "hyperparameters": trial.params,
        "one_minimal": certificate is not None,
        "curve": [point(target, *path[target]) for target in config.curve_losses],
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


def make_problem(
    model: Transformer, ablated_to: AblationValues, batches: Mapping[str, PairBatch], config: PruneConfig, seed: int
) -> PruneProblem:
    """What search, discretisation and minimisation share."""
    train = batches["train"]
    fit, extra = torch.arange(train.n_pairs).tensor_split([config.calibration_pairs])
    frozen = [Frozen(model, draw) for draw in ablated_to.draws]
    evaluator = Evaluator(
        frozen, train.take(fit), batches["validation"], config.calibration_steps, config.most_scale,
        extra=train.take(extra) if len(extra) else None,
    )  # fmt: skip
    return PruneProblem(Masking.of(model, ablated_to.to(model.device), config.tie_qk), evaluator, train, config, seed)


def sizes(candidate: Candidate | None) -> Sizes:
    """Nodes, edges and validation loss of a circuit; nulls where there is none."""
    if candidate is None:
        return {"n_nodes": None, "n_edges": None, "validation_loss": None}
    return {"n_nodes": candidate.n_nodes, "n_edges": candidate.n_edges, "validation_loss": candidate.validation_loss}


def as_circuit(
    candidate: Candidate,
    ranking: Ranking,
    problem: PruneProblem,
    means: Values,
    about: dict[str, Any],
    certificate: Certificate | None,
) -> Circuit:
    """The circuit, with all that is needed to run it again."""
    order: dict[str, Float[Tensor, " width"]] = problem.masking.layout.by_site(ranking.order)
    return Circuit(
        nodes=candidate.nodes,
        edges=candidate.edges,
        means={key: value.cpu() for key, value in means.items()},
        order={key: torch.clone(value) for key, value in order.items()},
        ablated_to=problem.masking.ablated_to.to(torch.device("cpu")),
        calibration=candidate.calibration,
        about=about,
        certificate=certificate,
    )


def minimise_path(
    problem: PruneProblem, rankings: Sequence[Ranking]
) -> dict[float, tuple[Candidate | None, Certificate | None]]:
    """Target loss → the smallest circuit found, for the curve's targets and, 1-minimal, the main one; certificates.

    Raises ValueError where no ranking meets the main target.
    """
    main, evaluator, tie_qk = problem.config.target_loss, problem.evaluator, problem.config.tie_qk
    discretised = {
        target: smallest(ranking.smallest(target) for ranking in rankings)
        for target in sorted({*problem.config.curve_losses, main})
    }
    thinned = thin_out(problem, discretised, main)
    start, worst = where_to_start(thinned, main, MORE), max(thinned)
    removal_path = RemovalPath(evaluator, evaluator.smaller(SHARE), start, worst, problem.worth, tie_qk)
    found = {target: smallest([candidate, removal_path.smallest(target)]) for target, candidate in thinned.items()}
    path: dict[float, tuple[Candidate | None, Certificate | None]] = {
        t: (candidate, None) for t, candidate in found.items()
    }
    path[main] = minimal(evaluator, found[main] or start, main, tie_qk, problem.costs)
    return path


def thin_out(
    problem: PruneProblem, found: Mapping[float, Candidate | None], main: float
) -> Mapping[float, Candidate | None]:
    """The smallest circuit of each target by learned masks over edges too, while there are too many to try each."""
    for k_coefs in K_COEFS:
        if where_to_start(found, main, MORE).n_edges <= MANY:
            break
        for ranking in problem.edge_rankings(where_to_start(found, main), k_coefs):
            found = {target: smaller(candidate, ranking, target) for target, candidate in found.items()}
    return found


def smaller(candidate: Candidate | None, ranking: Ranking, target: float) -> Candidate | None:
    """The circuit, or the smallest that a ranking of edges has at the target, where that has fewer."""
    return smallest([candidate, ranking.smallest(target, int(DEAD * candidate.n_edges) if candidate else None)])


def where_to_start(found: Mapping[float, Candidate | None], main: float, more: float = math.inf) -> Candidate:
    """The circuit to take edges away from: that of the strictest target which any meets, if it is not too large.

    Taking away from a circuit that is better than it has to be finds smaller ones than starting from one that is just
    good enough. ``more``: edges that it may have beyond the main target's. Raises ValueError where none meets the main
    target.
    """
    enough = found[main]
    if enough is None:
        raise ValueError(f"no circuit reaches a loss of {main} nats")
    most = min(MOST * enough.n_edges, enough.n_edges + more)
    return next(candidate for candidate in found.values() if candidate and candidate.n_edges <= most)


def smallest(candidates: Iterable[Candidate | None]) -> Candidate | None:
    """The circuit of fewest edges, None for none."""
    return min(
        (candidate for candidate in candidates if candidate), key=lambda candidate: candidate.n_edges, default=None
    )


def point(target: float, candidate: Candidate | None, certificate: object) -> CurvePoint:
    """A point of the loss-against-size curve."""
    found = sizes(candidate)
    loss = found["validation_loss"]
    return {"target_loss": target, "loss": loss, "n_nodes": found["n_nodes"], "n_edges": found["n_edges"]}


def baselines(problem: PruneProblem) -> dict[str, Sizes]:
    """Size of the discretised circuit at the target loss by every baseline's ranking, by the same bisection."""
    pairs, found = problem.train.take(torch.arange(min(BASELINE_PAIRS, problem.train.n_pairs))), {}
    for kind in problem.config.baselines:
        seed = seed_of(problem.seed, "baseline", kind.value)
        order = baseline_order(kind, problem.masking, pairs, seed, problem.config.batch_pairs)
        found[kind.value] = sizes(
            Ranking(problem.evaluator, problem.masking.layout, order).smallest(problem.config.target_loss)
        )
    return found
