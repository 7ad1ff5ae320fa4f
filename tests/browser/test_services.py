"""The UIs of Prefect and MLflow in a real browser, over a smoke study: its runs, its artifacts, its views."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import mlflow
import pytest

from flows import environment, services, smoke
from pipeline.artifacts import Workspace
from tests.browser.chromium import Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
MODEL = "sparse_d96"
PATIENCE = 120  # seconds; their pages load many scripts
THEIRS = "404 (Not Found)"  # what the UIs ask their own server for in vain: an icon, the name of the user


@pytest.fixture(scope="module")
def addresses(studied: Workspace) -> Iterator[dict[str, str]]:
    """Where ``make ui`` serves both over the smoke study's workspace; stopped at the end."""
    run_services(studied, "ui")
    found = {
        "prefect": environment.running(services.services_of(studied.root)[0].record),
        "mlflow": environment.running(services.services_of(studied.root)[1].record),
    }
    yield {name: url.removesuffix("/api") for name, url in found.items() if url}
    run_services(studied, "down")


def run_services(workspace: Workspace, action: str) -> None:
    command = [sys.executable, "-m", "flows.services", action]
    subprocess.run(command, cwd=workspace.root, env=smoke.workspace_environment(), check=True)


@pytest.fixture
def ui(page: Page, addresses: dict[str, str]) -> Iterator[Page]:
    """A page on which, at the end, nothing has gone wrong and nobody but this machine was asked."""
    yield page
    assert [error for error in page.errors if THEIRS not in error] == []
    assert all(request.startswith(tuple(addresses.values())) for request in page.requests)


def says(page: Page, *texts: str) -> None:
    """Returns when all texts are on the page."""
    for text in texts:
        page.wait_for(f"document.body.innerText.includes({json.dumps(text)})", PATIENCE)


def latest(workspace: Workspace, kind: str) -> list[mlflow.entities.Run]:
    """The newest runs of a kind in the workspace's own MLflow."""
    client = mlflow.MlflowClient(f"sqlite:///{workspace.root / '.mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("sparse-circuits")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}' and tags.latest = 'true'"))


def test_prefect_shows_the_run_of_every_stage_by_name(ui, addresses):
    ui.goto(f"{addresses['prefect']}/runs?limit=100", PATIENCE)
    says(ui, "report", f"validate {MODEL}")


def test_prefect_has_progress_circuits_and_the_way_to_the_report(ui, addresses):
    ui.goto(f"{addresses['prefect']}/artifacts", PATIENCE)
    says(ui, "progress-prune-sparse-d96", "circuits-sparse-d96", "validations-sparse-d96", "The report: ")


def test_mlflows_view_of_circuits_lists_them_with_their_sizes(ui, studied, addresses):
    runs = latest(studied, "circuit")
    solved = next(run for run in runs if "n_edges" in run.data.metrics)
    experiment = solved.info.experiment_id
    ui.viewport(2600, 900)  # columns that do not fit are not drawn
    ui.goto(f"{addresses['mlflow']}/#/experiments/{experiment}/runs?viewStateShareKey=circuits", PATIENCE)
    says(ui, f"{len(runs)} matching runs", "n_edges", "model_val_loss")


def test_mlflows_chart_of_size_against_loss_is_drawn(ui, studied, addresses):
    experiment = latest(studied, "study")[0].info.experiment_id
    view = "viewStateShareKey=circuits&compareRunsMode=CHART"
    ui.goto(f"{addresses['mlflow']}/#/experiments/{experiment}/runs?{view}", PATIENCE)
    ui.wait_for("document.querySelectorAll('.scatterlayer .point').length > 0", PATIENCE)
    says(ui, "Edges (powers of ten) against the model's validation loss (nats)", "log10_n_edges")


def test_mlflow_describes_a_circuits_run(ui, studied, addresses):
    run = next(run for run in latest(studied, "circuit") if "n_edges" in run.data.metrics)
    ui.goto(f"{addresses['mlflow']}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}", PATIENCE)
    says(ui, run.info.run_name, f"{int(run.data.metrics['n_edges']):,} edges")


def test_mlflow_previews_the_report(ui, studied, addresses):
    run = latest(studied, "study")[0]
    place = f"experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/results/index.html"
    ui.goto(f"{addresses['mlflow']}/#/{place}", PATIENCE)
    ui.wait_for("document.querySelector('iframe[src], iframe[srcdoc]')", PATIENCE)
