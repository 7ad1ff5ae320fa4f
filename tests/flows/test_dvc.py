"""DVC that cannot keep or send what a stage makes: said before the work, or at once; nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.smoke import make_workspace, workspace_environment
from pipeline.artifacts import Workspace

ROOT = Path(__file__).parents[2]
STAGE = "stages:\n  one:\n    cmd: mkdir out && echo made > out/file\n    outs: [out]\n"
DVC = [sys.executable, "-m", "dvc"]
BOUND = 60.0  # seconds


def dvc(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    variables = workspace_environment()
    return subprocess.run([*DVC, *command], cwd=folder, env=variables, capture_output=True, text=True, timeout=BOUND)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """A study's whose cache is on a disk that may only be read."""
    made = make_workspace(ROOT, tmp_path / "w")
    cache = tmp_path / "cache"
    cache.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(cache)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    dvc(made.root, "config", "--local", "cache.dir", str(cache))
    yield made
    subprocess.run(["umount", "--lazy", str(cache)], check=True)


def test_a_cache_that_may_only_be_read_is_said_before_the_work(workspace: Workspace) -> None:
    done = dvc(workspace.root, "repro", "tokenise")
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode and "DVC's cache takes no files" in line, done.stderr
    assert not workspace.corpus.exists() and not workspace.tokens.exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/store", "/proc/nowhere"])
def test_a_remote_that_refuses_costs_nothing_but_the_push(tmp_path: Path, url: str) -> None:
    (tmp_path / "dvc.yaml").write_text(STAGE, encoding="utf-8")
    dvc(tmp_path, "init", "--no-scm")
    assert dvc(tmp_path, "repro").returncode == 0
    dvc(tmp_path, "remote", "add", "--default", "refusing", url)
    began = time.monotonic()
    done = dvc(tmp_path, "push")
    assert done.returncode and "ERROR" in done.stderr and time.monotonic() - began < BOUND
    assert "up to date" in dvc(tmp_path, "status").stdout
    assert (tmp_path / "out" / "file").read_text() == "made\n"
