"""A stage whose settings or code were edited while it was made says so: DVC's lock would not."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.unchanged import ChangedError, check_unchanged, inputs_of
from pipeline.artifacts import Workspace

DVC = """
stages:
  tokenise:
    cmd: python -m flows.tokenise
    deps: [data/corpus, flows/tokenise.py, pipeline/data]
    params: [tokenise]
  prune:
    foreach: ${models}
    do:
      cmd: python -m flows.prune --model ${key}
      deps: [flows/prune.py]
      params: [seed, "models.${key}.lr"]
"""
PARAMS = "seed: 0\ntokenise: {vocab_size: 512}\nmodels: {a: {lr: 0.1}, b: {lr: 0.2}}\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    for path, text in {
        "dvc.yaml": DVC, "params.yaml": PARAMS, "flows/tokenise.py": "a", "flows/prune.py": "b",
        "pipeline/data/words.json": "c", "data/corpus": "d",
    }.items():  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    return Workspace(tmp_path)


@pytest.mark.parametrize(
    ("path", "old", "new", "named"),
    [
        ("params.yaml", "512", "513", "tokenise"),
        ("pipeline/data/words.json", "c", "d", "pipeline/data"),
        ("flows/tokenise.py", "a", "b", "flows/tokenise.py"),
        ("params.yaml", "tokenise: {", "tokenise: [", "tokenise"),
    ],
)
def test_what_was_edited_is_named(workspace: Workspace, path: str, old: str, new: str, named: str) -> None:
    before = inputs_of(workspace, "tokenise")
    file = workspace.root / path
    file.write_text(file.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ChangedError, match=f"{named}.*: changed while tokenise was made"):
        check_unchanged(before, workspace, "tokenise")


def test_edits_of_other_stages_and_models_do_not_matter(workspace: Workspace) -> None:
    before = {address: inputs_of(workspace, address) for address in ("tokenise", "prune@a", "prune@b")}
    assert before["prune@a"]["models.a.lr"] == 0.1
    workspace.params.write_text(PARAMS.replace("0.2", "0.3"), encoding="utf-8")
    (workspace.root / "pipeline/data/__pycache__").mkdir()
    (workspace.root / "pipeline/data/__pycache__/x.pyc").touch()
    for address in ("tokenise", "prune@a"):
        check_unchanged(before[address], workspace, address)
    with pytest.raises(ChangedError, match="models.b.lr"):
        check_unchanged(before["prune@b"], workspace, "prune@b")


def test_a_workspace_without_such_a_stage_has_nothing_to_compare(tmp_path: Path) -> None:
    check_unchanged(inputs_of(Workspace(tmp_path), "tokenise"), Workspace(tmp_path), "tokenise")
