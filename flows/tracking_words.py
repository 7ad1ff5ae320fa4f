"""Texts in MLflow's UI: a description of every run, and views of the experiment that open ready made.

A view is what the UI keeps of "Share": a tag of the experiment, opened by its name in the address
(``#/experiments/ID/runs?viewStateShareKey=NAME``). The experiment's description links to them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.report.chips import NAMES_SAID, SIGNS_SAID
from pipeline.rows import Claims, ModelRow

NOTE = "mlflow.note.content"  # the tag that the UI shows as the description; in tables of runs as plain text
COLOUR = "mlflow.runColor"  # the tag that has the colour of a run in every chart
COLOURS = {"sparse": "#0a7ea4", "dense": "#b8501a"}  # by kind of model, as in the report
VIEW = "mlflow.sharedViewState."
SECTION = "sizes"
# name → title of the link, columns, title of the chart, metrics on its axes. The UI's scatter chart has no logarithmic
# axis, so that sizes are recorded as powers of ten too.
VIEWS: dict[str, tuple[str, tuple[str, ...], str, str, str]] = {
    "circuits": (
        "Circuits: size against the model's loss",
        ("params.`model`", "params.`task`", "metrics.`n_edges`", "metrics.`n_nodes`", "metrics.`deciding/n_edges`",
         "metrics.`circuit_loss`", "metrics.`n_claims_supported`", "tags.`claims`",
         *(f"tags.`claim_{name}`" for name in Claims.__annotations__), "metrics.`model_val_loss`", "tags.`verdict`"),
        "Edges (powers of ten) against the model's validation loss (nats)", "model_val_loss", "log10_n_edges",
    ),
    "models": (
        "Models: mean circuit size against loss",
        ("params.`kind`", "params.`l0`", "metrics.`val_loss_nats`", "metrics.`n_solved`", "metrics.`geomean_edges`"),
        "Edges (powers of ten; geometric mean over solved tasks) against the validation loss (nats)", "val_loss_nats",
        "log10_geomean_edges",
    ),
}  # fmt: skip


LEGEND = f"claims: {NAMES_SAID}, in this order; {SIGNS_SAID}."


def of_model(summary: ModelRow) -> str:
    """The description of a checkpoint's run, from models/<name>/summary.json."""
    return (
        f"A {summary['kind']} transformer: {summary['n_layer']} layers, width {summary['d_model']}, "
        f"{summary['l0']:,} of {summary['n_params']:,} weights are not 0. Validation loss "
        f"{summary['val_loss_nats']:.3f} nats after {summary['tokens']:,} tokens. "
        "Its circuits are the runs under it."
    )


def of_circuit(model: str, task: str, row: Mapping[str, Any]) -> str:
    """The description of a circuit's run, from its row of summary.json and what tests have added to it."""
    if row["n_edges"] is None:
        loss = row.get("unpruned_loss")
        return f"{model} has no circuit for {task}" + ("" if loss is None else f": its own loss is {loss:.3f} nats")
    said = f"The circuit of {task} in {model}: {row['n_nodes']:,} nodes, {row['n_edges']:,} edges"
    if row.get("circuit_loss") is not None:
        said += f"; alone it has a loss of {row['circuit_loss']:.3f} nats"
    return f"{said}. Validation: {row.get('verdict', 'none yet')}."


def of_study(profile: str, ratio: float | None) -> str:
    """The description of a report's run; ``ratio``: edges of dense circuits to sparse ones."""
    found = "nothing to compare"
    if ratio is not None:
        found = f"dense circuits have {ratio:.2f} times the edges of sparse ones"
    return f"The study, profile {profile}: at matched loss, {found}. The report is the artifact results/index.html."


def experiment_tags(experiment_id: str) -> dict[str, str]:
    """Description and views of the experiment."""
    links = "\n".join(f"- [{title}]({view_path(experiment_id, name)})" for name, (title, *_) in VIEWS.items())
    note = {NOTE: f"Sparse and dense models, their circuits, and the study.\n\n{links}\n\n{LEGEND}\n"}
    return note | {VIEW + name: json.dumps(_view(name)) for name in VIEWS}


def view_path(experiment_id: str, name: str) -> str:
    """What follows the UI's address to open a view, its chart first."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={name}&compareRunsMode=CHART"


def _view(name: str) -> dict[str, Any]:
    """The state of the UI's page of runs: the latest runs of a kind, their columns, one scatter chart."""
    kind, (_, columns, title, x, y) = name.removesuffix("s"), VIEWS[name]
    chart = {
        "type": "SCATTER", "uuid": f"{kind}-chart", "metricSectionId": SECTION, "deleted": False, "isGenerated": False,
        "runsCountToCompare": 200, "xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"},
    }  # fmt: skip
    section = {
        "uuid": SECTION, "name": title, "display": True, "isReordered": False, "columns": 1, "cardHeight": 520,
    }  # fmt: skip
    return {
        "searchFilter": f"tags.kind = '{kind}' and tags.latest = 'true'",
        "orderByKey": f"metrics.`{x}`",
        "orderByAsc": True,
        "selectedColumns": ["attributes.`Description`", *columns],
        "runsHiddenMode": "SHOWALL",
        "compareRunCharts": [chart],
        "compareRunSections": [section],
        "isAccordionReordered": True,
    }
