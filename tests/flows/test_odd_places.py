"""Odd places and environments: a folder whose name means something to a shell, no HOME, LANG=C, nothing writable."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ODD = "-a b [x] %20 é? 'q'"
PROJECT = ("Makefile", "dvc.yaml", "params.yaml", "requirements.lock", "pyproject.toml")
BARE = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # no HOME


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The shipped model and circuits, as the workspace of a study, in an odd place."""
    return shutil.copytree(ROOT / "example", tmp_path / ODD)


def run(command: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=BARE | variables, capture_output=True, text=True, timeout=300)


def test_a_circuit_is_drawn_without_home_or_a_place_for_temporary_files(example: Path) -> None:
    circuit = "circuits/sparse_d1024/single_double_quote"
    command = [sys.executable, "-m", "flows.cli", "draw", circuit, "-o", "out.svg"]
    done = run(command, example, TMPDIR="/proc/nowhere", NUMBA_CACHE_DIR="/proc/nowhere")
    assert done.returncode == 0, done.stderr
    assert "<svg" in (example / "out.svg").read_text(encoding="utf-8")


def test_another_user_reads_a_checkout_that_is_not_theirs(example: Path, tmp_path: Path) -> None:
    """Who may read all, and write neither beside the code, nor into the workspace, nor into a home."""
    other = ["setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=+dac_read_search"]
    other += ["--ambient-caps=+dac_read_search"]
    if subprocess.run([*other, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this process may not become another user")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs").chmod(0o777)
    draw = [*other, sys.executable, "-m", "flows.cli", "draw", "circuits/sparse_d1024/var_if", "-o"]
    done = run([*draw, str(tmp_path / "theirs" / "out.svg")], example)
    assert done.returncode == 0, done.stderr
    done = run([*draw, "out.svg"], example)
    [line] = done.stderr.strip().splitlines()
    assert done.returncode == 1 and line.startswith("error: out.svg: cannot be written in"), done.stderr


@pytest.mark.parametrize("ignored", ["*.yaml\n", ".*\n", "data/\n"])
def test_inside_another_repository_dvc_reads_the_graph(tmp_path: Path, ignored: str) -> None:
    """Also where that one ignores what DVC wants git to track."""
    place = tmp_path / ODD
    (place / ".dvc").mkdir(parents=True)
    for name in (*PROJECT, ".dvc/config"):
        shutil.copy(ROOT / name, place / name)
    for folder in ("flows", "pipeline", "profiles"):
        (place / folder).symlink_to(ROOT / folder)
    (tmp_path / ".gitignore").write_text(ignored, encoding="utf-8")
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    programs = place / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, module in (("python", ""), ("dvc", " -m dvc")):
        (programs / name).write_text(f'#!/bin/sh\n# {programs}/python\nexec {sys.executable}{module} "$@"\n')
        (programs / name).chmod(0o755)
    (place / ".venv" / ".installed").touch()
    done = run(["make", "setup"], place)
    assert done.returncode == 0, done.stderr
    listed = run([sys.executable, "-m", "dvc", "stage", "list"], place)
    assert listed.returncode == 0 and listed.stdout.startswith("corpus"), listed.stderr
