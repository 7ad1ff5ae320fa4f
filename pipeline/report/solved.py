"""The circuits that the report compares: those of tasks that their model solves (§3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def solved_tasks(model: Mapping[str, Any]) -> dict[str, Any]:
    """Task → its entry in an entry of the summary's ``models``, of tasks that the model solves."""
    return {name: task for name, task in model["tasks"].items() if task["solved"]}


def of_kind(models: Sequence[Any], kind: str) -> list[Any]:
    """The sparse models, or the dense ones, in order."""
    return [model for model in models if model["kind"] == kind]


def curve_points(model: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(task, circuit of one target loss) of solved tasks, where a circuit meets that target."""
    for name, task in solved_tasks(model).items():
        yield from ((name, point) for point in task["curve"] if point.get("n_edges") is not None)
