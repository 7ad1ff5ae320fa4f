"""The console script shows what MLflow was told, and refuses in one line."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import cli
from pipeline.ablation import Ablation
from pipeline.prune.prune import empty_row
from pipeline.report.summary import CircuitTarget, summarise_task

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def store(tmp_path, empty_database, monkeypatch):
    """A workspace with an empty tracking database of its own; returns a function that records a run."""
    import mlflow
    from mlflow.entities import Metric, Param

    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    client = mlflow.MlflowClient(uri)

    def record(tags: dict, params: dict, metrics: dict) -> None:
        found = client.get_experiment_by_name("sparse-circuits")
        where = found.experiment_id if found else client.create_experiment("sparse-circuits", tmp_path.as_uri())
        run = client.create_run(where, tags={"latest": "true"} | tags).info.run_id
        named = [Param(key, str(value)) for key, value in params.items()]
        client.log_batch(run, [Metric(key, value, 0, 0) for key, value in metrics.items()], named)

    return record


SIZES = {"kind": "sparse", "n_layer": 2, "d_model": 256, "l0": 54321}
LONG = {"model": "sparse_d512_quarter_l0", "task": "set_or_string_fixedvarname"}  # the longest names of the study
CLAIMS = {"alone": "supported", "decides": "not supported", "needed": "supported", "mechanism": "not tested"}


def told(store) -> None:
    """Two models; one has a circuit of one task, an older one of the same, and a task it does not solve."""
    for model, loss in (("sparse_d256", 2.5), ("dense_d64", 3.25)):
        sizes = SIZES | {"model": model, "tokens": 6_000_000}
        store({"kind": "model", "model": model}, sizes, {"val_loss_nats": loss})
    found = {"unpruned_loss": 0.0625, "n_nodes": 12, "n_edges": 1234, "circuit_loss": 0.1415, "nodes_only_loss": 0.2}
    circuit(store, found | {"deciding/n_edges": 2000}, claims=CLAIMS)
    circuit(store, {"unpruned_loss": 0.0625, "n_nodes": 99, "n_edges": 9999, "circuit_loss": 0.1}, latest="false")
    circuit(store, {"unpruned_loss": 0.625}, task="with_as")


def circuit(store, metrics, *, model="sparse_d256", task="bracket_counting", latest="true", claims=None) -> None:
    """Tell of a circuit of one of the models."""
    tags = {"kind": "circuit", "model": model, "task": task, "latest": latest}
    tags |= {f"claim_{name}": outcome for name, outcome in (claims or {}).items()}
    store(tags, SIZES | {"model": model, "task": task, "target_loss": 0.15}, metrics)


def output(*arguments: str, columns: int = 160) -> str:
    result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False, env={"COLUMNS": str(columns)})
    assert result.exit_code == 0
    return result.output


def rows_of(*arguments: str) -> list[dict]:
    """What a listing says as JSON."""
    return json.loads(output(*arguments, "--json"))


def cells(text: str, first: str) -> list[str]:
    """The cells of the table's only row that begins with ``first``."""
    [row] = [line for line in text.splitlines() if line.startswith(f"{first} ")]
    return row.split()


def test_models_are_listed_with_their_loss_and_the_tasks_they_solve(store):
    told(store)
    text = output("models")
    assert cells(text, "sparse_d256") == "sparse_d256 sparse 2 256 54,321 6,000,000 2.500 1 of 2 –".split()
    assert cells(text, "dense_d64")[-3:] == ["3.250", "–", "–"]
    assert text.index("sparse_d256") < text.index("dense_d64")
    assert [(row["n_solved"], row["n_tasks"]) for row in rows_of("models")] == [(1, 2), (None, None)]


@pytest.mark.parametrize(("test_loss", "solved"), [(0.149, True), (0.151, False)])
def test_the_summary_and_the_command_agree_on_what_is_solved(store, test_loss, solved):
    """Both circuits meet the target on validation pairs; the second model's loss on test pairs is above it."""
    row = empty_row() | {"expressible": True, "reason": None, "solved": True, "n_nodes": 5, "n_edges": 7}
    row |= {"unpruned_loss": test_loss, "unpruned_validation_loss": 0.14}
    assert summarise_task(row, {}, None, CircuitTarget(0.15, 0.05, Ablation.MEAN))["solved"] is solved
    told(store)
    circuit(store, {"unpruned_loss": test_loss, "n_nodes": 5, "n_edges": 7}, model="dense_d64")
    assert [row["solved"] for row in rows_of("circuits", "--model", "dense_d64")] == [solved]
    assert f"{int(solved)} of 1" in output("models")


def test_circuits_are_the_newest_and_nothing_stands_for_nothing(store):
    told(store)
    first, second = rows_of("circuits")
    assert (first["n_nodes"], first["n_edges"], first["deciding_n_edges"]) == (12, 1234, 2000)
    assert (first["circuit_loss"], first["ablated_nodes_loss"]) == (0.1415, None)
    assert second["task"] == "with_as" and second["n_edges"] is second["claim_alone"] is None
    row = cells(output("circuits"), "bracket_counting")
    assert row == [
        "bracket_counting", "sparse_d256", "54,321", "12", "1,234", "2,000", "0.062", "0.141", "0.200", "–", "–",
        "✓✗✓–––",
    ]  # fmt: skip


def test_the_claims_are_those_that_the_runs_tags_have(store):
    told(store)
    first, second = rows_of("circuits")
    assert {name: first[f"claim_{name}"] for name in CLAIMS} == CLAIMS
    assert (first["n_claims_supported"], second["n_claims_supported"]) == (2, None)


def test_eighty_columns_hold_the_longest_names_whole_with_sizes_loss_and_claims(store):
    told(store)
    metrics = {"unpruned_loss": 0.1, "n_nodes": 1234, "n_edges": 12345, "circuit_loss": 0.1415}
    circuit(store, metrics | {"deciding/n_edges": 23456}, **LONG, claims=CLAIMS)
    text = output("circuits", columns=80)
    assert max(map(len, text.splitlines())) <= 80
    assert cells(text, LONG["task"]) == [LONG["task"], LONG["model"], "12,345", "23,456", "0.141", "✓✗✓–––"]
    assert "alone, decides, needed, mechanism, elsewhere, not artefact" in " ".join(text.split())
    assert max(map(len, output("models", columns=80).splitlines())) <= 80


def test_csv_and_json_say_the_same_and_more_than_the_table(store):
    told(store)
    table = list(csv.DictReader(io.StringIO(output("circuits", "--csv"))))
    as_text = [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows_of("circuits")]
    assert table == as_text and {"kind", "solved", "ablated_edges_loss"} <= set(table[0])


def test_rows_are_sorted_as_asked_and_those_without_a_value_come_last(store):
    told(store)
    circuit(store, {"unpruned_loss": 0.1, "n_nodes": 40, "n_edges": 30}, task="quotes")
    for order, expected in (((), [30, 1234, None]), (("--reverse",), [1234, 30, None])):
        assert [row["n_edges"] for row in rows_of("circuits", "--sort", "n_edges", *order)] == expected


def test_circuits_are_narrowed_down_by_model_and_task(store):
    told(store)
    assert "bracket_counting" not in output("circuits", "--task", "with_as")
    assert "with_as" in output("circuits", "--model", "sparse_d256", "--task", "with_as")


def test_the_version_is_that_of_the_package():
    assert output("--version") == f"sparse-circuits {importlib.metadata.version('sparse-circuits')}\n"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("circ", ["circuits"]),
        ("circuits --model dense_d64", ["dense_d64", "dense_d64_again", "dense_d64_long"]),
        ("circuits --task with", ["with_as", "with_open"]),
        ("circuits --sort n_", ["n_nodes", "n_edges", "n_claims_supported"]),
    ],
)
def test_the_shell_completes_commands_names_and_columns(typed, offered, store, tmp_path):
    script = tmp_path / "sparse-circuits"
    script.write_text("from flows.cli import main\nmain()\n")
    words = f"sparse-circuits {typed}"
    asked = {"_SPARSE_CIRCUITS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(typed.count(" ") + 1)}
    told_by = subprocess.run(
        [sys.executable, script], env=os.environ | asked | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert told_by.stdout.split() == offered


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
    assert one("circuits", "--sort", "n_edge") == "error: --sort: unknown column 'n_edge'; did you mean 'n_edges'?"
    assert one("models", "--json", "--csv") == "error: --json and --csv are two forms; take one of them"
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
