"""The study in one dictionary, results/summary.json: the tasks that each model solves, its circuits, their tests.

Losses are in nats. A value that does not exist is null, never 0. Circuits of tasks that a model does not solve are
never averaged in (§3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pipeline.ablation import Ablation
from pipeline.report.averages import geometric_mean_edges, mean_ratio, spread
from pipeline.report.circuits import both_circuits
from pipeline.report.claims import claims_of
from pipeline.report.frontier import compare
from pipeline.report.inputs import ModelRecord
from pipeline.report.necessity import necessity_curves
from pipeline.report.pruning import compare_baselines, curve_means, minimisation, minimised, minimised_logs
from pipeline.report.seed_spread import seed_spread
from pipeline.report.solved import all_solved, is_solved, solved_tasks
from pipeline.report.validation import brief, spreads_of_model, summarise_validation
from pipeline.report.verdicts import verdict
from pipeline.rows import ModelSummary, PruneRow, Summary, TaskSummary, ValidationRow

MODEL_FIELDS = (
    "name", "kind", "n_layer", "d_model", "n_params", "l0", "tokens", "val_loss_nats", "train_seconds", "model_hash",
    "l0_by_matrix",
)  # fmt: skip
PRUNE_FIELDS = (
    "reason", "unpruned_loss", "unpruned_validation_loss", "n_nodes", "n_edges", "validation_loss", "discretised",
    "calibration_scale", "hyperparameters", "n_trials", "one_minimal",
)  # fmt: skip
ABLATE_LOSSES = ("circuit_loss", "nodes_only_loss", "ablated_nodes_loss", "ablated_edges_loss")
UNCALIBRATED = ("circuit_loss_uncalibrated", "nodes_only_loss_uncalibrated")  # as the random sets are
ABLATE_ACCURACIES = ("unpruned_accuracy", "circuit_accuracy", "nodes_only_accuracy")
RANDOM_SETS = ("circuit", "nodes_only", "nodes", "edges")  # kinds of random sets, in the words of ablate


@dataclass(frozen=True)
class CircuitTarget:
    """The loss that every circuit of the study was made for, and under which ablation."""

    target_loss: float  # nats, on validation pairs
    margin: float  # nats that the loss on test pairs may be above it
    ablation: Ablation


def summarise(
    records: Sequence[ModelRecord],
    *,
    target: CircuitTarget,
    curve_losses: Sequence[float],
    seed: int,
    n_bootstrap: int,
    bigram_loss: float | None,
    provenance: Mapping[str, Any],
    architectures: Sequence[Sequence[str]] = (),
) -> Summary:
    """The contents of results/summary.json: models, comparisons, provenance; numbers finite or null.

    ``bigram_loss``: the validation loss in nats of the table of bigram counts alone. ``architectures``: names of models
    that differ in their seed alone, together.
    """
    models = [summarise_model(record, target) for record in records]
    return {
        "models": models,
        "frontier": compare(models, curve_losses=curve_losses, seed=seed, n_bootstrap=n_bootstrap)
        | {"seed_spread": seed_spread(models, architectures, target.target_loss)},
        "minimisation": minimisation(models, seed=seed, n_bootstrap=n_bootstrap),
        "baselines": compare_baselines(models, seed=seed, n_bootstrap=n_bootstrap),
        "curve_means": curve_means(models, curve_losses),
        "validation": summarise_validation(models) | {"necessity": necessity_curves(records, models)},
        "target_loss": target.target_loss,
        "test_margin": target.margin,
        "bigram_loss_nats": bigram_loss,
        "provenance": dict(provenance),
    }


def summarise_model(record: ModelRecord, target: CircuitTarget) -> ModelSummary:
    """One entry of ``models``: the model's facts, its tasks, how many it solves, its circuits' geometric-mean edges."""
    ablated, tested = record.ablated["tasks"], record.validated["tasks"]
    tasks = {
        name: summarise_task(pruned, ablated.get(name) or {}, tested.get(name), target)
        for name, pruned in record.pruned["tasks"].items()
    }
    solved = solved_tasks(tasks).values()
    facts = {field: record.pretrained.get(field) for field in MODEL_FIELDS} | {"tasks": tasks}
    model = cast(ModelSummary, facts)
    facts |= {
        "n_solved": len(solved),
        "geomean_edges": geometric_mean_edges(task["n_edges"] for task in solved),
        "geomean_edges_discretised": geometric_mean_edges(edges for _, edges, _ in minimised([model])),
        "ratio_discretised_to_minimised": mean_ratio([log for _, log in minimised_logs([model])]),
        "test_loss": check_test_loss(tasks),
        "residual_kurtosis": record.validated.get("residual_kurtosis"),
        "validation": spreads_of_model(model),
    }
    return model


def check_test_loss(tasks: Mapping[str, TaskSummary]) -> dict[str, Any]:
    """How many circuits of solved tasks stay within the margin of the target on test pairs, and which do not, by their
    verdict."""
    outcomes = {name: task["verdict"]["sufficient"]["passed"] for name, task in solved_tasks(tasks).items()}
    tested = {name: passed for name, passed in outcomes.items() if passed is not None}
    above = [name for name, passed in tested.items() if not passed]
    return {"n_tested": len(tested), "n_within": len(tested) - len(above), "above": above}


def summarise_task(
    pruned: PruneRow, ablated: Mapping[str, Any], tested: ValidationRow | None, target: CircuitTarget
) -> TaskSummary:
    """One task of one model. ``claims`` are those of the deciding circuit, where there is one; ``validation`` and
    ``verdict`` the paper's."""
    facts: dict[str, Any] = {"expressible": bool(pruned["expressible"])}
    facts |= {field: pruned.get(field) for field in PRUNE_FIELDS}
    facts["solved"] = is_solved(facts, target.target_loss)
    facts |= {field: ablated.get(field) for field in (*ABLATE_LOSSES, *UNCALIBRATED, *ABLATE_ACCURACIES)}
    for field in ("unpruned_loss", *ABLATE_LOSSES):
        facts[f"{field}_interval"] = ablated.get(f"{field}_interval")
    for name in RANDOM_SETS:
        facts |= _describe(f"random_{name}_loss", ablated.get(f"random_{name}_losses"))
    facts["curve"] = pruned.get("curve") or []
    facts["baselines"] = pruned.get("baselines") or {}
    facts["prune_seconds"] = pruned.get("seconds")
    facts["validation"] = None if tested is None else brief(tested)
    facts["circuits"] = both_circuits(pruned, ablated, tested)
    believed = tested and (tested.get("deciding") or tested)
    facts["claims"] = None if facts["n_edges"] is None else claims_of(believed)
    facts["verdict"] = verdict(cast(TaskSummary, facts), target.ablation)
    return cast(TaskSummary, facts)


def _describe(name: str, losses: Sequence[float] | None) -> dict[str, Any]:
    """Median, range and number of a control's losses; null where there is none."""
    found = spread(losses or ())
    ends = [found["low"], found["high"]] if losses else None
    return {f"{name}_median": found["median"], f"{name}_range": ends, f"{name}_n": found["n"] or None}


def smallest_circuits(summary: Summary) -> dict[str, str]:
    """Task → the model whose circuit for it has the fewest edges, for tasks that are solved."""
    best: dict[str, tuple[int, str]] = {}
    for model, name, task in all_solved(summary["models"]):
        if name not in best or task["n_edges"] < best[name][0]:
            best[name] = (task["n_edges"], model["name"])
    return {name: model for name, (_, model) in best.items()}
