"""The study's flow takes its stages from DVC's graph, runs each after what it needs, and says what failed."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from prefect.states import Completed, Crashed, Failed, Pending

from flows.environment import running, server_record
from flows.smoke import workspace_environment
from flows.study import StudyError, final_state, stage_graph

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def graph_of(tmp_path):
    """The graph of a folder with the given stages, outside any git checkout."""

    def build(stages: dict) -> dict[str, list[str]]:
        (tmp_path / ".dvc").mkdir(exist_ok=True)
        (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
        (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
        return stage_graph(tmp_path)

    return build


def test_the_graph_is_dvcs_own(graph_of):
    found = graph_of(
        {
            "last": {"cmd": "true", "deps": ["middle.txt", "first.txt"]},
            "middle": {"cmd": "true", "deps": ["first.txt"], "outs": ["middle.txt"]},
            "first": {"cmd": "true", "outs": ["first.txt"]},
        }
    )
    assert list(found) == ["first", "middle", "last"]
    assert found == {"first": [], "middle": ["first"], "last": ["first", "middle"]}


def test_every_model_has_its_stages_in_order(tmp_path, params):
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    graph = stage_graph(tmp_path)
    order = list(graph)
    for model in params.models:
        for last in ("ablate", "validate", "explain"):
            places = [order.index(f"{stage}@{model}") for stage in ("pretrain", "prune", last)]
            assert order.index("tokenise") < places[0] < places[1] < places[2] < order.index("report")
        assert not {f"pretrain@{other}" for other in params.models} & set(graph[f"pretrain@{model}"])
    assert len(order) == 6 + 5 * len(params.models)


def test_a_graph_that_dvc_refuses_is_an_error_of_one_line_with_its_reason(graph_of):
    with pytest.raises(StudyError, match="DVC cannot read the study's graph: .*both"):
        graph_of({"both": {"cmd": "true", "deps": ["both.txt"], "outs": ["both.txt"]}})


def test_the_final_state_names_what_failed_and_what_could_not_run():
    done = {"corpus": Completed(), "tokenise": Completed()}
    assert final_state(done).is_completed()
    ended = final_state(done | {"pretrain@a": Failed(), "prune@a": Pending(name="NotReady"), "pretrain@b": Crashed()})
    assert ended.is_failed()
    assert ended.message == "failed: pretrain@a, pretrain@b; not run, for want of what those make: prune@a"


STAGE = """
import pathlib, sys
name, *rest = sys.argv[1:]
log = pathlib.Path("log.txt")
with log.open("a") as file:
    file.write(name + "\\n")
if "breaks" in rest or ("once" in rest and log.read_text().split().count(name) == 1):
    sys.exit(1)
if "flow" in rest:
    from flows.stage import run, stage_flow
    def toy(): pass
    assert run(stage_flow(toy), "the flow of " + name, {}).is_completed()
pathlib.Path(name + ".txt").write_text(name)
"""


def stage(name: str, *options: str, needs: tuple[str, ...] = ()) -> dict:
    """A stage that notes its name in log.txt, every time it runs, before it fails or makes its output."""
    deps = [f"{one}.txt" for one in needs]
    return {"cmd": " ".join(["python stage.py", name, *options]), "deps": deps, "outs": [f"{name}.txt"]}


@pytest.fixture
def run_study(tmp_path):
    """Run ``python -m flows.study`` in the folder, as a user does; its server is stopped at the end."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "stage.py").write_text(STAGE, encoding="utf-8")
    variables = workspace_environment() | {"PYTHONPATH": str(ROOT)}

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)

    yield lambda: python("flows.study")
    assert python("flows.services", "down").returncode == 0


def recorded(root: Path, what: str) -> list[dict]:
    """All flow runs or task runs that the folder's Prefect server knows."""
    url = f"{running(server_record(root))}/{what}/filter"
    request = urllib.request.Request(url, data=b"{}", headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


@pytest.mark.slow
def test_a_failed_stage_is_tried_again_and_stops_only_what_needs_it(tmp_path, graph_of, run_study):
    graph_of(
        {
            "first": stage("first", "once"),
            "broken": stage("broken", "breaks", needs=("first",)),
            "after": stage("after", needs=("broken",)),
            "other": stage("other", "flow", needs=("first",)),
        }
    )
    done = run_study()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "study: failed: broken; not run, for want of what those make: after" in done.stderr
    runs = (tmp_path / "log.txt").read_text(encoding="utf-8").split()
    assert {name: runs.count(name) for name in set(runs)} == {"first": 2, "broken": 2, "other": 1}

    # What happened is in the UI's logs, not on the terminal; nothing stands in the way of the runs' names.
    assert {log["level"] for log in recorded(tmp_path, "logs")} >= {logging.INFO, logging.ERROR}
    assert "| INFO" not in done.stdout + done.stderr
    found = recorded(tmp_path, "flow_runs")
    assert all(flow["tags"] == [] and flow["infrastructure_pid"] for flow in found)

    # The flow run of a stage hangs on a task run of the study's flow run.
    flows = {flow["name"]: flow for flow in recorded(tmp_path, "flow_runs")}
    of_study = {task["id"] for task in recorded(tmp_path, "task_runs") if task["flow_run_id"] == flows["study"]["id"]}
    assert flows["the flow of other"]["parent_task_run_id"] in of_study
    # ... with an arrow from the task that started it.
    tasks = {task["id"]: task for task in recorded(tmp_path, "task_runs")}
    placed = tasks[flows["the flow of other"]["parent_task_run_id"]]
    assert [tasks[before["id"]]["name"] for before in placed["task_inputs"]["wait_for"]] == ["dvc repro other"]

    # Mended, only what is out of date runs.
    mended = (tmp_path / "dvc.yaml").read_text(encoding="utf-8").replace(" breaks", "")
    (tmp_path / "dvc.yaml").write_text(mended, encoding="utf-8")
    done = run_study()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "study: 4 stages are up to date" in done.stdout
    assert (tmp_path / "log.txt").read_text(encoding="utf-8").split()[len(runs) :] == ["broken", "after"]
