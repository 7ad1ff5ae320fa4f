"""The pages that ``make ui`` says: Prefect's runs and tables, MLflow's views under the experiment's own number."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows import services
from flows.tracking_store import Store
from pipeline.config import Params

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace that MLflow has not been told anything of."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return tmp_path


def pages() -> dict[str, str]:
    return services.useful_pages("http://prefect", "http://mlflow")


def test_mlflows_views_are_opened_by_the_number_of_the_experiment(
    workspace: Path, empty_database: Path, params: Params
) -> None:
    shutil.copy(empty_database, workspace / "mlflow.db")
    store = Store(params.tracking.experiment)
    store.connect()
    place = f"http://mlflow/#/experiments/{store.experiment_id}/runs?viewStateShareKey="
    assert pages() == {
        "Prefect, runs": "http://prefect/runs",
        "Prefect, tables": "http://prefect/artifacts",
        "MLflow, circuits": f"{place}circuits&compareRunsMode=CHART",
        "MLflow, models": f"{place}models&compareRunsMode=CHART",
    }


def test_without_a_study_the_servers_addresses_are_said_and_no_database_is_made(workspace: Path) -> None:
    assert pages()["MLflow"] == "http://mlflow" and not (workspace / "mlflow.db").exists()
    (workspace / "params.yaml").write_text("nonsense: 1")
    assert pages()["MLflow"] == "http://mlflow"


def test_nothing_is_opened_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither into a pipe nor on a machine without a screen, where a browser in text would take the terminal."""
    opened: list[str] = []
    monkeypatch.setattr(services.webbrowser, "open", opened.append)
    for terminal, screen in ((True, ""), (False, ":0"), (True, ":0")):
        monkeypatch.setattr(services.sys.stdout, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr(services.sys, "platform", "linux")
        monkeypatch.setenv("DISPLAY", screen)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        assert opened == []
        services.open_pages(["http://page"])
    assert opened == ["http://page"]
