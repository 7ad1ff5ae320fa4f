"""What somebody or something does to MLflow while a stage runs, done to a real local database."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from written import MODEL, write_checkpoint

from flows import tracking
from flows.tracking import Sender, Tracker
from flows.tracking_store import Store, TrackingError, probe
from pipeline.config import Params


@pytest.mark.parametrize("what", ["run", "experiment"])
def test_what_is_deleted_while_a_model_trains_comes_back(
    store: Store, params: Params, tmp_path: Path, what: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with Tracker(params, MODEL) as tracker:
        tracker.log_step(1, {"train_loss": 3.0})
        tracker._flush()
        while not (runs := store.find({"kind": "model"})):
            time.sleep(0.01)
        if what == "run":
            store.client.delete_run(runs[0].info.run_id)
        else:
            store.client.delete_experiment(store.experiment_id)
        tracker.log_step(2, {"train_loss": 2.0})
        tracker.log_model(write_checkpoint(tmp_path / "model", "abc"), tmp_path / "model")
    (run,) = store.find({"kind": "model", "model_hash": "abc"})
    assert (run.info.run_id, run.data.metrics["train_loss"]) == (runs[0].info.run_id, 2.0)
    assert capfd.readouterr().err == ""


def test_an_experiment_that_is_deleted_before_a_new_run_comes_back(store: Store) -> None:
    store.client.delete_experiment(store.experiment_id)
    store.new_run("new", {"kind": "model"})
    assert len(store.find({"kind": "model"})) == 1


def test_a_database_that_another_process_holds_is_waited_for(
    store: Store, params: Params, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Held for longer than SQLite itself waits, five seconds."""
    write_checkpoint(tmp_path / "model", "abc")
    with closing(sqlite3.connect(tmp_path / ".mlflow" / "mlflow.db", check_same_thread=False)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        release = threading.Timer(8, holder.rollback)
        release.start()
        with Tracker(params, MODEL) as tracker:
            tracker.log_checkpoint(tmp_path / "model")
        release.join()
    assert len(store.find({"kind": "model", "model_hash": "abc"})) == 1
    assert capfd.readouterr().err == ""


def test_a_job_is_tried_three_times_where_its_error_may_pass_and_once_where_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracking, "RETRY_SECONDS", (0.0, 0.0))
    tried: list[type[Exception]] = []

    def fail(kind: type[Exception]) -> None:
        tried.append(kind)
        raise kind("broken")

    for kind, times in ((tracking.MlflowException, 3), (TrackingError, 1)):
        sender = Sender("http://broken")
        sender.send(lambda kind=kind: fail(kind))  # type: ignore[misc]
        sender.close()
        assert sender.failed and tried.count(kind) == times


CONNECT = "from flows.tracking_store import Store\nStore('e').connect()"
IN_THE_MIDDLE = 300_000  # bytes of a database without a run, of a million


def sizes(folder: Path) -> list[int]:
    """Bytes of the files in a folder, some of which come and go."""
    found = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            found.append(path.stat().st_size)
    return found


def test_a_process_that_is_killed_while_it_makes_the_database_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    with subprocess.Popen([sys.executable, "-c", CONNECT]) as process:
        while not any(size > IN_THE_MIDDLE for size in sizes(tmp_path)):
            time.sleep(0.01)
        process.kill()
    assert not database.exists() or database.stat().st_size == 0
    Store("e").connect()


def test_a_database_in_a_folder_that_is_not_there_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="no such folder"):
        probe(f"sqlite:///{tmp_path / 'mistyped' / 'mlflow.db'}")
    assert list(tmp_path.iterdir()) == []
    probe(f"sqlite:///{tmp_path / '.mlflow' / 'mlflow.db'}")


def test_credentials_of_a_server_are_not_in_the_warning(capfd: pytest.CaptureFixture[str]) -> None:
    sender = Sender("http://ann:secret@127.0.0.1:1")
    sender.send(lambda: probe(sender.uri))
    sender.close()
    said = capfd.readouterr().err
    assert said.count("warning:") == 1 and "secret" not in said and "ann" not in said
