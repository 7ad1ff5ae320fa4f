"""A study made in one go has its seconds; one with a stage from before, or from DVC's cache, has none."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prefect.states import Completed, Failed

from flows import mapped, one_go, stage
from flows.report import validation_seconds
from flows.smoke import workspace_environment
from flows.study import needed_for
from pipeline.artifacts import Workspace, write_json

ROOT = Path(__file__).parent.parent.parent
STAGES = ("corpus", "prune@a")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def in_run(monkeypatch: pytest.MonkeyPatch):
    """This process belongs to a run that began so many seconds ago; None: to none."""

    def began(ago: float | None) -> None:
        monkeypatch.setattr(one_go, "_began_of_dvc", lambda: None)
        monkeypatch.delenv(one_go.BEGAN_VARIABLE, raising=False)
        if ago is not None:
            monkeypatch.setenv(one_go.BEGAN_VARIABLE, f"{time.time() - ago:.2f}")

    return began


def make(workspace: Workspace, *stages: str) -> None:
    for name in stages:
        one_go.begin(workspace, name)
        one_go.finish(workspace, name)


def test_a_study_made_in_one_run_has_the_seconds_since_it_began(workspace: Workspace, in_run) -> None:
    in_run(100)
    make(workspace, *STAGES)
    assert one_go.seconds_in_one_go(workspace, STAGES) == pytest.approx(100, abs=20)


@pytest.mark.parametrize("earlier", [1000, None])
def test_a_stage_of_another_run_or_of_none_has_none(workspace: Workspace, in_run, earlier: float | None) -> None:
    in_run(earlier)
    make(workspace, "corpus")
    in_run(100)
    make(workspace, "prune@a")
    assert one_go.seconds_in_one_go(workspace, STAGES) is None
    assert one_go.seconds_in_one_go(workspace, ["prune@a"]) is not None


def test_a_stage_that_was_never_made_here_and_a_report_by_hand_have_none(workspace: Workspace, in_run) -> None:
    in_run(100)
    make(workspace, "corpus")
    assert one_go.seconds_in_one_go(workspace, STAGES) is None
    in_run(None)
    assert one_go.seconds_in_one_go(workspace, ["corpus"]) is None


def test_a_stage_that_goes_on_from_an_earlier_run_is_of_that_run(workspace: Workspace, in_run) -> None:
    in_run(1000)
    one_go.begin(workspace, "corpus")  # and is interrupted
    in_run(100)
    make(workspace, "corpus")
    assert one_go.seconds_in_one_go(workspace, ["corpus"]) is None
    in_run(50)
    make(workspace, "corpus")  # from its beginning
    assert one_go.seconds_in_one_go(workspace, ["corpus"]) is not None


def test_a_stage_with_units_from_before_has_none(workspace: Workspace, in_run, monkeypatch) -> None:
    in_run(100)
    one_go.begin(workspace, "prune@a")
    states = {"if_equals": "Completed", "var_if": "Cached"}
    monkeypatch.setattr(mapped.environment, "workspace", lambda: workspace)
    monkeypatch.setattr(mapped.runtime, "flow_run", SimpleNamespace(flow_name="prune", parameters={"model": "a"}))
    for name in ("create_progress_artifact", "update_progress_artifact", "loaded_model", "prepare_cpu"):
        monkeypatch.setattr(mapped, name, lambda *args, **options: None)

    def submit(task: str, values: dict[str, Any]) -> SimpleNamespace:
        return SimpleNamespace(wait=int, result=dict, state=SimpleNamespace(name=states[task]))

    unit: Any = SimpleNamespace(name="prune", submit=submit, with_options=lambda **options: None)
    inputs = {"model": "a", "model_hash": "h", "device": "cpu"}
    for task in states:
        mapped.run_units(unit, {task: inputs})
    one_go.finish(workspace, "prune@a")
    note = json.loads((workspace.scratch / "made" / "prune@a.json").read_text(encoding="utf-8"))
    assert (note["finished"], note["n_reused"]) == (True, 1)
    assert one_go.seconds_in_one_go(workspace, ["prune@a"]) is None


def test_the_program_of_a_stage_notes_its_end_only_where_it_completed(
    workspace: Workspace, in_run, monkeypatch
) -> None:
    in_run(100)
    params = SimpleNamespace(model=lambda name: None, compute=None)
    monkeypatch.setattr(stage, "load_study", lambda: (workspace, params))
    monkeypatch.setattr(stage.environment, "check_prefect", lambda: None)
    flow: Any = SimpleNamespace(name="prune")
    for state, has_seconds in ((Failed(message="no"), False), (Completed(), True)):
        monkeypatch.setattr(stage, "run", lambda *args, state=state: state)
        assert stage._run_checked(flow, {"model": "a"}, mapped=False) == (0 if has_seconds else 1)
        assert (one_go.seconds_in_one_go(workspace, ["prune@a"]) is not None) is has_seconds


def test_seconds_of_validation_are_those_of_both_circuits(workspace: Workspace) -> None:
    assert validation_seconds(workspace, "a") is None
    row = {"seconds": {"decides": 2.0, "necessity": 1.0}, "deciding": {"seconds": {"decides": 4.0}}}
    write_json(workspace.validations("a"), {"tasks": {"if_equals": row, "var_if": {"seconds": {"decides": 8.0}}}})
    assert validation_seconds(workspace, "a") == 15.0


TOY = """
import pathlib, sys
from flows import one_go
from flows.study import needed_for, stage_graph
from pipeline.artifacts import Workspace
name, workspace = sys.argv[1], Workspace(pathlib.Path.cwd())
one_go.begin(workspace, name)
text = pathlib.Path(name + ".in").read_text()
if name == "report":
    text = str(one_go.seconds_in_one_go(workspace, needed_for("report", stage_graph(workspace.root))))
pathlib.Path(name + ".out").write_text(text)
one_go.finish(workspace, name)
"""


@pytest.mark.slow
def test_dvc_makes_all_in_one_go_then_some_then_takes_some_from_its_cache(tmp_path: Path) -> None:
    def toy(name: str, *needs: str) -> dict[str, Any]:
        deps = [f"{name}.in", *(f"{one}.out" for one in needs)]
        return {"cmd": f"python toy.py {name}", "deps": deps, "outs": [f"{name}.out"]}

    def repro(**changed: str) -> str:
        for name, text in changed.items():
            (tmp_path / f"{name}.in").write_text(text, encoding="utf-8")
        variables = workspace_environment() | {"PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}
        subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=tmp_path, env=variables, check=True)
        return (tmp_path / "report.out").read_text(encoding="utf-8")

    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    stages = {"first": toy("first"), "second": toy("second", "first"), "report": toy("report", "second")}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    (tmp_path / "toy.py").write_text(TOY, encoding="utf-8")
    assert 0 < float(repro(first="1", second="1", report="1")) < 600
    assert repro(second="2", report="2") == "None"  # first is from before
    assert 0 < float(repro(first="3", second="3", report="3")) < 600
    assert repro(first="1", second="1", report="4") == "None"  # first and second are from the cache


def test_a_stage_needs_what_those_need_that_it_needs() -> None:
    graph = {"corpus": [], "prune": ["corpus"], "example": ["prune"], "report": ["prune"]}
    assert needed_for("report", graph) == {"corpus", "prune"}
