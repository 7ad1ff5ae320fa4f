"""``sparse-circuits verify`` finds what in a workspace is not as its report and dvc.lock say; a real git and DVC."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from closing import TOKENIZER, closing_pairs, run

from flows import cli_verify, report
from flows.cli_verify import Comparison
from pipeline.artifacts import Workspace, file_hash, read_json, write_json
from pipeline.config import load_params

MODEL = "tiny"
LOCK = f"pytest=={pytest.__version__}\n"
DVC = """
stages:
  copy:
    cmd: cp params.yaml copied.yaml
    deps: [params.yaml]
    outs: [copied.yaml: {cache: false}]
"""


def git(root: Path, *words: str) -> str:
    return report.git_says(root, "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", *words)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git checkout under DVC with one stage, a model, two circuits of a task and a report of them."""
    tmp_path = tmp_path_factory.mktemp("verified")
    made = Workspace(tmp_path)
    for path, text in {
        "params.yaml": "seed: 0\n",
        "dvc.yaml": DVC,
        "flows/report.py": "",
        "requirements.lock": LOCK,
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    git(tmp_path, "init", "-q")
    for words in (["init", "-q"], ["repro", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=tmp_path, check=True)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "all")
    write_json(made.model(MODEL) / "config.json", {})
    (made.model(MODEL) / "model.safetensors").write_bytes(b"weights")
    model_hash = file_hash(made.model(MODEL) / "model.safetensors", made.model(MODEL) / "config.json")
    for folder in ("quotes", "quotes/deciding"):
        about = {"model_hash": model_hash, "task": "quotes", "task_hash": "t"}
        write_json(made.circuits(MODEL) / folder / "circuit.json", {"about": about})
    write_json(made.results / "summary.json", {
        "models": [{"name": MODEL, "model_hash": model_hash}],
        "provenance": {
            "git": report.git_state(tmp_path),
            "params_hash": file_hash(made.params),
            "lock_hash": file_hash(tmp_path / "requirements.lock"),
            "machine": {"torch": torch.__version__, "python": platform.python_version()},
        },
    })  # fmt: skip
    return tmp_path


@pytest.fixture
def workspace(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy of it, to be changed."""
    shutil.copytree(first, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path)


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[[], tuple[int, str, str]]:
    return lambda: run(monkeypatch, capfd, "verify")


def edit(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


def test_a_workspace_as_it_was_made_is_the_same(workspace: Workspace, verify: Any) -> None:
    status, said, error = verify()
    assert (status, error) == (0, "") and "DIFFERS" not in said
    assert said.endswith("10 of 10 are the same\n")
    assert [
        of for of in ("code", "requirements.lock", "circuits/tiny/quotes/deciding", "stage copy") if of not in said
    ] == []


def test_later_commits_that_change_no_code_do_not_differ(workspace: Workspace) -> None:
    recorded = report.git_state(workspace.root)
    (workspace.root / "README.md").write_text("more", encoding="utf-8")
    git(workspace.root, "add", "README.md")
    git(workspace.root, "commit", "-qm", "words")
    assert Comparison("code", *cli_verify.code_of(workspace.root, recorded)).same


def test_everything_that_was_changed_since_is_named(workspace: Workspace, verify: Any) -> None:
    root = workspace.root
    edit(workspace.params, "seed: 0", "seed: 1")
    edit(root / "requirements.lock", pytest.__version__, "0.1")
    (workspace.model(MODEL) / "model.safetensors").write_bytes(b"other weights")
    edit(workspace.circuits(MODEL) / "quotes" / "circuit.json", '"model_hash": "', '"model_hash": "x')
    status, said, error = verify()
    assert status == 1
    assert error == (
        "differs: code, params.yaml, requirements.lock, packages, models/tiny, circuits/tiny/quotes: its model, "
        "stage copy\n"
    )
    for words in ("changed: params.yaml, requirements.lock", f"pytest {pytest.__version__}", "params.yaml modified"):
        assert words in said


def test_a_machine_that_trains_in_another_precision_differs(workspace: Workspace) -> None:
    shutil.copy(Path(__file__).parents[2] / "params.yaml", workspace.params)
    recorded = read_json(workspace.results / "summary.json")["provenance"]
    here = report.precision(load_params(workspace.params))
    for noted, same in ((here, True), ("float16", False)):
        machine = recorded["machine"] | {"precision": noted}
        found = {each.of: each for each in cli_verify.of_provenance(workspace, recorded | {"machine": machine})}
        assert found["training's precision"].same == same


@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_the_precision_noted_is_what_the_settings_say(wanted: str) -> None:
    params = load_params(Path(__file__).parents[2] / "params.yaml")
    compute = params.compute.model_copy(update={"precision": wanted, "device": "cpu"})
    assert report.precision(params.model_copy(update={"compute": compute})) == wanted


@pytest.mark.parametrize(
    ("recorded", "here"),
    [
        ({"commit": "0" * 40, "dirty": False}, "no such commit here"),
        ({"commit": "HEAD", "dirty": True}, "not known"),
    ],
)
def test_code_that_cannot_be_had_again_differs(workspace: Workspace, recorded: dict[str, Any], here: str) -> None:
    found = Comparison("code", *cli_verify.code_of(workspace.root, recorded))
    assert not found.same and found.here == here


def test_circuits_of_other_pairs_differ(workspace: Workspace) -> None:
    from pipeline.data.pair_tables import write_tables
    from pipeline.data.pairs_file import read_pairs
    from pipeline.data.tasks.encode import SCHEMA

    lines = "".join(json.dumps(pair) + "\n" for pair in closing_pairs(40))
    (workspace.root / "quotes.jsonl").write_text(lines, encoding="utf-8")
    tasks = read_pairs(workspace.root / "quotes.jsonl", TOKENIZER, n_ctx=32, seed=0)
    write_tables(workspace.tasks, SCHEMA, tasks.rows["quotes"], tasks.report)
    path = workspace.circuits(MODEL) / "quotes" / "circuit.json"
    edit(path, '"task_hash": "t"', f'"task_hash": "{tasks.hash("quotes")}"')
    models = read_json(workspace.results / "summary.json")["models"]
    differs = [each.of for each in cli_verify.of_models(workspace, models) if not each.same]
    assert differs == ["circuits/tiny/quotes/deciding: its pairs"]


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda root: (root / "results/summary.json").unlink(), "summary.json: no such file"),
        (lambda root: (root / "results/summary.json").write_text("{}"), "summary.json: lacks 'provenance'"),
        (lambda root: (root / "dvc.lock").write_text("a: ["), "dvc status cannot tell"),
        (lambda root: (root / "dvc.yaml").write_text("stages: 1"), "dvc status cannot tell"),
    ],
)
def test_records_that_cannot_be_read_are_refused_in_a_line(
    workspace: Workspace, verify: Any, break_it: Callable[[Path], Any], words: str
) -> None:
    break_it(workspace.root)
    status, _, error = verify()
    assert status == 1 and error.count("\n") == 1 and words in error


def test_the_report_notes_what_verify_asks_for(params: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Workspace(tmp_path)
    made.params.write_text(yaml.safe_dump(params.model_dump(mode="json")), encoding="utf-8")
    (tmp_path / "requirements.lock").write_text(LOCK, encoding="utf-8")
    monkeypatch.setattr(report, "seconds", lambda workspace, params: {})
    found = list(cli_verify.of_provenance(made, report.provenance(made, params)))
    asked = {"params.yaml", "requirements.lock", "torch", "python", "training's precision", "packages"}
    assert {each.of for each in found} == asked
    assert all(each.same for each in found)
