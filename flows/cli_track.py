"""``sparse-circuits track``: MLflow is told what the files of this workspace say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from flows import environment
from pipeline.artifacts import ArtifactError, Workspace, read_json
from pipeline.config import load_params

if TYPE_CHECKING:
    from flows.tracking import Tracker

EXAMPLE = "Example: MLFLOW_TRACKING_URI=https://mlflow.example sparse-circuits track"
SECONDS = 3600.0  # in which one model has to be sent; nothing else waits for it


def track() -> None:
    """Record the models, circuits, tests and results of this workspace in MLflow: all that it missed while it was down,
    or lost with a deleted experiment, or never saw (after dvc pull). What it has already is not recorded twice."""
    from flows.tracking import Tracker, log_study  # takes seconds to import

    workspace = environment.workspace()
    params = load_params(workspace.params)
    models = [name for name in params.models if (workspace.model(name) / "summary.json").is_file()]
    report = workspace.results / "summary.json"
    if not models and not report.is_file():
        raise ArtifactError(f"{workspace.root}: neither models nor results to record; run dvc repro or dvc pull")
    for name in models:
        with Tracker(params, name, close_seconds=SECONDS) as tracker:
            tell(tracker, workspace, name)
        if tracker.sender.failed:
            raise typer.Exit(1)  # it has said why
        print(f"recorded: models/{name}")
    if report.is_file():
        if not log_study(params, read_json(report), workspace.results, close_seconds=SECONDS):
            raise typer.Exit(1)
        print("recorded: results")


def tell(tracker: Tracker, workspace: Workspace, name: str) -> None:
    """Tell MLflow all that there is of one model, in the order in which the stages do."""
    model, circuits = workspace.model(name), workspace.circuits(name)
    tracker.log_checkpoint(model)
    if (circuits / "summary.json").is_file():
        tracker.log_circuits(model, circuits)
        if workspace.ablations(name).is_file():
            tracker.log_ablations(model, circuits, workspace.ablations(name))
        if workspace.validations(name).is_file():
            tracker.log_validations(model, circuits, workspace.validations(name))
    if workspace.explanations(name).is_file():
        tracker.log_explanations(model, workspace.explanations(name))
