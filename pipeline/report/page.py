"""results/index.html: the whole study on one page that needs nothing else, from the summary and its drawings.

No number is made here that is not in the summary; this module only chooses what stands where.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.figures import inline
from pipeline.report.templating import render
from pipeline.report.validation import lines_of


@dataclass(frozen=True)
class Example:
    """One contrast pair as text: two (prompt, answer)."""

    first: tuple[str, str]
    second: tuple[str, str]


@dataclass(frozen=True)
class PageParts:
    """What the page shows besides the summary."""

    figures: Mapping[str, str]  # name → SVG file text
    drawings: Mapping[tuple[str, str], str]  # (model, task) → SVG element
    examples: Mapping[str, Sequence[Example]]  # task → pairs
    decides: Mapping[str, str]  # task → what decides the answer
    statistics: Mapping[str, Any]  # the tokenise stage's stats.json
    predicts: str | None  # the model that the plot of predictions is of


def build_page(summary: Mapping[str, Any], parts: PageParts) -> str:
    """HTML text of the report."""
    models, tasks = summary["models"], task_names(summary)
    return render(
        "index.html.j2",
        summary=summary,
        models=models,
        tasks=tasks,
        frontier=summary["frontier"],
        baselines=summary["baselines"],
        headline=headline(summary, parts.statistics),
        figures={name: inline(svg, name) for name, svg in parts.figures.items()},
        matrix=[{"task": task, "cells": [_cell(model, task, models) for model in models]} for task in tasks],
        circuits=[_circuits_of(task, models, parts) for task in tasks],
        statistics=parts.statistics,
        provenance=summary["provenance"],
        validation=summary["validation"],
        predicts=parts.predicts,
        lines_of=lines_of,
        outcome=outcome,
    )


def outcome(test: Mapping[str, Any]) -> str:
    """A check's result as a sign: passed, failed, only measured, not tested."""
    if test["passed"] is None:
        return "–" if test["value"] is None else "·"
    return "✓" if test["passed"] else "✗"


def task_names(summary: Mapping[str, Any]) -> list[str]:
    """All tasks of the study, in the order in which the models list them."""
    return list(dict.fromkeys(task for model in summary["models"] for task in model["tasks"]))


def headline(summary: Mapping[str, Any], statistics: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers at the top: ratio, best loss beside the bigram's, tasks solved, smallest circuit; null where none."""
    models = summary["models"]
    losses = [(model["val_loss_nats"], model["name"]) for model in models if model["val_loss_nats"] is not None]
    best_loss, best_model = min(losses, default=(None, None))
    solved = {kind: _solved_by(models, kind) for kind in ("sparse", "dense")}
    return {
        "best_loss": best_loss,
        "best_model": best_model,
        "bigram_loss": statistics.get("bigram_loss_nats"),
        "n_tasks": len(task_names(summary)),
        "n_solved": len(solved["sparse"] | solved["dense"]),
        "n_sparse": len(solved["sparse"]),
        "n_dense": len(solved["dense"]),
        "n_both": len(solved["sparse"] & solved["dense"]),
    }


def _solved_by(models: Sequence[Mapping[str, Any]], kind: str) -> set[str]:
    own = [model for model in models if model["kind"] == kind]
    return {name for model in own for name, task in model["tasks"].items() if task["solved"]}


def _cell(model: Mapping[str, Any], name: str, models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One field of the matrix; ``heat`` 0…1 is where the edges lie between the study's smallest and largest circuit."""
    task = model["tasks"].get(name)
    if task is None:
        return {"state": "absent"}
    if not task["expressible"]:
        return {"state": "not expressible", "reason": task["reason"]}
    if not task["solved"]:
        return {"state": "not solved", "loss": task["unpruned_loss"]}
    sizes = [t["n_edges"] for m in models for t in m["tasks"].values() if t["solved"]]
    low, high = (math.log(max(size, 1)) for size in (min(sizes), max(sizes)))
    heat = (math.log(max(task["n_edges"], 1)) - low) / (high - low) if high > low else 0.0
    return {"state": "solved", "edges": task["n_edges"], "heat": round(heat, 2)}


def _circuits_of(name: str, models: Sequence[Mapping[str, Any]], parts: PageParts) -> dict[str, Any]:
    """One task's section: its example pairs and every model's circuit for it, smallest first."""
    found = [
        {"model": model, "task": model["tasks"][name], "drawing": parts.drawings.get((model["name"], name))}
        for model in models
        if name in model["tasks"] and model["tasks"][name]["n_edges"] is not None
    ]
    found.sort(key=lambda entry: entry["task"]["n_edges"])
    solved = [entry["task"]["n_edges"] for entry in found if entry["task"]["solved"]]
    return {
        "task": name,
        "decides": parts.decides.get(name),
        "examples": parts.examples.get(name, ()),
        "entries": found,
        "smallest": min(solved, default=None),
        "n_solved": len(solved),
    }
