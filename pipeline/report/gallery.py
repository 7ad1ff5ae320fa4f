"""The gallery that the study's page begins with: of every task the smallest circuit of a sparse model, or why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.solved import deciding_loss, of_kind
from pipeline.rows import ModelSummary, Summary, TaskSummary

TaskOfModel = tuple[ModelSummary, TaskSummary]


def gallery_circuits(summary: Summary) -> dict[str, str]:
    """Task → the sparse model whose circuit for it has the fewest edges, of those that solve it by a circuit that has
    an edge. A circuit of nodes alone stands where there is no other, an empty one never."""
    found: dict[str, str] = {}
    for task, rows in sparse_rows(summary).items():
        drawable = [(model, row) for model, row in rows if row["solved"] and row["n_nodes"]]
        if drawable:
            best, _ = min(drawable, key=lambda of: (of[1]["n_edges"] == 0, of[1]["n_edges"]))
            found[task] = best["name"]
    return found


def gallery(
    summary: Summary,
    thumbnails: Mapping[tuple[str, str], str],
    gists: Mapping[tuple[str, str], str],
    decides: Mapping[str, str],
) -> dict[str, Any]:
    """``cards``: ``task``, ``model``, ``thumbnail``, ``says`` (the circuit's gist, or how the task is decided; null for
    neither) and ``dense``, the path of what dense models need at the model's loss (null where none solves the task);
    ``without``: ``task``, ``model`` and ``why`` there is no circuit of a sparse model, with ``loss``, the name of the
    one that decides it (null where none does)."""
    chosen, rows = gallery_circuits(summary), sparse_rows(summary)
    matched = {row["model"]: row["tasks"] for row in summary["frontier"]["per_model"]}
    cards = [
        {
            "task": task,
            "model": model,
            "thumbnail": thumbnails.get((model, task), ""),
            "says": gists.get((model, task)) or decides.get(task),
            "dense": f"/frontier/per_model/{model}/tasks/{task}" if task in matched.get(model, {}) else None,
        }
        for task, model in chosen.items()
    ]
    without = [why_none(task, rows[task], summary["target_loss"]) for task in rows if task not in chosen]
    return {"cards": cards, "without": without}


def why_none(task: str, rows: Sequence[TaskOfModel], target_loss: float) -> dict[str, Any]:
    """Why no sparse model has a circuit of a task that could be drawn; of those that fail, the nearest to the target
    is named."""
    expressible = [(model, row) for model, row in rows if row["expressible"]]
    if empty := [model for model, row in expressible if row["solved"]]:
        return {"task": task, "model": empty[0]["name"], "why": "no node is needed", "loss": None}
    if not expressible:
        return {"task": task, "model": rows[0][0]["name"], "why": "not expressible", "loss": None}
    facts: list[tuple[str, Mapping[str, Any]]] = [(model["name"], row) for model, row in expressible]
    named = [(model, row, deciding_loss(row, target_loss)) for model, row in facts]
    nearest, model, name = min((row[name], model, name) for model, row, name in named)
    if nearest <= target_loss:
        return {"task": task, "model": model, "why": "no circuit found", "loss": None}
    return {"task": task, "model": model, "why": "not solved", "loss": name}


def sparse_rows(summary: Summary) -> dict[str, list[TaskOfModel]]:
    """Task → every sparse model with its entry, in the order of the study."""
    models = of_kind(summary["models"], "sparse")
    tasks = dict.fromkeys(task for model in models for task in model["tasks"])
    return {task: [(model, model["tasks"][task]) for model in models if task in model["tasks"]] for task in tasks}
