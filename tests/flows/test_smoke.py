"""The smoke study: its workspace is a clean copy that touches nothing else, and its results keep the contract."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows import smoke
from pipeline.ablation import Ablation
from pipeline.artifacts import read_json
from pipeline.circuit import Circuit
from pipeline.config import load_params
from pipeline.data.tasks import task_names

ROOT = Path(__file__).parent.parent.parent
MODEL_FIELDS = {
    "name", "kind", "n_layer", "d_model", "n_params", "l0", "tokens", "val_loss_nats", "train_seconds", "tasks",
    "n_solved", "geomean_edges",
}  # fmt: skip
TASK_FIELDS = {
    "expressible", "unpruned_loss", "solved", "n_nodes", "n_edges", "circuit_loss", "circuit_accuracy",
    "nodes_only_loss", "ablated_nodes_loss", "ablated_edges_loss", "random_nodes_loss_median",
}  # fmt: skip
OF_A_CIRCUIT = TASK_FIELDS - {"expressible", "unpruned_loss", "solved"}


def test_the_workspace_is_the_project_without_anything_made_from_it(tmp_path):
    workspace = smoke.make_workspace(ROOT, tmp_path / "w")
    there = {path.name for path in workspace.root.iterdir()}
    assert {"dvc.yaml", "pipeline", "flows", "profiles", "requirements.lock", ".dvc"} <= there
    assert not there & {"data", "models", "circuits", "ablations", "results", "dvc.lock", ".git", ".venv", ".mlflow"}
    params = load_params(workspace.params)
    assert params.profile == "smoke" and list(params.models) == ["dense_d64", "sparse_d96"]


def test_outside_a_checkout_the_same_files_are_found_by_walking(monkeypatch):
    by_git = smoke.project_files(ROOT)
    monkeypatch.setattr(smoke, "_git_files", lambda root: None)
    by_walk = smoke.project_files(ROOT)
    assert {path for path in by_git if path.suffix in {".py", ".yaml", ".lock"}} == {
        path for path in by_walk if path.suffix in {".py", ".yaml", ".lock"}
    }


def test_only_what_a_smoke_run_made_is_wiped(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work", encoding="utf-8")
    for folder in (tmp_path / "mine", ROOT, ROOT.parent):
        with pytest.raises(smoke.SmokeError, match="name another folder"):
            smoke.make_workspace(ROOT, folder)
    assert (tmp_path / "mine" / "thesis.txt").read_text(encoding="utf-8") == "years of work"
    first = smoke.make_workspace(ROOT, tmp_path / "w").root / "left.txt"
    first.touch()
    smoke.make_workspace(ROOT, tmp_path / "w")
    assert not first.exists()


def test_the_workspaces_environment_points_at_no_other_workspace(monkeypatch):
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI", "DVC_ROOT", "PYTHONPATH"):
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("HOME", "/home/me")
    found = smoke.workspace_environment()
    assert "elsewhere" not in found.values() and found["HOME"] == "/home/me"
    assert found["PATH"].startswith(str(Path(sys.executable).parent))


def test_the_table_tells_circuits_from_tasks_that_are_not_solved_or_not_expressible():
    assert smoke.outcome({"expressible": True, "n_edges": 1234, "circuit_loss": 0.1}) == "1,234 edges, alone 0.100"
    assert smoke.outcome({"expressible": True, "n_edges": 0, "circuit_loss": None}) == "0 edges"
    assert smoke.outcome({"expressible": True, "n_edges": None, "unpruned_loss": 0.5}) == "not solved (0.500)"
    assert smoke.outcome({"expressible": False, "n_edges": None, "unpruned_loss": None}) == "not expressible"


@pytest.fixture(scope="module")
def summary(studied) -> dict[str, Any]:
    return json.loads((studied.results / "summary.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_summary_keeps_its_contract(studied, summary):
    assert {"models", "frontier", "provenance"} <= set(summary)
    assert {model["name"]: model["kind"] for model in summary["models"]} == {
        "dense_d64": "dense",
        "sparse_d96": "sparse",
    }
    frontier = {"ratio_dense_to_sparse_edges_at_matched_loss", "tasks_compared", "method"}
    assert frontier <= set(summary["frontier"])
    for model in summary["models"]:
        assert set(model) >= MODEL_FIELDS
        assert set(model["tasks"]) == set(task_names())
        assert model["n_solved"] == sum(bool(task["solved"]) for task in model["tasks"].values())
        assert all(set(task) >= TASK_FIELDS for task in model["tasks"].values())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_where_there_is_no_circuit_there_are_no_numbers(summary):
    for model in summary["models"]:
        for name, task in model["tasks"].items():
            if not task["expressible"]:
                assert task["unpruned_loss"] is None, name
            if task["n_edges"] is None:
                assert all(task[key] is None for key in OF_A_CIRCUIT), name
            else:
                assert all(math.isfinite(task[key]) for key in OF_A_CIRCUIT), name
            # a task is pruned by its loss on validation pairs and counts as solved by that on test pairs
            assert task["n_edges"] is not None or not task["solved"], name


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_model_has_a_circuit_that_beats_chance_and_is_missed(summary):
    for model in summary["models"]:
        found = [task for task in model["tasks"].values() if task["n_edges"] is not None]
        assert found, f"{model['name']} solves no task: the smoke profile is too small"
        assert all(task["circuit_loss"] < math.log(2) for task in found)
        assert any(task["ablated_nodes_loss"] > 2 * task["unpruned_loss"] for task in found)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_circuit_was_tested_and_has_its_verdict(studied, summary):
    for model in summary["models"]:
        found = read_json(studied.validations(model["name"]))
        assert found["residual_kurtosis"]["n"] > 1
        for name, task in model["tasks"].items():
            if task["n_edges"] is not None:
                verdict = task["validation"]["verdict"]
                assert verdict == found["tasks"][name]["verdict"]
                assert (verdict["n_tested"] >= 4) == (task["n_nodes"] > 0)
                said = (found["tasks"][name].get("deciding") or found["tasks"][name])["verdict"]["claims"]
                assert task["claims"] == {claim: row["outcome"] for claim, row in said.items()}
    by_test = {row["name"]: row for row in summary["validation"]["by_test"]}
    assert by_test["sufficient_mean"]["sparse"]["n_tested"] > 0 and "values" in by_test


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_deciding_circuits_decide_and_are_where_the_summary_says(studied, summary):
    found = 0
    for model in summary["models"]:
        for name, task in model["tasks"].items():
            deciding = (task["circuits"]["deciding"] or {}) if task["n_edges"] is not None else {}
            if deciding and deciding["n_nodes"]:
                circuit = Circuit.load(studied.circuits(model["name"]) / name / "deciding")
                assert (circuit.n_nodes, circuit.n_edges) == (deciding["n_nodes"], deciding["n_edges"])
                assert [one.kind for one in circuit.ablations] == [Ablation.COUNTERFACTUAL, Ablation.MEAN]
                assert deciding["counterfactual_accuracy"] > 0.9 and deciding["calibration_scale"] <= 1
                found += 1
    assert found > 5 and summary["frontier"]["deciding"]["0.15"]["n_pairs"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_nodes_of_every_circuit_are_explained_up_to_the_most(studied, summary):
    most = load_params(studied.params).explain.most_nodes
    for model in summary["models"]:
        found = read_json(studied.explanations(model["name"]))
        solved = {name: task for name, task in model["tasks"].items() if task["n_edges"] is not None}
        sizes = {name: min(most, task["n_nodes"]) for name, task in solved.items()}
        assert {name: len(circuit["nodes"]) for name, circuit in found["circuits"].items()} == sizes
        assert set(found["nodes"]) == {node for circuit in found["circuits"].values() for node in circuit["nodes"]}
        assert any(node["label"] is not None for node in found["nodes"].values())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_ends_with_a_table_of_what_it_found(studied, summary):
    said = (studied.root / "said.txt").read_text(encoding="utf-8")
    assert all(model["name"] in said for model in summary["models"])
    assert all(name in said for name in task_names())
    console = Console(width=200)
    with console.capture() as captured:
        console.print(*smoke.tables(summary))
    assert f"{summary['models'][0]['val_loss_nats']:.3f}" in captured.get()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_again_nothing_is_out_of_date(studied):
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    environment = smoke.workspace_environment()
    found = subprocess.run(command, cwd=studied.root, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_model_and_circuit_is_in_the_workspaces_own_mlflow(studied, summary):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{studied.root / '.mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("sparse-circuits")
    runs = client.search_runs([experiment.experiment_id], "tags.latest = 'true'", max_results=1000)
    models = {run.data.params["model"] for run in runs if run.data.tags["kind"] == "model"}
    assert models == {model["name"] for model in summary["models"]}
    edges = {
        (run.data.params["model"], run.data.params["task"]): run.data.metrics["n_edges"]
        for run in runs
        if run.data.tags["kind"] == "circuit" and "n_edges" in run.data.metrics
    }
    assert edges == {
        (model["name"], name): task["n_edges"]
        for model in summary["models"]
        for name, task in model["tasks"].items()
        if task["n_edges"] is not None
    }
    verdicts = {
        (run.data.params["model"], run.data.params["task"]): (
            run.data.tags["verdict"], run.data.tags["claim_decides"], run.data.metrics["validation/n_supported"]
        )
        for run in runs
        if "verdict" in run.data.tags
    }  # fmt: skip
    assert verdicts == {
        (model["name"], name): (found["line"], task["claims"]["decides"], found["n_supported"])
        for model in summary["models"]
        for name, task in model["tasks"].items()
        if task["n_edges"] is not None
        for found in [task["validation"]["verdict"]]
    }
