"""Gains of pruning: edges before and after minimisation, learned against other rankings, size against target loss.

Means are geometric and over solved tasks only. A ranking that finds no circuit for a task leaves that task out of its
mean, so each number says beside it over how many circuits it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.report.averages import geometric_mean_edges, log_edges, mean_ratio, ratio_interval
from pipeline.report.frontier import curve_edges
from pipeline.report.solved import all_solved
from pipeline.rows import ModelSummary, TaskSummary
from pipeline.seeds import seed_of

BASELINES_METHOD = (
    "Every ranking of nodes is discretised by the same bisection to the same target loss on validation pairs, with "
    "calibration, and not minimised: edges are those of the circuit before minimisation. Learned is the ranking of the "
    "winning trial. Geometric means and their ratio (baseline / learned) are over solved tasks for which both find a "
    "circuit; a solved task for which the baseline finds none at any size is counted and left out, which favours the "
    "baseline. Interval: 95 % percentile bootstrap over tasks, null for fewer than two."
)
CURVES_METHOD = (
    "Geometric-mean edges of the circuits after minimisation at each target loss, over the tasks for which every model "
    "that solves any task has a circuit at that target: each target averages over the same tasks in all models, "
    "but over fewer tasks the stricter it is."
)


def minimisation(models: Sequence[ModelSummary], *, n_bootstrap: int, seed: int) -> dict[str, Any]:
    """The ``minimisation`` entry of summary.json: how many times more edges circuits had before, over all models."""
    logs = minimised_logs(models)
    return {
        "n_circuits": len(logs),
        "ratio_discretised_to_minimised": mean_ratio([log for _, log in logs]),
        "interval": ratio_interval(logs, n_bootstrap, seed_of(seed, "report", "minimisation")),
    }


def minimised(models: Iterable[ModelSummary]) -> list[tuple[str, int, TaskSummary]]:
    """(task, edges before minimisation, its entry) of solved tasks."""
    return [(name, row["n_edges"], task) for _, name, task in all_solved(models) if (row := task["discretised"])]


def minimised_logs(models: Iterable[ModelSummary]) -> list[tuple[str, float]]:
    """(task, logarithm of edges before over edges after minimisation) of solved tasks."""
    return [(name, log_edges(before) - log_edges(task["n_edges"])) for name, before, task in minimised(models)]


def compare_baselines(models: Sequence[ModelSummary], *, n_bootstrap: int, seed: int) -> dict[str, Any]:
    """The ``baselines`` entry of summary.json: every baseline against learned pruning, overall and per model."""
    tasks = [task for model in models for task in model["tasks"].values()]
    names = list(dict.fromkeys(name for task in tasks for name in task["baselines"]))
    rng_seed = seed_of(seed, "report", "baselines")

    def against(some: Sequence[ModelSummary]) -> dict[str, Any]:
        return {name: _against(name, some, n_bootstrap, rng_seed) for name in names}

    return {
        "method": BASELINES_METHOD,
        "overall": against(models),
        "per_model": [{"model": model["name"], "baselines": against([model])} for model in models],
    }


def _against(baseline: str, models: Sequence[ModelSummary], n_bootstrap: int, rng_seed: int) -> dict[str, Any]:
    """One baseline over all circuits of some models; ``pairs``: (task, learned edges, the baseline's edges)."""
    taken = [(name, edges, task["baselines"]) for name, edges, task in minimised(models)]
    pairs = [(name, learned, others[baseline]["n_edges"]) for name, learned, others in taken if baseline in others]
    found = [(task, learned, other) for task, learned, other in pairs if other is not None]
    logs = [(task, log_edges(other) - log_edges(learned)) for task, learned, other in found]
    return {
        "n_circuits": len(found),
        "n_none": len(pairs) - len(found),
        "learned_geomean_edges": geometric_mean_edges(learned for _, learned, _ in found),
        "geomean_edges": geometric_mean_edges(other for _, _, other in found),
        "ratio": mean_ratio([log for _, log in logs]),
        "interval": ratio_interval(logs, n_bootstrap, rng_seed),
        "n_learned_smaller": sum(learned < other for _, learned, other in found),
    }


def curve_means(models: Sequence[ModelSummary], curve_losses: Sequence[float]) -> dict[str, Any]:
    """The ``curve_means`` entry of summary.json: every model's geometric-mean edges at each target loss (Fig 2)."""
    able = [model for model in models if model["n_solved"]]
    points = []
    for target in sorted(curve_losses, reverse=True):
        edges = {model["name"]: curve_edges(model, target) for model in able}
        shared = set.intersection(*(set(own) for own in edges.values())) if edges else set()
        means = {name: geometric_mean_edges(own[task] for task in shared) for name, own in edges.items()}
        points.append({"target_loss": target, "tasks": sorted(shared), "geomean_edges": means})
    return {"method": CURVES_METHOD, "points": points}
