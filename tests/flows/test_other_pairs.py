"""A circuit is shown on the pairs that it was made with: those are known by their hash, not by their name."""

from __future__ import annotations

import json
import shutil

import pytest
from closing import TASK, TOKENIZER, closing_pairs, run

from flows import cli_play, cli_show
from pipeline import draw, load_model
from pipeline.data.pair_tables import write_tables
from pipeline.data.pairs_file import read_pairs
from pipeline.data.tasks.encode import SCHEMA
from pipeline.prune.checkpoint import prune_checkpoint
from pipeline.workspace import WrongPairsError

NAME = "single_double_quote"  # one of the study's twenty


@pytest.fixture(scope="module")
def taken_name(study, pruned):
    """A circuit of pairs of one's own in a file that has the name of a task of the study, with other pairs."""
    others = closing_pairs(40)
    for pair in others:
        for side in pair.values():
            side["prompt"] += "zz"
    (study / "others.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in others), encoding="utf-8")
    tasks = read_pairs(study / "others.jsonl", TOKENIZER, n_ctx=32, seed=0, name=NAME)
    write_tables(study / "data/tasks", SCHEMA, tasks.rows[NAME], tasks.report)
    shutil.copy(study / TASK, study / f"{NAME}.jsonl")
    prune_checkpoint(study / "models/tiny", study / f"{NAME}.jsonl", out=study / "taken")
    return study / "taken"


@pytest.fixture
def command(study, monkeypatch, capsys):
    """Status, output and errors of a command in the workspace, which opens and serves nothing."""
    monkeypatch.chdir(study)
    monkeypatch.setattr(cli_show.webbrowser, "open", lambda url: None)
    monkeypatch.setattr(cli_play, "serve", lambda app, listener: None)
    return lambda *arguments: run(monkeypatch, capsys, *arguments)


DRAW, SHOW = ("draw", "taken", "-o", "t.svg"), ("show", "taken", "-o", "t.html")
PLAY = ("play", "models/tiny", "--circuit", "taken", "--port", 0)


@pytest.mark.parametrize("words", [DRAW, SHOW, PLAY], ids=lambda words: words[0])
def test_the_study_task_of_that_name_is_not_taken_for_the_circuits_own(taken_name, study, command, words):
    of = () if words is PLAY else ("--model", "models/tiny")
    status, _, error = command(*words, *of)
    assert status == 1 and error.count("\n") == 1
    assert "taken: made with other pairs" in error and "--task" in error
    assert not [study / name for name in ("t.svg", "t.html") if (study / name).exists()]
    assert command(*words, *of, "--task", f"{NAME}.jsonl")[0] == 0
    for name in ("t.svg", "t.html"):
        (study / name).unlink(missing_ok=True)


@pytest.mark.parametrize("words", [DRAW, SHOW, PLAY], ids=lambda words: words[0])
def test_the_same_pairs_are_the_same_whatever_their_file_is_called(taken_name, study, command, words):
    shutil.copy(study / TASK, study / "renamed.jsonl")
    of = () if words is PLAY else ("--model", "models/tiny")
    assert command(*words, *of, "--task", "renamed.jsonl")[0] == 0
    for name in ("t.svg", "t.html"):
        (study / name).unlink(missing_ok=True)


def test_a_file_that_was_changed_since_is_refused(study, pruned, command):
    lines = (study / TASK).read_text(encoding="utf-8").splitlines(keepends=True)
    pair = json.loads(lines[0])
    pair["a"]["prompt"] += "z"
    (study / "changed.jsonl").write_text(json.dumps(pair) + "\n" + "".join(lines[1:]), encoding="utf-8")
    status, _, error = command("draw", "found", "-o", "t.svg", "--model", "models/tiny", "--task", "changed.jsonl")
    assert status == 1 and "found: made with other pairs" in error


def test_the_python_face_refuses_them_too(taken_name, study, pruned, monkeypatch):
    monkeypatch.chdir(study)
    with pytest.raises(WrongPairsError, match="made with other pairs"):
        draw("taken", "models/tiny")
    with pytest.raises(WrongPairsError, match="made with other pairs"):
        draw("found", load_model("models/tiny").load_task(NAME))
