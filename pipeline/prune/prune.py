"""One model, one task: gate, search, discretise, calibrate, minimise; the smallest circuit found (METHOD §4)."""

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
from pipeline.config import PruneConfig
from pipeline.data.pairs import PairBatch
from pipeline.model.compact import Frozen
from pipeline.model.held_at import Held, Values
from pipeline.model.scoring import mean_loss, score
from pipeline.model.transformer import Transformer
from pipeline.prune.baselines import baseline_order
from pipeline.prune.discretise import Ranking, Sketch
from pipeline.prune.edge_search import K_COEFS, EdgeMasking, edge_rankings, edge_worths
from pipeline.prune.graph import Item, Parts, ends
from pipeline.prune.judge import Edges, Judge, Nodes
from pipeline.prune.minimise import Prices, Trail, minimal
from pipeline.prune.search import Masking
from pipeline.prune.tune import Tuner
from pipeline.seeds import seed_of

SHARE = 0.5  # of the pairs, by which it is decided what goes on the way
MOST = 4.0  # times the main target's edges, that learning edges and a trail may start from
MORE = 300  # edges more than the main target's, that a trail may start from, for speed
DEAD = 1.25  # times the edges of a circuit that a learned one may have before its dead ends are left out
MANY = 1000  # edges, above which learning which of them are needed is faster than trying
STARTS = 2  # of the best trials' rankings, that minimisation may start from
BASELINE_PAIRS = 32  # on which attributions are taken
WORTH_PAIRS = 16  # on which the worth of items is estimated; what goes is decided on all validation pairs
Tick = Callable[[str], None]


@dataclass(frozen=True)
class Pruned:
    """What pruning found: a summary row, the circuit where the model does the task, and a row a trial."""

    row: dict[str, Any]
    circuit: Circuit | None
    trials: list[dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A model and a task, ready to be pruned."""

    masking: Masking
    judge: Judge
    train: PairBatch
    config: PruneConfig
    seed: int

    def edge_masking(self, nodes: Nodes, edges: Edges) -> EdgeMasking:
        """Masks over the edges of a circuit."""
        return EdgeMasking.of(self.masking.model, self.masking.held, nodes, edges, self.config.tie_qk)

    def edge_rankings(self, sketch: Sketch, k_coefs: Sequence[float] = K_COEFS[0]) -> list[Ranking]:
        """Rankings of a circuit's edges, by learned masks."""
        masking = self.edge_masking(sketch.nodes, sketch.edges)
        return edge_rankings(masking, self.judge, self.train, self.config, k_coefs, self.seed)

    def worth(self, parts: Parts) -> dict[Item, float]:
        """Estimated worth of every item of a circuit, in nats, by a few pairs."""
        pairs = self.train.take(torch.arange(min(WORTH_PAIRS, self.train.n_pairs)))
        return self._worth(parts, pairs, torch.full((pairs.n_pairs,), 1 / pairs.n_pairs))

    def prices(self, sketch: Sketch) -> Prices:
        """What single removals from a circuit will cost, estimated by all pairs."""
        parts = Parts(sketch.nodes, sketch.edges)
        pairs, weights = self.judge.all_pairs(sketch.nodes, sketch.edges, sketch.calibration)
        return Prices.estimated(parts, self._worth(parts, pairs, weights, sketch.calibration))

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
    held: Held | None = None,
    storage: Path | None = None,
    tick: Tick = lambda what: None,
) -> Pruned:
    """The smallest circuit for a task at ``config.target_loss``, or none where the model does not do the task unpruned.

    ``batches`` has the train, validation and test pairs; test pairs are only reported on, never chosen by. ``held``:
    what everything outside the circuit is held at (None: ``means``). ``about`` (model, task, hashes) goes into the
    circuit. ``storage``: a folder in which an interrupted search goes on. ``tick`` is told what is being done.
    """
    row = empty_row() | {
        "unpruned_loss": mean_loss(score(model, batches["test"])),
        "unpruned_validation_loss": mean_loss(score(model, batches["validation"])),
    }
    if row["unpruned_validation_loss"] > config.target_loss:
        return Pruned(row, None, [])
    case = make_case(model, held or Held.at_means(means), batches, config, seed)
    tuner = Tuner(case.masking, case.judge, case.train, config, seed, storage)
    tuner.run(tick)
    trials = tuner.table()
    best = next(tuner.best(), None)
    row |= {"n_trials": len(trials)}
    if best is None:
        return Pruned(row, None, trials)
    trial, ranking = best
    discretised = ranking.smallest(config.target_loss)
    assert discretised is not None
    tick("minimise")
    path = minimise_path(case, [ranking for _, ranking in tuner.best()][:STARTS])
    sketch, certificate = path[config.target_loss]
    assert sketch is not None
    about = dict(about) | {
        "target_loss": config.target_loss, "validation_loss": sketch.validation_loss, "hyperparameters": trial.params,
    }  # fmt: skip
    circuit = as_circuit(sketch, ranking, case, means, about, certificate)
    row |= sizes(sketch) | {
        "solved": True,
        "discretised": sizes(discretised),
        "calibration_scale": sketch.calibration[0],
        "hyperparameters": trial.params,
        "one_minimal": certificate is not None,
        "curve": [point(target, *path[target]) for target in config.curve_losses],
    }
    tick("baselines")
    row["baselines"] = baselines(case)
    return Pruned(row, circuit, trials)


def empty_row() -> dict[str, Any]:
    """A summary row of a task without a circuit."""
    nothing = dict.fromkeys(
        ("unpruned_loss", "unpruned_validation_loss", "n_nodes", "n_edges", "validation_loss", "discretised",
         "calibration_scale", "hyperparameters", "n_trials", "one_minimal")
    )  # fmt: skip
    return nothing | {"solved": False, "curve": [], "baselines": {}}


def make_case(model: Transformer, held: Held, batches: Mapping[str, PairBatch], config: PruneConfig, seed: int) -> Case:
    """What search, discretisation and minimisation share."""
    train = batches["train"]
    fit, further = torch.arange(train.n_pairs).tensor_split([config.calibration_pairs])
    frozen = [Frozen(model, draw) for draw in held.draws]
    judge = Judge(
        frozen, train.take(fit), batches["validation"], config.calibration_steps, config.most_scale,
        further=train.take(further) if len(further) else None,
    )  # fmt: skip
    return Case(Masking.of(model, held.to(model.device), config.tie_qk), judge, train, config, seed)


def sizes(sketch: Sketch | None) -> dict[str, Any]:
    """Nodes, edges and validation loss of a circuit; nulls where there is none."""
    if sketch is None:
        return {"n_nodes": None, "n_edges": None, "validation_loss": None}
    return {"n_nodes": sketch.n_nodes, "n_edges": sketch.n_edges, "validation_loss": sketch.validation_loss}


def as_circuit(
    sketch: Sketch,
    ranking: Ranking,
    case: Case,
    means: Values,
    about: dict[str, Any],
    certificate: dict[str, Any] | None,
) -> Circuit:
    """The circuit, with all that is needed to run it again."""
    order: dict[str, Float[Tensor, " width"]] = case.masking.layout.by_site(ranking.order)
    return Circuit(
        nodes=sketch.nodes,
        edges=sketch.edges,
        means={key: value.cpu() for key, value in means.items()},
        order={key: torch.clone(value) for key, value in order.items()},
        held=case.masking.held.to(torch.device("cpu")),
        calibration=sketch.calibration,
        about=about,
        certificate=certificate,
    )


def minimise_path(case: Case, rankings: Sequence[Ranking]) -> dict[float, tuple[Sketch | None, dict[str, Any] | None]]:
    """Target loss → the smallest circuit found, for the curve's targets and, 1-minimal, the main one; certificates.

    Raises ValueError where no ranking meets the main target.
    """
    main, judge, tie_qk = case.config.target_loss, case.judge, case.config.tie_qk
    discretised = {
        target: smallest(ranking.smallest(target) for ranking in rankings)
        for target in sorted({*case.config.curve_losses, main})
    }
    thinned = thin_out(case, discretised, main)
    start, worst = where_to_start(thinned, main, MORE), max(thinned)
    trail = Trail(judge, judge.smaller(SHARE), start, worst, case.worth, tie_qk)
    found = {target: smallest([sketch, trail.smallest(target)]) for target, sketch in thinned.items()}
    path: dict[float, tuple[Sketch | None, dict[str, Any] | None]] = {t: (sketch, None) for t, sketch in found.items()}
    path[main] = minimal(judge, found[main] or start, main, tie_qk, case.prices)
    return path


def thin_out(case: Case, found: Mapping[float, Sketch | None], main: float) -> Mapping[float, Sketch | None]:
    """The smallest circuit of each target by learned masks over edges too, while there are too many to try each."""
    for k_coefs in K_COEFS:
        if where_to_start(found, main, MORE).n_edges <= MANY:
            break
        for ranking in case.edge_rankings(where_to_start(found, main), k_coefs):
            found = {target: smaller(sketch, ranking, target) for target, sketch in found.items()}
    return found


def smaller(sketch: Sketch | None, ranking: Ranking, target: float) -> Sketch | None:
    """The circuit, or the smallest that a ranking of edges has at the target, where that has fewer."""
    return smallest([sketch, ranking.smallest(target, int(DEAD * sketch.n_edges) if sketch else None)])


def where_to_start(found: Mapping[float, Sketch | None], main: float, more: float = math.inf) -> Sketch:
    """The circuit to take edges away from: that of the strictest target which any meets, if it is not too large.

    Taking away from a circuit that is better than it has to be finds smaller ones than starting from one that is just
    good enough. ``more``: edges that it may have beyond the main target's. Raises ValueError where none meets the main
    target.
    """
    enough = found[main]
    if enough is None:
        raise ValueError(f"no circuit reaches a loss of {main} nats")
    most = min(MOST * enough.n_edges, enough.n_edges + more)
    return next(sketch for sketch in found.values() if sketch and sketch.n_edges <= most)


def smallest(sketches: Iterable[Sketch | None]) -> Sketch | None:
    """The circuit of fewest edges, None for none."""
    return min((sketch for sketch in sketches if sketch), key=lambda sketch: sketch.n_edges, default=None)


def point(target: float, sketch: Sketch | None, certificate: object) -> dict[str, Any]:
    """A point of the loss-against-size curve."""
    found = sizes(sketch)
    return {"target_loss": target, "loss": found.pop("validation_loss"), **found}


def baselines(case: Case) -> dict[str, dict[str, Any]]:
    """Size of the discretised circuit at the target loss by every baseline's ranking, by the same bisection."""
    pairs, found = case.train.take(torch.arange(min(BASELINE_PAIRS, case.train.n_pairs))), {}
    for kind in case.config.baselines:
        seed = seed_of(case.seed, "baseline", kind.value)
        order = baseline_order(kind, case.masking, pairs, seed, case.config.batch_pairs)
        found[kind.value] = sizes(Ranking(case.judge, case.masking.layout, order).smallest(case.config.target_loss))
    return found
