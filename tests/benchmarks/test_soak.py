"""The soak's parts on a program of seconds that goes on where it was: killed, given again, compared."""

from __future__ import annotations

import importlib
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.artifacts import Workspace

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks is no installed package
soak = importlib.import_module("benchmarks.soak")

# dvc, which starts a stage, which does a step every 20 ms, goes on where an earlier one was and ends with dvc
STAGE = """
import os, pathlib, sys, time
done, parent = pathlib.Path("done"), os.getppid()
while done.stat().st_size < int(sys.argv[1]) and os.getppid() == parent:
    done.open("a").write("x")
    time.sleep(0.02)
"""
DVC = """
import os, subprocess, sys
stage = [sys.executable, "-c", {stage!r}, sys.argv[2], "-m", "flows.pretrain", "--model", "m"]
sys.exit(subprocess.run(stage).returncode != 0)
"""

Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Callable[[int], Start]:
    """Of a number of steps: what starts a program that makes them, in this folder."""
    (tmp_path / "dvc.py").write_text(textwrap.dedent(DVC.format(stage=STAGE)), encoding="utf-8")
    (tmp_path / "done").touch()
    return lambda n: lambda: subprocess.Popen([sys.executable, "dvc.py", "dvc", str(n)], cwd=tmp_path)


def test_a_command_is_given_again_after_each_kill_until_it_succeeds(start, tmp_path: Path) -> None:
    row = soak.survive(start(200), [0.9, 0.3, 1.5], random.Random(1), 60.0)
    assert row["statuses"][-1] == 0 and (tmp_path / "done").stat().st_size >= 200
    assert [kill["moment"] for kill in row["kills"]] == [0.3, 0.9, 1.5]
    assert len(row["statuses"]) == 4  # a kill of either kind ends the command
    assert {kill["killed"] for kill in row["kills"]} <= {"dvc", "stage"}
    assert "flows.pretrain --model m" in {kill["stage"] for kill in row["kills"]}


def test_nobody_kills_a_command_that_ended(start) -> None:
    row = soak.survive(start(1), [30.0], random.Random(0), 60.0)
    assert row["statuses"] == [0] and row["kills"] == [] and row["seconds"] < 20


def test_a_command_that_does_not_end_is_hung(start) -> None:
    row = soak.survive(start(1_000_000), [], random.Random(0), 1.0)
    assert row["statuses"] == [soak.HUNG] and row["seconds"] < 20


def test_a_command_that_always_fails_is_given_again_a_few_times(tmp_path: Path) -> None:
    row = soak.survive(lambda: subprocess.Popen(["false"]), [], random.Random(0), 60.0)
    assert row["statuses"] == [1] * (soak.MAX_RETRIES + 1)


def test_outputs_are_compared_but_for_the_seconds(tmp_path: Path) -> None:
    for name, seconds, loss in (("a", 1.0, 0.5), ("b", 2.0, 0.5), ("c", 1.0, 0.25)):
        folder = tmp_path / name / "models" / "m"
        folder.mkdir(parents=True)
        (folder / "history.jsonl").write_text(f'{{"loss": {loss}, "tokens_per_second": {seconds}}}\n')
        (folder / "summary.json").write_text(f'{{"tasks": [{{"seconds": {seconds}, "n": 3}}]}}')
    a, b, c = (soak.facts(Workspace(tmp_path / name)) for name in "abc")
    assert a == b and set(a) == {"models/m/history.jsonl", "models/m/summary.json"}
    assert [path for path in a if a[path] != c[path]] == ["models/m/history.jsonl"]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., soak.Soak]:
    """A soak whose studies make one file and take no time; ``made`` counts them."""
    monkeypatch.setattr(soak, "project_files", lambda root: [Path("dvc.yaml")])
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    soaks = []

    def begin(**given: int) -> soak.Soak:
        one = soak.Soak(tmp_path, **({"kills": 1, "jobs": 2, "seed": 0} | given))
        one.made = 0

        def study(moments, rng=None):
            one.made += 1
            return {"statuses": [0], "seconds": 2.0 + len(moments), "kills": [], "outputs": {"models/m": "1234"}}

        monkeypatch.setattr(one, "_study", study)
        soaks.append(one)
        return one

    return begin


def test_rows_are_kept_and_gone_on_with_until_the_code_changes(small, tmp_path: Path) -> None:
    first = small()
    first.measure_unbroken()
    rows = first.break_studies(3)
    assert sorted(row["number"] for row in rows) == [0, 1, 2] and first.made == 2 + 3
    assert all(row["differs"] == [] and row["in_vain"] == 0.5 for row in rows)
    again = small()
    again.measure_unbroken()
    assert len(again.break_studies(5)) == 5 and again.made == 2
    (tmp_path / "dvc.yaml").write_text("stages: {corpus: {}}\n")
    changed = small()
    changed.measure_unbroken()
    assert len(changed.break_studies(1)) == 1 and changed.made == 2 + 1
