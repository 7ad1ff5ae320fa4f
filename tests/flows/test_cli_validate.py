"""``sparse-circuits validate``: every test of a circuit of any model, as a table and as JSON; and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from closing import TASK, run

from pipeline.artifacts import read_json
from pipeline.validate import validate_checkpoint
from pipeline.validate.checkpoint import OtherPairsError


@pytest.fixture
def own(study, pruned, tmp_path) -> Path:
    """A copy of the workspace with a circuit in it, and settings of validation that take seconds."""
    root = shutil.copytree(study, tmp_path / "study")
    raw = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    raw["validate"] |= {"few_pairs": 4, "n_bootstrap": 100, "permutations": 100, "seeds": 2, "points": 3}
    (root / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    return root


def test_the_command_shows_every_test_and_the_verdict_and_writes_what_it_found(own, monkeypatch, capsys):
    monkeypatch.chdir(own)
    status, out, _ = run(
        monkeypatch,
        capsys,
        "validate",
        "--model",
        "models/tiny",
        "--circuit",
        "found/circuit.json",
        "--task",
        TASK,
        "--out",
        "v.json",
    )
    assert status == 0
    found = read_json(own / "v.json")
    tests = [test for section in found.values() for test in section.get("tests", ())]
    assert len(tests) > 20 and all(test["name"][:20] in out for test in tests)
    assert out.splitlines()[-1].startswith(found["verdict"]["line"][:40])
    assert found["verdict"]["n_passed"] + found["verdict"]["n_failed"] + len(found["verdict"]["not_tested"]) == len(
        tests
    )
    assert {"true", "random_weights", "shuffled_weights", "shuffled_labels", "nonsense"} <= set(found["controls"])
    assert found["stability"]["n_seeds"] == 2


def test_the_same_again_is_the_same_but_for_the_time_it_took(own):
    first, second = (
        validate_checkpoint(own / "models/tiny", own / "found", task=own / TASK, controls=False) for _ in range(2)
    )
    assert first.pop("seconds").keys() == second.pop("seconds").keys()
    assert json.dumps(first) == json.dumps(second) and "controls" not in first


def test_other_pairs_than_the_circuit_s_are_refused(own):
    lines = (own / TASK).read_text(encoding="utf-8").splitlines()
    (own / "other.jsonl").write_text("\n".join(lines[2:]) + "\n", encoding="utf-8")
    with pytest.raises(OtherPairsError, match="made with pairs .* name the task or the file of pairs"):
        validate_checkpoint(own / "models/tiny", own / "found", task=own / "other.jsonl")


def test_what_is_missing_is_refused_in_one_line(own, monkeypatch, capsys):
    monkeypatch.chdir(own)
    for arguments, said in [
        (("--model", "models/none", "--circuit", "found", "--task", TASK), "models/none: no such folder"),
        (("--model", "models/tiny", "--circuit", "none", "--task", TASK), "none/circuit.json"),
        (("--model", "models/tiny", "--circuit", "found"), "closing"),
    ]:
        status, out, err = run(monkeypatch, capsys, "validate", *arguments)
        assert (status, out) == (1, "") and said in err and len(err.splitlines()) == 1
