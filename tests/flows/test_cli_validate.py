"""``sparse-circuits validate``: every test of a circuit of any model, as a table and as JSON; and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from closing import TASK, TOKENIZER, run

from pipeline.artifacts import ArtifactError, Workspace, read_json, write_json
from pipeline.data.generalisation.generalisation_set import SCHEMA
from pipeline.validate import checkpoint, validate_checkpoint
from pipeline.validate.checkpoint import OtherPairsError, generalisation_of
from pipeline.workspace import LoadedModel, settings_for


@pytest.fixture
def own(study, pruned, tmp_path) -> Path:
    """A copy of the workspace with a circuit in it, and settings of validation that take seconds."""
    root = shutil.copytree(study, tmp_path / "study")
    raw = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    raw["validate"] |= {"few_pairs": 4, "n_bootstrap": 100, "permutations": 100, "n_random": 5}
    raw["validate"] |= {"seeds": 2, "points": 3, "draws": 2, "adversary_steps": 2}
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
    assert all(word in out for word in ("the circuit …", "stress", "needed, extra", "not artefact"))
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


def asked(monkeypatch, *arguments, **changes):
    """What ``validate_circuit`` is asked for, not done."""
    monkeypatch.setattr(checkpoint, "validate_circuit", lambda tested, **others: {"claim": tested, **others})
    return validate_checkpoint(*arguments, **changes)


def test_tokens_and_tokenizer_may_lie_anywhere(own, monkeypatch, tmp_path):
    there = asked(monkeypatch, own / "models/tiny", own / "found", task=own / TASK)
    shutil.move(own / "models/tiny", tmp_path / "lone/models/tiny")
    shutil.move(own / "data/tokens", tmp_path / "packed")
    model, packed = tmp_path / "lone/models/tiny", tmp_path / "packed"
    settings = {"task": own / TASK, "params": own / "params.yaml", "tokenizer": packed}
    found = asked(monkeypatch, model, own / "found", tokens=packed, **settings)
    assert torch.equal(found["claim"].windows, there["claim"].windows)
    assert found["tokenizer"].hash == there["tokenizer"].hash == TOKENIZER.hash
    with pytest.raises(ArtifactError, match=r"data/tokens/stats.json: no such file; name the folder .* \(--tokens\)$"):
        asked(monkeypatch, model, own / "found", **settings)


def test_tokens_that_are_missing_or_of_another_tokenizer_are_refused_in_one_line(own, monkeypatch, capsys):
    monkeypatch.chdir(own)
    shutil.copytree("data/tokens", "other")
    write_json(Path("other/stats.json"), read_json(Path("other/stats.json")) | {"tokenizer_hash": "another"})
    for folder, said in [
        ("other", "other: in the tokens of tokenizer another, but models/tiny was trained with"),
        ("none", "none/stats.json: no such file; name the folder of the packed tokens that models/tiny was trained on"),
    ]:
        arguments = ("--model", "models/tiny", "--circuit", "found", "--task", TASK, "--tokens", folder)
        status, out, err = run(monkeypatch, capsys, "validate", *arguments)
        assert (status, out) == (1, "") and said in err and len(err.splitlines()) == 1


def test_second_test_sets_of_other_pairs_than_the_subject_s_are_refused(own):
    settings = settings_for(own / "models/tiny")
    loaded = LoadedModel.open(own / "models/tiny", settings).load_task(own / TASK, settings)
    place = Workspace(own)
    assert generalisation_of(place, loaded) == {}
    place.generalisation.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([], schema=SCHEMA), place.generalisation / "pairs.parquet")
    for made, refused in ((loaded.about["task_hash"], False), ("earlier", True)):
        tasks = {"closing": {"hash": made, "families": {}}}
        write_json(place.generalisation / "report.json", {"tokenizer": TOKENIZER.hash, "tasks": tasks})
        if refused:
            with pytest.raises(ArtifactError, match=r"made from pairs earlier of closing, not from .*; run dvc repro$"):
                generalisation_of(place, loaded)
        else:
            assert generalisation_of(place, loaded) == {}


def test_what_is_missing_is_refused_in_one_line(own, monkeypatch, capsys):
    monkeypatch.chdir(own)
    for arguments, said in [
        (("--model", "models/none", "--circuit", "found", "--task", TASK), "models/none: no such folder"),
        (("--model", "models/tiny", "--circuit", "none", "--task", TASK), "none/circuit.json"),
        (("--model", "models/tiny", "--circuit", "found"), "closing"),
    ]:
        status, out, err = run(monkeypatch, capsys, "validate", *arguments)
        assert (status, out) == (1, "") and said in err and len(err.splitlines()) == 1
