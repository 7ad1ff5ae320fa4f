"""The study in one dictionary, results/summary.json: what every model solved, with which circuits, and how they test.

Losses are in nats. A value that does not exist is null, never 0. Circuits of tasks that a model does not solve are
never averaged in (METHOD §3).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.report.frontier import compare
from pipeline.report.inputs import ModelRecord

MODEL_FIELDS = (
    "name", "kind", "n_layer", "d_model", "n_params", "l0", "tokens", "val_loss_nats", "train_seconds", "model_hash",
)  # fmt: skip
PRUNE_FIELDS = ("reason", "unpruned_loss", "unpruned_validation_loss", "n_nodes", "n_edges", "validation_loss")
ABLATE_LOSSES = ("circuit_loss", "edges_only_loss", "ablated_nodes_loss", "ablated_edges_loss")
UNCALIBRATED = ("circuit_loss_uncalibrated", "edges_only_loss_uncalibrated")  # comparable with the random sets
ABLATE_ACCURACIES = ("unpruned_accuracy", "circuit_accuracy", "edges_only_accuracy")
RANDOM_SETS = ("circuit", "edges_only", "nodes", "edges")  # what was drawn at random, in the words of ablate


def summarise(
    records: Sequence[ModelRecord],
    *,
    target_loss: float,
    curve_losses: Sequence[float],
    seed: int,
    n_bootstrap: int,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """The contents of results/summary.json: models, frontier, provenance. Every number is finite or null."""
    models = [summarise_model(record, target_loss) for record in records]
    frontier = compare(models, curve_losses=curve_losses, seed=seed, n_bootstrap=n_bootstrap)
    return {"models": models, "frontier": frontier, "target_loss": target_loss, "provenance": dict(provenance)}


def summarise_model(record: ModelRecord, target_loss: float) -> dict[str, Any]:
    """One entry of ``models``: the model's facts, its tasks, how many it solves, its circuits' geometric-mean edges."""
    ablated = record.ablated["tasks"]
    tasks = {
        name: summarise_task(pruned, ablated.get(name) or {}, target_loss)
        for name, pruned in record.pruned["tasks"].items()
    }
    solved = [task for task in tasks.values() if task["solved"]]
    facts = {field: record.pretrained.get(field) for field in MODEL_FIELDS}
    return facts | {
        "l0_by_matrix": record.pretrained.get("l0_by_matrix"),
        "tasks": tasks,
        "n_solved": len(solved),
        "geomean_edges": geometric_mean_edges(task["n_edges"] for task in solved),
    }


def summarise_task(pruned: Mapping[str, Any], ablated: Mapping[str, Any], target_loss: float) -> dict[str, Any]:
    """One task of one model: ``solved`` = expressible, unpruned test loss at most the target, and a circuit exists."""
    facts: dict[str, Any] = {"expressible": bool(pruned["expressible"])}
    facts |= {field: pruned.get(field) for field in PRUNE_FIELDS}
    loss = facts["unpruned_loss"]
    facts["solved"] = bool(
        facts["expressible"] and loss is not None and loss <= target_loss and facts["n_edges"] is not None
    )
    facts |= {field: ablated.get(field) for field in (*ABLATE_LOSSES, *UNCALIBRATED, *ABLATE_ACCURACIES)}
    for field in ("unpruned_loss", *ABLATE_LOSSES):
        facts[f"{field}_interval"] = ablated.get(f"{field}_interval")
    for name in RANDOM_SETS:
        facts |= _describe(f"random_{name}_loss", ablated.get(f"random_{name}_losses"))
    facts["curve"] = pruned.get("curve") or []
    facts["prune_seconds"] = pruned.get("seconds")
    return facts


def _describe(name: str, losses: Sequence[float] | None) -> dict[str, Any]:
    """Median, range and number of a control's losses; null where there is none."""
    if not losses:
        return {f"{name}_median": None, f"{name}_range": None, f"{name}_n": None}
    return {
        f"{name}_median": statistics.median(losses),
        f"{name}_range": [min(losses), max(losses)],
        f"{name}_n": len(losses),
    }


def geometric_mean_edges(edges: Iterable[int]) -> float | None:
    """Geometric mean of edge counts (METHOD §5), null for none.

    A circuit without edges (a task that the bigram table does alone) counts as one edge, so that the mean exists.
    """
    logs = [math.log(max(count, 1)) for count in edges]
    return math.exp(math.fsum(logs) / len(logs)) if logs else None
