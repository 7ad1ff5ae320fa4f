"""How many times more edges a dense model's circuits have than a sparse model's, at the same pretraining loss.

The paper's headline (§5, Fig 2) for a handful of models: no two of them have the same loss, so dense edges are
read off, task by task, between the two dense models around the sparse model's loss. Where there are no such two, the
nearest dense model stands in and says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline.report.averages import mean_ratio, ratio_interval
from pipeline.report.solved import curve_points, of_kind, solved_tasks
from pipeline.rows import CurvePoint, ModelSummary
from pipeline.seeds import seed_of

METHOD = (
    "For each sparse model and each task solved by it and by at least one dense model: the dense edge count at "
    "the sparse model's validation loss, log edges interpolated linearly in validation loss between the two dense "
    "models that solve the task and lie closest on either side of that loss; where the loss is not bracketed, the "
    "edge count of the dense model nearest in loss (marked 'nearest', with the gap in nats, dense loss - sparse "
    "loss: such a pair is compared at unequal losses; interpolated_only leaves those pairs out). The ratio is the "
    "geometric mean of dense edges / sparse edges over all (sparse model, task) pairs; a circuit without edges "
    "counts as one edge, and a task for which no model's circuit has an edge (the bigram table does it alone) is left "
    "out: it has no ratio (n_without_edges says how many pairs that are; as pairs of ratio 1 they would bring the mean "
    "to ratio ** (n_pairs / (n_pairs + n_without_edges))). Interval: 95 % percentile bootstrap over tasks (a task "
    "brings all its models along), null for fewer than two tasks; it says nothing of other seeds or other models. A "
    "second seed of an architecture counts as a further model, sparse or dense; seed_spread has what lies between the "
    "seeds."
)


@dataclass(frozen=True)
class CircuitPoint:
    """One circuit seen from the frontier: its model, the model's validation loss in nats, its edges (at least 1)."""

    model: str
    loss: float
    edges: float


@dataclass(frozen=True)
class Match:
    """Dense edges at one sparse model's loss, for one task."""

    task: str
    sparse: CircuitPoint
    dense_edges: float
    matched: str  # "interpolated" or "nearest"
    dense_models: tuple[str, ...]
    loss_gap: float  # dense loss - sparse loss in nats; 0 where interpolated

    @property
    def log_ratio(self) -> float:
        return math.log(self.dense_edges / self.sparse.edges)

    def as_dict(self) -> dict[str, Any]:
        return {
            "sparse_edges": self.sparse.edges,
            "dense_edges": self.dense_edges,
            "ratio": math.exp(self.log_ratio),
            "matched": self.matched,
            "dense_models": list(self.dense_models),
            "loss_gap": self.loss_gap,
        }


def compare(
    models: Sequence[ModelSummary], *, curve_losses: Sequence[float], seed: int, n_bootstrap: int
) -> dict[str, Any]:
    """The ``frontier`` entry of summary.json from its ``models`` entries; the ratio is null where no task is shared."""
    summarise = partial(summarise_matches, n_bootstrap=n_bootstrap, rng_seed=seed_of(seed, "report", "frontier"))
    sizes = [{name: task["n_edges"] for name, task in solved_tasks(model["tasks"]).items()} for model in models]
    matches = match_all(models, sizes)
    interpolated = [match for match in matches if match.matched == "interpolated"]
    overall = summarise(matches)
    return {
        "ratio_dense_to_sparse_edges_at_matched_loss": overall["ratio"],
        "interval": overall["interval"],
        "tasks_compared": overall["tasks_compared"],
        "method": METHOD,
        "n_interpolated": len(interpolated),
        "n_nearest": len(matches) - len(interpolated),
        "interpolated_only": summarise(interpolated),
        "per_model": [_per_model(model, matches, summarise) for model in of_kind(models, "sparse")],
        "by_target_loss": [  # the same ratio for the circuits of other target losses ("at every target loss", §5)
            {"target_loss": target} | summarise(match_all(models, [curve_edges(model, target) for model in models]))
            for target in curve_losses
        ],
        **{name: by_target(models, curve_losses, edges, summarise) for name, edges in COUNTS.items()},
        "pareto": {kind: [point.model for point in pareto(points_of(models, kind))] for kind in ("sparse", "dense")},
    }


def by_target(
    models: Sequence[ModelSummary],
    targets: Sequence[float],
    edges: Callable[[ModelSummary, float], dict[str, int]],
    summarise: Callable[[Sequence[Match]], dict[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Target loss → ``ratio`` and its ``interval``, ``n_pairs`` (sparse model, task) and of these ``n_bracketed`` with
    dense models on both sides in loss, ``n_without_edges`` left out, and the same of the ``widest`` sparse models
    alone; for one way to count edges. Targets without a pair are absent."""
    widths = {model["name"]: model["d_model"] for model in of_kind(models, "sparse")}
    widest = {name for name, width in widths.items() if width == max(widths.values())}

    def found(matches: Sequence[Match], left_out: Sequence[str], names: Set[str]) -> dict[str, Any]:
        own = [match for match in matches if match.sparse.model in names]
        bracketed = sum(match.matched == "interpolated" for match in own)
        overall = {key: value for key, value in summarise(own).items() if key != "tasks_compared"}
        n_without = sum(name in names for name in left_out)
        return overall | {"n_pairs": len(own), "n_bracketed": bracketed, "n_without_edges": n_without}

    rows = dict[str, dict[str, Any]]()
    for target in targets:
        sizes = {model["name"]: edges(model, target) for model in models}
        matches, empty = match_all(models, list(sizes.values())), without_edges(sizes.values())
        left_out = [
            name for name, tasks in sizes.items() for task in tasks if task in empty
        ]  # its model, for each pair
        if matches:
            every, wide = found(matches, left_out, widths.keys()), found(matches, left_out, widest)
            rows[f"{target:g}"] = every | {"widest": wide}
    return rows


def _per_model(
    model: ModelSummary, matches: Sequence[Match], summarise: Callable[[Sequence[Match]], dict[str, Any]]
) -> dict[str, Any]:
    own = [match for match in matches if match.sparse.model == model["name"]]
    overall = summarise(own)
    return {
        "model": model["name"],
        "val_loss_nats": model["val_loss_nats"],
        "ratio": overall["ratio"],
        "interval": overall["interval"],
        "tasks": {match.task: match.as_dict() for match in own},
    }


def curve_edges(model: ModelSummary, target: float) -> dict[str, int]:
    """Task → edges of the circuit that meets ``target``, for solved tasks that reached it."""
    return {name: point["n_edges"] for name, point in curve_points(model) if point["target_loss"] == target}


def discretised_edges(model: ModelSummary, target: float) -> dict[str, int]:
    """The same by the paper's count: edges between the nodes that the search kept, before minimisation."""
    return _discretised(curve_points(model), target)


def deciding_edges(model: ModelSummary, target: float) -> dict[str, int]:
    """Task → edges of the deciding circuit that meets ``target``, by the paper's count."""
    found = [(name, task["circuits"]["deciding"]) for name, task in solved_tasks(model["tasks"]).items()]
    return _discretised([(name, point) for name, one in found if one for point in one["curve"]], target)


# Ways to count a circuit's edges: model and target loss → task → edges
COUNTS: Mapping[str, Callable[[ModelSummary, float], dict[str, int]]] = {
    "paper_count": discretised_edges,
    "minimised": curve_edges,
    "deciding": deciding_edges,
}


def _discretised(points: Iterable[tuple[str, CurvePoint]], target: float) -> dict[str, int]:
    own = [(name, point.get("discretised")) for name, point in points if point["target_loss"] == target]
    return {name: size["n_edges"] for name, size in own if size and size["n_edges"] is not None}


def match_all(models: Sequence[ModelSummary], sizes: Sequence[Mapping[str, int]]) -> list[Match]:
    """A match for every sparse model and every task that it and some dense model have, in order; none for a task
    without edges in all of them.

    ``sizes``: task → edges, of each model.
    """
    empty = without_edges(sizes)
    points: dict[str, list[dict[str, CircuitPoint]]] = {"sparse": [], "dense": []}
    for model, edges in zip(models, sizes, strict=True):
        name, loss = model["name"], model["val_loss_nats"]
        compared = {task: max(n, 1) for task, n in edges.items() if task not in empty}
        points[model["kind"]].append({task: CircuitPoint(name, loss, n) for task, n in compared.items()})
    return [
        match_loss(task, point, dense)
        for own in points["sparse"]
        for task, point in own.items()
        if (dense := [other[task] for other in points["dense"] if task in other]) and point.loss is not None
    ]


def without_edges(sizes: Iterable[Mapping[str, int]]) -> set[str]:
    """The tasks for which no model's circuit has an edge; ``sizes``: task → edges, of each model."""
    sizes = list(sizes)
    return {task for edges in sizes for task in edges} - {task for edges in sizes for task, n in edges.items() if n}


def match_loss(task: str, sparse: CircuitPoint, dense: Sequence[CircuitPoint]) -> Match:
    """Dense edges at the loss of ``sparse``: interpolated where two dense points bracket it, else the nearest one's."""
    below = max((point for point in dense if point.loss <= sparse.loss), key=lambda p: p.loss, default=None)
    above = min((point for point in dense if point.loss >= sparse.loss), key=lambda p: p.loss, default=None)
    if below is None or above is None:
        nearest = min(dense, key=lambda point: abs(point.loss - sparse.loss))
        gap = nearest.loss - sparse.loss
        return Match(task, sparse, nearest.edges, "nearest", (nearest.model,), gap)
    if below.loss == above.loss:
        return Match(task, sparse, below.edges, "interpolated", (below.model,), 0.0)
    share = (sparse.loss - below.loss) / (above.loss - below.loss)
    log_edges = (1 - share) * math.log(below.edges) + share * math.log(above.edges)
    return Match(task, sparse, math.exp(log_edges), "interpolated", (below.model, above.model), 0.0)


def summarise_matches(matches: Sequence[Match], n_bootstrap: int, rng_seed: int) -> dict[str, Any]:
    """Geometric mean of dense over sparse edges, null for no match, its interval over tasks, and the tasks."""
    logs = [(match.task, match.log_ratio) for match in matches]
    return {
        "ratio": mean_ratio([log for _, log in logs]),
        "interval": ratio_interval(logs, n_bootstrap, rng_seed),
        "tasks_compared": sorted({task for task, _ in logs}),
    }


def points_of(models: Sequence[ModelSummary], kind: str) -> list[CircuitPoint]:
    """A point (validation loss, geometric-mean edges) per model of ``kind`` that solves some task."""
    return [
        CircuitPoint(model["name"], model["val_loss_nats"], model["geomean_edges"])
        for model in of_kind(models, kind)
        if model["geomean_edges"] is not None and model["val_loss_nats"] is not None
    ]


def pareto(points: Sequence[CircuitPoint]) -> list[CircuitPoint]:
    """The points that no other beats in both loss and edges, by rising loss (and so by falling edges)."""
    front: list[CircuitPoint] = []
    for point in sorted(points, key=lambda p: (p.loss, p.edges)):
        if not front or point.edges < front[-1].edges:
            front.append(point)
    return front
