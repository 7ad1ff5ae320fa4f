"""How far seeds of one architecture lie apart in loss and in edges: what a difference between models has to exceed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.averages import geometric_mean_edges, known
from pipeline.report.frontier import COUNTS
from pipeline.rows import ModelSummary


def seed_spread(
    models: Sequence[ModelSummary], architectures: Sequence[Sequence[str]], target_loss: float
) -> list[dict[str, Any]]:
    """Of each of ``architectures`` (names of models that differ in their seed alone), what lies between its models.

    ``loss_difference``: largest − smallest validation loss in nats. ``edges_ratio``, for each way to count edges, at
    the target loss in nats: largest ÷ smallest of the models' geometric means over the ``n_tasks`` tasks that all of
    them solve, so at least 1; null where there is no such task.
    """
    named = {model["name"]: model for model in models}
    return [_spread([named[name] for name in names], target_loss) for names in architectures]


def _spread(models: Sequence[ModelSummary], target_loss: float) -> dict[str, Any]:
    losses = known(model["val_loss_nats"] for model in models)
    sizes = {name: [edges(model, target_loss) for model in models] for name, edges in COUNTS.items()}
    shared = {name: set.intersection(*map(set, own)) for name, own in sizes.items()}
    return {
        "models": [model["name"] for model in models],
        "loss_difference": max(losses) - min(losses) if len(losses) > 1 else None,
        "edges_ratio": {name: _largest_to_smallest(own, sorted(shared[name])) for name, own in sizes.items()},
        "n_tasks": {name: len(tasks) for name, tasks in shared.items()},
    }


def _largest_to_smallest(sizes: Sequence[Mapping[str, int]], tasks: Sequence[str]) -> float | None:
    """Of the geometric means of edges over ``tasks``; ``sizes``: task → edges, of each model."""
    means = known(geometric_mean_edges(own[task] for task in tasks) for own in sizes)
    return max(means) / min(means) if means else None
