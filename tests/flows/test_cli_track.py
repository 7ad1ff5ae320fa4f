"""``sparse-circuits track`` fills a real local MLflow from the files of a workspace, and fills it once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from closing import ROOT, run
from written import MODEL, write_checkpoint, write_circuits

from flows.tracking import Tracker
from flows.tracking_store import FINISHED, Store
from pipeline.artifacts import Workspace, write_json
from pipeline.config import Params

SUMMARY: dict[str, Any] = {
    "models": [{"name": MODEL, "n_solved": 1, "geomean_edges": 7.0, "geomean_edges_discretised": 21.0,
                "val_loss_nats": 2.5}],
    "frontier": {"ratio_dense_to_sparse_edges_at_matched_loss": 3.0},
    "minimisation": {"ratio_discretised_to_minimised": 3.0},
    "baselines": {"overall": {}},
    "validation": {"circuits": {}},
    "provenance": {"git": None, "params_hash": "p"},
}  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """What dvc pull brings: a model, its circuits, their ablations and a report; MLflow knows of none."""
    database = tmp_path / ".mlflow" / "mlflow.db"
    database.parent.mkdir()
    shutil.copy(empty_database, database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    made = Workspace(tmp_path)
    write_checkpoint(made.model(MODEL), "abc")
    write_circuits(made.circuits(MODEL), "abc", n_nodes=3)
    write_json(made.ablations(MODEL), {"tasks": {"quotes": {"circuit_loss": 0.14}}})
    write_json(made.explanations(MODEL), {})
    write_json(made.results / "summary.json", SUMMARY)
    return made


@pytest.fixture
def track(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[[], tuple[int, str, str]]:
    return lambda: run(monkeypatch, capfd, "track")


def recorded(params: Params) -> Store:
    store = Store(params.tracking.experiment)
    store.connect()
    return store


def test_all_that_is_there_is_recorded_once(workspace: Workspace, track: Any, params: Params) -> None:
    assert track() == (0, f"recorded: models/{MODEL}\nrecorded: results\n", "")
    store = recorded(params)
    runs = {kind: store.find({"kind": kind}) for kind in ("model", "circuit", "trial", "study")}
    assert {kind: len(found) for kind, found in runs.items()} == {"model": 1, "circuit": 2, "trial": 2, "study": 1}
    (quotes,) = store.find({"kind": "circuit", "task": "quotes", "latest": "true"})
    assert (quotes.data.metrics["n_edges"], quotes.data.metrics["circuit_loss"]) == (7, 0.14)
    (model,) = runs["model"]
    assert (model.data.tags["model_hash"], model.data.metrics["n_solved"]) == ("abc", 1)
    assert "abc" not in {run.data.tags.get("model_hash") for run in runs["study"]}
    files = {file.path for file in store.client.list_artifacts(model.info.run_id)}
    assert files == {"config.json", "summary.json", "history.jsonl", f"{MODEL}.json"}
    assert track()[0] == 0
    assert {kind: {run.info.run_id for run in store.find({"kind": kind})} for kind in runs} == {
        kind: {run.info.run_id for run in found} for kind, found in runs.items()
    }


def test_another_report_is_another_run_and_the_latest(workspace: Workspace, track: Any, params: Params) -> None:
    track()
    write_json(workspace.results / "summary.json", SUMMARY | {"minimisation": {"ratio_discretised_to_minimised": 4.0}})
    track()
    (run,) = recorded(params).find({"kind": "study", "latest": "true"})
    assert run.data.metrics["ratio_discretised_to_minimised_edges"] == 4
    assert len(recorded(params).find({"kind": "study"})) == 2


def test_what_a_dying_server_left_half_recorded_is_completed(workspace: Workspace, track: Any, params: Params) -> None:
    """Runs without their numbers and files, as a connection that was cut in between leaves them."""
    store = recorded(params)
    model = store.new_run(MODEL, {"kind": "model", "model": MODEL, "model_hash": "abc"})
    tags = {"kind": "circuit", "model": MODEL, "task": "quotes", "model_hash": "abc"}
    track()
    (whole,) = store.find(tags)
    store.client.delete_run(whole.info.run_id)
    circuit = store.new_run("half", tags | {"identity": whole.data.tags["identity"]})
    (study,) = store.find({"kind": "study"})
    store.client.update_run(study.info.run_id, status="RUNNING")
    track()
    (half,) = store.find(tags)
    assert (half.info.run_id, half.info.status) == (circuit, FINISHED)
    assert half.data.params == whole.data.params and half.data.metrics == whole.data.metrics
    assert [file.path for file in store.client.list_artifacts(circuit)] == ["circuit"]
    (told,) = store.find({"kind": "model"})
    assert (told.info.run_id, told.info.status, told.data.metrics["val_loss_nats"]) == (model, FINISHED, 2.5)
    (again,) = store.find({"kind": "study"})
    assert (again.info.run_id, again.info.status) == (study.info.run_id, FINISHED)


def test_the_curves_of_a_training_that_mlflow_saw_in_part_are_completed(
    workspace: Workspace, track: Any, params: Params
) -> None:
    with pytest.raises(KeyboardInterrupt), Tracker(params, MODEL) as tracker:
        tracker.log_step(1, {"step": 1, "train_loss": 3.0, "val_loss": 3.5})
        raise KeyboardInterrupt
    track()
    store = recorded(params)
    (model,) = store.find({"kind": "model"})
    points = store.client.get_metric_history(model.info.run_id, "train_loss")
    assert [(point.step, point.value) for point in points] == [(1, 3.0), (2, 2.0)]


def test_a_deleted_experiment_is_filled_again(workspace: Workspace, track: Any, params: Params) -> None:
    track()
    store = recorded(params)
    store.client.delete_experiment(store.experiment_id)
    assert track()[0] == 0
    assert len(store.find({"kind": "model"})) == 1 and len(store.find({"kind": "circuit"})) == 2
    for found in store.find({"kind": "model"}):
        store.client.delete_run(found.info.run_id)
    assert track()[0] == 0
    assert len(store.find({"kind": "model"})) == 1


def test_a_server_that_is_not_there_is_one_warning_and_status_1(
    workspace: Workspace, track: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(workspace.model(MODEL), workspace.model("dense_d32"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@127.0.0.1:1")
    status, said, warned = track()
    assert (status, said, warned.count("warning:")) == (1, "", 1)
    assert "secret" not in warned and "127.0.0.1:1" in warned


def test_an_empty_workspace_is_refused(workspace: Workspace, track: Any) -> None:
    shutil.rmtree(workspace.model(MODEL))
    shutil.rmtree(workspace.results)
    status, _, error = track()
    assert status == 1 and error.count("\n") == 1 and "neither models nor results" in error


def test_a_damaged_file_is_named(workspace: Workspace, track: Any) -> None:
    (workspace.model(MODEL) / "summary.json").write_text(json.dumps({})[:1], encoding="utf-8")
    status, _, error = track()
    assert status == 1 and error.count("\n") == 1 and "summary.json: damaged" in error
