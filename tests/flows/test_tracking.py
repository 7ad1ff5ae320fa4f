"""What MLflow is told, on a real local database; and that a server that is not there costs nothing but a warning."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from written import HYPERPARAMETERS, MODEL, TRIALS, record_circuits, write_checkpoint, write_circuits

from flows import tracking
from flows.tracking import Sender, Tracker, log_study
from flows.tracking_store import Store, as_metrics
from flows.tracking_trials import PrunedTask, send_trials
from flows.tracking_words import VIEWS
from pipeline.artifacts import read_json, write_json
from pipeline.config import Params


def train(params: Params, folder: Path, model_hash: str) -> None:
    """What flows.pretrain tells of a training."""
    with Tracker(params, MODEL) as tracker:
        tracker.log_step(1, {"step": 1, "train_loss": 3.0, "l0": 900.0})
        tracker.log_step(2, {"step": 2, "train_loss": 2.0, "l0": 250.0})
        tracker.log_model(write_checkpoint(folder, model_hash), folder)


def curve(store: Store, run: str, metric: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in store.client.get_metric_history(run, metric)]


def test_a_training_is_one_run_with_curves_facts_and_small_files(store: Store, params: Params, tmp_path: Path) -> None:
    train(params, tmp_path / "model", "abc")
    (run,) = store.find({"kind": "model", "model_hash": "abc"})
    assert run.info.status == "FINISHED"
    assert curve(store, run.info.run_id, "train_loss") == [(1, 3.0), (2, 2.0)]
    assert run.data.tags["key"] == f"{MODEL}:abc" and run.data.tags["latest"] == "true"
    assert {key: run.data.params[key] for key in ("model", "kind", "l0", "tokens", "d_model")} == {
        "model": MODEL, "kind": "sparse", "l0": "250", "tokens": "4096", "d_model": "256",
    }  # fmt: skip
    assert run.data.metrics["val_loss_nats"] == 2.5
    assert run.data.tags["mlflow.runColor"] == "#0a7ea4"  # of sparse models
    files = {file.path for file in store.client.list_artifacts(run.info.run_id)}
    assert files == {"config.json", "summary.json", "history.jsonl"}
    assert (tmp_path / ".mlflow" / "artifacts" / run.info.run_id).is_dir()


def test_no_curve_goes_on_after_the_last_step_of_the_training(store: Store, params: Params, tmp_path: Path) -> None:
    """A point at the number of tokens would squeeze the curve into the chart's first pixels."""
    train(params, tmp_path / "model", "abc")
    (run,) = store.find({"kind": "model", "model_hash": "abc"})
    assert curve(store, run.info.run_id, "l0/wte.weight") == [(2, 200.0)]
    assert {step for metric in run.data.metrics for step, _ in curve(store, run.info.run_id, metric)} == {1, 2}


def test_prune_and_ablate_fill_the_same_run_of_a_task(store: Store, params: Params, tmp_path: Path) -> None:
    checkpoint, circuits, ablations = tmp_path / "model", tmp_path / "circuits", tmp_path / "ablations.json"
    train(params, checkpoint, "abc")
    write_circuits(circuits, "abc", n_nodes=3)
    with Tracker(params, MODEL) as tracker:
        tracker.log_circuits(checkpoint, circuits)
    write_json(ablations, {"tasks": {"quotes": {"circuit_loss": 0.14, "ablated_nodes_loss": 2.0, "random": [1.0]}}})
    with Tracker(params, MODEL) as tracker:
        tracker.log_ablations(checkpoint, circuits, ablations)
    (model,) = store.find({"kind": "model"})
    runs = {run.data.tags["task"]: run for run in store.find({"kind": "circuit", "latest": "true"})}
    assert set(runs) == {"quotes", "brackets"}  # a task that is not expressible has no run
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {model.info.run_id}
    assert runs["quotes"].data.metrics == {
        "unpruned_loss": 0.1, "n_nodes": 3, "n_edges": 7, "log10_n_edges": pytest.approx(0.845, abs=1e-3),
        "circuit_loss": 0.14, "ablated_nodes_loss": 2.0,
        "model_val_loss": 2.5, "calibration_scale": 1.5, "n_trials": 2, "n_edges_at_0.5": 1,
        "discretised_n_nodes": 9, "discretised_n_edges": 21, "discretised_validation_loss": 0.149,
        "baseline_attribution_n_nodes": 12, "baseline_attribution_n_edges": 44,
        "baseline_attribution_validation_loss": 0.148,
    }  # fmt: skip
    assert {key: float(runs["quotes"].data.params[key]) for key in HYPERPARAMETERS} == HYPERPARAMETERS
    assert not set(HYPERPARAMETERS) & set(runs["brackets"].data.params)
    assert runs["brackets"].data.metrics == {"unpruned_loss": 0.6, "model_val_loss": 2.5}
    assert (runs["quotes"].data.tags["solved"], runs["brackets"].data.tags["solved"]) == ("true", "false")
    files = {file.path for file in store.client.list_artifacts(runs["quotes"].info.run_id, "circuit")}
    assert files == {"circuit/circuit.json", "circuit/circuit.safetensors", "circuit/trials.json"}


def test_circuits_are_found_by_the_claims_that_they_support(store: Store, params: Params, tmp_path: Path) -> None:
    record_circuits(params, tmp_path)
    claims = {"alone": {"outcome": "supported"}, "decides": {"outcome": "not supported"}}
    verdict = {"claims": claims, "n_supported": 1, "n_tested": 2, "line": "supports 1 of 6 claims"}
    write_json(tmp_path / "v.json", {"tasks": {"quotes": {"verdict": verdict}}})
    with Tracker(params, MODEL) as tracker:
        tracker.log_validations(tmp_path / "model", tmp_path / "circuits", tmp_path / "v.json")
    (run,) = store.find({"claim_alone": "supported", "claim_decides": "not supported", "latest": "true"})
    assert (run.data.tags["verdict"], run.data.metrics["validation/n_supported"]) == (verdict["line"], 1)
    assert (run.data.tags["claims"], run.data.metrics["n_claims_supported"]) == ("✓✗––––", 1)
    of_run = {"params": run.data.params, "metrics": run.data.metrics, "tags": run.data.tags}
    columns = [column.replace("`", "").split(".", 1) for column in VIEWS["circuits"][1]]
    assert [name for kind, name in columns if name not in of_run[kind]] == ["deciding/n_edges", "circuit_loss"]


def test_a_circuit_of_a_model_that_misses_the_target_on_test_pairs_is_not_solved(
    store: Store, params: Params, tmp_path: Path
) -> None:
    record_circuits(params, tmp_path)
    path = tmp_path / "circuits/summary.json"
    pruned = read_json(path)
    pruned["tasks"]["quotes"] |= {"unpruned_loss": 0.151, "unpruned_validation_loss": 0.149}
    write_json(path, pruned)
    with Tracker(params, MODEL) as tracker:
        tracker.log_circuits(tmp_path / "model", tmp_path / "circuits")
    assert pruned["tasks"]["quotes"]["solved"]
    assert {run.data.tags["solved"] for run in store.find({"kind": "circuit", "latest": "true"})} == {"false"}


def test_the_trials_of_a_search_are_runs_under_the_circuits(store: Store, params: Params, tmp_path: Path) -> None:
    record_circuits(params, tmp_path)
    (circuit,) = store.find({"kind": "circuit", "task": "quotes"})
    centre, optuna = sorted(store.find({"kind": "trial"}), key=lambda run: run.data.params["trial"])
    for run, trial in ((centre, TRIALS[0]), (optuna, TRIALS[1])):
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == circuit.info.run_id
        assert (run.data.tags["state"], run.data.tags["source"]) == (trial["state"], trial["source"])
        assert {key: float(run.data.params[key]) for key in HYPERPARAMETERS} == trial["hyperparameters"]
    assert centre.data.metrics == {"n_nodes": 9, "n_edges": 21, "validation_loss": 0.149}
    assert optuna.data.metrics == {}


def test_trials_are_never_among_the_circuits_or_the_latest(store: Store, params: Params, tmp_path: Path) -> None:
    record_circuits(params, tmp_path)
    assert len(store.find({"kind": "circuit"})) == 2
    assert {run.data.tags["kind"] for run in store.find({"latest": "true"})} == {"model", "circuit"}
    assert len(store.find({"kind": "trial"})) == 2


def test_the_same_circuit_told_again_has_the_same_trials_and_no_more(
    store: Store, params: Params, tmp_path: Path
) -> None:
    record_circuits(params, tmp_path)
    first = {run.info.run_id for run in store.find({"kind": "trial"})}
    record_circuits(params, tmp_path)
    write_json(tmp_path / "ablations.json", {"tasks": {"quotes": {"circuit_loss": 0.14}}})
    with Tracker(params, MODEL) as tracker:
        tracker.log_ablations(tmp_path / "model", tmp_path / "circuits", tmp_path / "ablations.json")
    assert {run.info.run_id for run in store.find({"kind": "trial"})} == first
    record_circuits(params, tmp_path, n_nodes=4)  # another circuit has a search of its own
    assert len(store.find({"kind": "trial"})) == 4 and len(store.find({"kind": "circuit", "task": "quotes"})) == 2


def test_a_trial_whose_recording_was_interrupted_is_completed(store: Store, params: Params, tmp_path: Path) -> None:
    record_circuits(params, tmp_path)
    (run,) = (run for run in store.find({"kind": "trial"}) if run.data.tags["state"] == "complete")
    store.client.update_run(run.info.run_id, status="RUNNING")
    record_circuits(params, tmp_path)
    assert {run.info.status for run in store.find({"kind": "trial"})} == {"FINISHED"}
    assert len(store.find({"kind": "trial"})) == 2


QUOTES = PrunedTask("quotes", {}, None, TRIALS)


def test_a_trial_costs_three_calls(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            calls.append(name)
            return getattr(client, name)

    client = store.client
    monkeypatch.setattr(store, "client", Counting())
    send_trials(store, MODEL, {store.new_run("circuit", {}): QUOTES}, lambda: False)
    assert sorted(calls) == sorted(["create_run", "search_runs"] + 2 * ["create_run", "log_batch", "set_terminated"])


def test_no_trial_is_sent_once_tracking_has_stopped(store: Store) -> None:
    answers = iter([False, True])
    send_trials(store, MODEL, {store.new_run("circuit", {}): QUOTES}, lambda: next(answers))
    assert len(store.find({"kind": "trial"})) == 1


def test_a_study_records_what_pruning_gained(store: Store, params: Params, tmp_path: Path) -> None:
    model = {
        "name": MODEL, "n_solved": 2, "geomean_edges": 10.0, "geomean_edges_discretised": 30.0, "val_loss_nats": 3.0,
    }  # fmt: skip
    summary = {
        "models": [model],
        "frontier": {"ratio_dense_to_sparse_edges_at_matched_loss": None},
        "minimisation": {"ratio_discretised_to_minimised": 3.0},
        "baselines": {"overall": {"random": {"ratio": 12.0}, "attribution": {"ratio": None}}},
        "validation": {"circuits": {"sparse": {"n_at_least": [9, 8, 7, 6, 5, 4, 1]}}},
        "provenance": {"git": None, "params_hash": "p"},
    }
    write_json(tmp_path / "results" / "summary.json", summary)
    record_circuits(params, tmp_path)
    log_study(params, summary, tmp_path / "results")
    (of_model,) = store.find({"kind": "model", "latest": "true"})
    assert (of_model.data.metrics["n_solved"], of_model.data.metrics["log10_geomean_edges"]) == (2, 1)
    (run,) = store.find({"kind": "study", "latest": "true"})
    assert run.data.metrics == {
        f"n_solved/{MODEL}": 2, f"geomean_edges/{MODEL}": 10, f"geomean_edges_discretised/{MODEL}": 30,
        f"val_loss_nats/{MODEL}": 3, "ratio_discretised_to_minimised_edges": 3,
        "ratio_baseline_to_learned_edges/random": 12, "n_circuits_of_five_claims/sparse": 4,
    }  # fmt: skip


def test_another_checkpoint_or_circuit_supersedes_and_the_first_comes_back(
    store: Store, params: Params, tmp_path: Path
) -> None:
    def latest() -> list[float]:
        return [run.data.metrics["n_nodes"] for run in store.find({"task": "quotes", "latest": "true"})]

    seen = []
    for model_hash, n_nodes in (("abc", 3), ("abc", 4), ("xyz", 5), ("abc", 3)):
        record_circuits(params, tmp_path, n_nodes, model_hash)
        seen.append(latest())
    assert seen == [[3], [4], [5], [3]]
    assert len(store.find({"kind": "circuit", "task": "quotes"})) == 3 and len(store.find({"kind": "model"})) == 2


def test_a_checkpoint_that_mlflow_never_saw_gets_its_run_from_its_files(
    store: Store, params: Params, tmp_path: Path
) -> None:
    record_circuits(params, tmp_path)
    (run,) = store.find({"kind": "model", "latest": "true"})
    assert curve(store, run.info.run_id, "val_loss") == [(1, 3.5), (2, 2.5)]


def test_an_interrupted_training_goes_on_in_its_run(store: Store, params: Params, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Tracker(params, MODEL) as tracker:
        tracker.log_step(0, {"train_loss": 4.0})
        raise KeyboardInterrupt
    (run,) = store.find({"kind": "model"})
    assert run.info.status == "KILLED"
    train(params, tmp_path / "model", "abc")
    (same,) = store.find({"kind": "model"})
    assert same.info.run_id == run.info.run_id and same.info.status == "FINISHED"
    assert curve(store, run.info.run_id, "train_loss") == [(0, 4.0), (1, 3.0), (2, 2.0)]


def test_training_again_after_the_end_is_a_run_of_its_own(store: Store, params: Params, tmp_path: Path) -> None:
    train(params, tmp_path / "model", "abc")
    train(params, tmp_path / "model", "xyz")
    new, old = store.find({"kind": "model"})
    assert (new.data.tags["model_hash"], new.data.tags["latest"]) == ("xyz", "true")
    assert (old.data.tags["model_hash"], old.data.tags["latest"]) == ("abc", "false")


def test_more_metrics_than_one_call_takes_are_all_recorded(store: Store) -> None:
    run = store.new_run("many", {"kind": "test"})
    store.write(run, metrics=[point for step in range(2300) for point in as_metrics({"loss": step}, step)])
    assert curve(store, run, "loss") == [(step, float(step)) for step in range(2300)]


def test_what_is_no_finite_number_is_no_metric() -> None:
    values = {"a": 1, "b": 0.5, "c": None, "d": True, "e": float("nan"), "f": [1.0], "g": "1"}
    assert {point.key: point.value for point in as_metrics(values, 0)} == {"a": 1.0, "b": 0.5}


def test_a_copied_workspace_leaves_the_files_of_the_first_one_alone(
    store: Store, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / ".mlflow", copy / ".mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copy / '.mlflow' / 'mlflow.db'}")
    train(params, tmp_path / "model", "abc")
    assert not (tmp_path / ".mlflow" / "artifacts").exists()
    assert capfd.readouterr().err.count("files are not") == 1
    again = Store(params.tracking.experiment)
    again.connect()
    assert [run.data.tags["model_hash"] for run in again.find({"kind": "model"})] == ["abc"]


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A port that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["nobody", "silent", "not a database", "unknown scheme", "malformed"])
def test_a_dead_store_is_one_warning_and_no_delay(
    kind: str,
    silent_server: str,
    params: Params,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text.db").write_text("certainly not a database, only a line of text that is long enough")
    uris: dict[str, Callable[[], str]] = {
        "nobody": free_address,
        "silent": lambda: silent_server,
        "not a database": lambda: f"sqlite:///{tmp_path / 'text.db'}",
        "unknown scheme": lambda: "gopher://nowhere",
        "malformed": lambda: "http://[",
    }
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uris[kind]())
    began = time.monotonic()
    train(params, tmp_path / "model", "abc")
    assert time.monotonic() - began < 40
    errors = capfd.readouterr().err
    assert errors.count("warning:") == 1
    assert f"MLFLOW_TRACKING_URI={uris[kind]()}" in errors or kind == "nobody"
    assert "unset MLFLOW_TRACKING_URI" in errors


def test_sending_never_waits_for_a_slow_server(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sender = Sender("http://slow")
    began = time.monotonic()
    for _ in range(100):
        sender.send(lambda: time.sleep(30))
    assert time.monotonic() - began < 10
    sender.close(seconds=0.2)
    assert time.monotonic() - began < 20
    assert "still busy after 0.2 s" in capfd.readouterr().err


def test_nothing_is_sent_after_a_failure() -> None:
    sender, done = Sender("http://broken"), []

    def fail() -> None:
        raise tracking.TrackingError("broken")

    for job in (lambda: done.append(1), fail, lambda: done.append(2)):
        sender.send(job)
    sender.close()
    assert done == [1] and sender.failed


def test_a_stage_waits_for_a_slow_server_a_twentieth_of_its_own_time() -> None:
    assert [tracking.patience(age) for age in (1.0, 400.0, 100_000.0)] == [5.0, 20.0, 60.0]
    assert 0 < tracking.process_age() < 24 * 3600
