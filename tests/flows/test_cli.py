"""The console script shows what MLflow was told, and refuses in one line."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import cli

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A workspace with an empty tracking database of its own; returns a function that records a run."""
    import mlflow

    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    client = mlflow.MlflowClient(uri)

    def record(tags: dict, params: dict, metrics: dict) -> None:
        found = client.get_experiment_by_name("sparse-circuits")
        where = found.experiment_id if found else client.create_experiment("sparse-circuits", tmp_path.as_uri())
        run = client.create_run(where, tags={"latest": "true"} | tags).info.run_id
        for key, value in params.items():
            client.log_param(run, key, value)
        for key, value in metrics.items():
            client.log_metric(run, key, value)

    return record


SIZES = {"kind": "sparse", "n_layer": 2, "d_model": 256, "l0": 54321}


def told(store) -> None:
    """Two models; one has a circuit of one task, an older one of the same, and a task it does not solve."""
    for model, loss in (("sparse_d256", 2.5), ("dense_d64", 3.25)):
        sizes = SIZES | {"model": model, "tokens": 6_000_000}
        store({"kind": "model", "model": model}, sizes, {"val_loss_nats": loss})
    rows = [
        (
            "bracket_counting",
            "true",
            "true",
            {"n_nodes": 12, "n_edges": 1234, "circuit_loss": 0.1415, "nodes_only_loss": 0.2}
            | {"validation/n_supported": 4},
        ),
        ("bracket_counting", "false", "true", {"n_nodes": 99, "n_edges": 9999, "circuit_loss": 0.1}),
        ("with_as", "true", "false", {"unpruned_loss": 0.625}),
    ]
    for task, latest, solved, metrics in rows:
        tags = {"kind": "circuit", "model": "sparse_d256", "task": task, "latest": latest, "solved": solved}
        store(tags, SIZES | {"model": "sparse_d256", "task": task, "target_loss": 0.15}, metrics)


def output(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def cells(text: str, first: str) -> list[str]:
    """The cells of the table's only row that begins with ``first``."""
    [row] = [line for line in text.splitlines() if line.startswith(f"│ {first} ")]
    return [cell.strip() for cell in row.strip("│").split("│")]


def test_models_are_listed_with_their_loss_and_the_tasks_they_solve(store):
    told(store)
    text = output("models")
    expected = ["sparse_d256", "sparse", "2", "256", "54,321", "6,000,000", "2.500", "1 of 2"]
    assert cells(text, "sparse_d256") == expected
    assert cells(text, "dense_d64")[-2:] == ["3.250", "–"]
    assert text.index("sparse_d256") < text.index("dense_d64")


def test_circuits_are_the_newest_and_nothing_stands_for_nothing(store):
    told(store)
    text = output("circuits")
    found = cells(text, "bracket_counting")
    assert found == [
        "bracket_counting",
        "sparse_d256",
        "sparse",
        "54,321",
        "12",
        "1,234",
        "–",
        "0.141",
        "0.200",
        "–",
        "–",
        "4",
    ]
    assert cells(text, "with_as")[4:7] == ["–", "–", "0.625"]
    assert text.index("circuit alone") < text.index("nodes alone") < text.index("without nodes")


def test_circuits_are_narrowed_down_by_model_and_task(store):
    told(store)
    assert "bracket_counting" not in output("circuits", "--task", "with_as")
    assert "with_as" in output("circuits", "--model", "sparse_d256", "--task", "with_as")


def refusal(monkeypatch, capsys, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["sparse-circuits", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 1
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_refusals_are_one_line(store, monkeypatch, capsys):
    def one(*arguments: str) -> str:
        [line] = refusal(monkeypatch, capsys, *arguments).splitlines()
        return line

    assert "MLflow has no model yet" in one("models")
    told(store)
    assert "MLflow has no circuit yet" in one("circuits", "--model", "dense_d64")
    assert one("circuits", "--task", "with_has") == "error: unknown task 'with_has'; did you mean 'with_as'?"
    assert one("circuits", "--model", "d64").startswith("error: unknown model 'd64'; params.yaml has ")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert one("models").startswith("error: MLFLOW_TRACKING_URI=http://127.0.0.1:9: ")


def test_without_settings_the_folder_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "params.yaml: no such file; run from the project's folder" in refusal(monkeypatch, capsys, "tasks")


def test_all_twenty_tasks_are_shown_with_an_example(store):
    text = output("tasks")
    from pipeline.data.tasks import task_names

    assert len(task_names()) >= 20 and all(name in text for name in task_names())
    assert "elif" in text and "' not'" in text


@pytest.mark.parametrize("command", ["models", "circuits", "tasks"])
def test_every_command_has_help_with_an_example(command):
    assert f"Example: sparse-circuits {command}" in output(command, "--help")
