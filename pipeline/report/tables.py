"""The summary as small tables: CSV for ``dvc plots``, flat JSON for ``dvc metrics``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.rows import Summary

FRONTIER_COLUMNS = (
    "name", "kind", "n_layer", "d_model", "n_params", "l0", "val_loss_nats", "n_solved", "geomean_edges",
)  # fmt: skip
METRICS = ("val_loss_nats", "n_solved", "geomean_edges", "geomean_edges_discretised")  # of a model
DIGITS = 4  # of a metric, so that two runs are compared at a glance; the summary has all digits
CURVE_COLUMNS = ("target_loss", "n_nodes", "n_edges", "loss")


def frontier_csv(summary: Summary) -> str:
    """One row a model that solves some task: where it stands on the frontier."""
    rows: list[Mapping[str, Any]] = [model for model in summary["models"] if model["geomean_edges"] is not None]
    return _csv(FRONTIER_COLUMNS, ([row[column] for column in FRONTIER_COLUMNS] for row in rows))


def curves_csv(summary: Summary) -> str:
    """One row a circuit of the loss-against-size curves."""
    rows = (
        [model["name"], model["kind"], name, *(point.get(column) for column in CURVE_COLUMNS)]
        for model in summary["models"]
        for name, task in model["tasks"].items()
        for point in task["curve"]
        if point.get("n_edges") is not None
    )
    return _csv(("model", "kind", "task", *CURVE_COLUMNS), rows)


def metrics(summary: Summary) -> dict[str, Any]:
    """The ratios and a few numbers of each model, to DIGITS significant digits, for ``dvc metrics show``, ``diff``."""
    frontier = summary["frontier"]
    low, high = frontier["interval"] or (None, None)
    found = {
        "ratio_dense_to_sparse_edges": frontier["ratio_dense_to_sparse_edges_at_matched_loss"],
        "ratio_low": low,
        "ratio_high": high,
        "n_tasks_compared": len(frontier["tasks_compared"]),
        "ratio_discretised_to_minimised_edges": summary["minimisation"]["ratio_discretised_to_minimised"],
        "ratio_baseline_to_learned_edges": {
            name: overall["ratio"] for name, overall in summary["baselines"]["overall"].items()
        },
        "n_within_test_margin": sum(model["test_loss"]["n_within"] for model in summary["models"]),
        "n_tested": sum(model["test_loss"]["n_tested"] for model in summary["models"]),
        "n_circuits_of_five_claims": {
            kind: found["n_at_least"][5] for kind, found in summary["validation"]["circuits"].items()
        },
        "models": {model["name"]: {key: model.get(key) for key in METRICS} for model in summary["models"]},
    }
    return {key: _rounded(value) for key, value in found.items()}


def _rounded(value: Any) -> Any:
    """A number, or all in a dictionary, to DIGITS significant digits; counts and null as they are."""
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
