"""The circuits that the report compares: those of tasks that their model solves (§3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.rows import CurvePoint, ModelSummary, TaskSummary

KINDS = ("sparse", "dense")
SolvedTask = tuple[ModelSummary, str, TaskSummary]  # model, task, its entry


def is_solved(task: Mapping[str, Any], target_loss: float) -> bool:
    """Whether a model solves a task, from the task's row in circuits/<model>/summary.json: its test loss is at most the
    target, in nats, and a circuit was found. (``solved`` in that row says only the latter.)"""
    loss = task["unpruned_loss"]
    return bool(task["expressible"]) and loss is not None and loss <= target_loss and task["n_edges"] is not None


def deciding_loss(task: Mapping[str, Any], target_loss: float) -> str:
    """Which of a task's two losses of the whole model says whether it is solved: that on validation pairs, above which
    no circuit is sought (prune's gate), where it is above the target; else that on test pairs."""
    gate = task["unpruned_validation_loss"]
    return "unpruned_validation_loss" if gate is not None and gate > target_loss else "unpruned_loss"


def solved_tasks(tasks: Mapping[str, TaskSummary]) -> dict[str, TaskSummary]:
    """Those of a model's tasks that the model solves."""
    return {name: task for name, task in tasks.items() if task["solved"]}


def all_solved(models: Iterable[ModelSummary]) -> list[SolvedTask]:
    """Every task of every model that solves it, in order."""
    return [(model, name, task) for model in models for name, task in solved_tasks(model["tasks"]).items()]


def of_kind(models: Sequence[ModelSummary], kind: str) -> list[ModelSummary]:
    """The sparse models, or the dense ones, in order."""
    return [model for model in models if model["kind"] == kind]


def curve_points(model: ModelSummary) -> Iterator[tuple[str, CurvePoint]]:
    """(task, circuit of one target loss) of solved tasks, where a circuit meets that target."""
    for name, task in solved_tasks(model["tasks"]).items():
        yield from ((name, point) for point in task["curve"] if point.get("n_edges") is not None)
