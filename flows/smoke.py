"""The same pipeline, every stage real, on profiles/smoke.yaml, in a workspace of its own: ``python -m flows.smoke``.

The workspace is a copy of the project's files without any artifact, with services of its own, so that it never touches
the study's outputs and shows that a fresh checkout works. It stays after the run; the next run wipes it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from rich.table import Column, Table

from flows import environment, services
from flows.profiles import merged, write_params
from flows.tables import show
from pipeline.artifacts import Workspace, read_json
from pipeline.rows import Summary

MARKER = ".smoke-workspace"  # marks a folder that may be wiped
# Files of a checkout that do not belong to the project: artifacts of a study, state of services and tools
NOT_COPIED = {
    ".venv", "data", "models", "circuits", "ablations", "validations", "explanations", "example", "results",
    "dvc.lock",
    ".prefect", ".mlflow", ".scratch", ".smoke", ".soak", ".git",
    ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis",
}  # fmt: skip
NOT_COPIED_OF_DVC = {"cache", "tmp", "config.local", "plots.html"}
WAIT_SECONDS = 15.0


class SmokeError(ValueError):
    """A folder that cannot become the smoke workspace."""


def project_files(root: Path) -> list[Path]:
    """The project's own files, relative to ``root``: what git would commit, or all but artifacts outside a checkout."""
    found = _git_files(root)
    if found is None:
        found = sorted(path.relative_to(root) for path in root.rglob("*") if not path.is_symlink())
    return [path for path in found if _belongs(path) and (root / path).is_file()]


def _git_files(root: Path) -> list[Path] | None:
    """Tracked and addable files where ``root`` is the top of a git checkout, else None."""
    git = ["git", "-C", str(root)]
    try:
        top = subprocess.run([*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=True).stdout
        if Path(top.strip()).resolve() != root.resolve():
            return None
        command = [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):  # no git here, or no checkout
        return None
    return [Path(name) for name in listed.split("\0") if name]


def _belongs(path: Path) -> bool:
    """Whether a relative path is part of the project rather than something made by running it."""
    if path.parts[0] in NOT_COPIED or "__pycache__" in path.parts or path.name.endswith((".egg-info", ".partial")):
        return False
    return not (len(path.parts) > 1 and path.parts[0] == ".dvc" and path.parts[1] in NOT_COPIED_OF_DVC)


def make_workspace(root: Path, into: Path) -> Workspace:
    """A fresh copy of the project at ``into`` with the smoke profile's params.yaml, not under git for DVC.

    Raises SmokeError where ``into`` holds something that no smoke run made, ConfigError for a wrong profile.
    """
    values = merged(root, "smoke")
    files = project_files(root)
    _wipe(root, into)
    into.mkdir(parents=True, exist_ok=True)
    (into / MARKER).touch()
    for path in files:
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / path, into / path)
    workspace = Workspace(into)
    write_params(values, workspace.params)
    (into / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    return workspace


def _wipe(root: Path, into: Path) -> None:
    """Remove what an earlier smoke run left at ``into``, its servers too; nothing else is ever removed."""
    if root.resolve().is_relative_to(into.resolve()):
        raise SmokeError(f"--into {into}: holds the project itself; name another folder")
    if into.exists() and not (into / MARKER).is_file() and (not into.is_dir() or any(into.iterdir())):
        raise SmokeError(f"--into {into}: not empty, and not made by a smoke run; name another folder")
    for service in services.services_of(into):
        services.stop(service)
    shutil.rmtree(into, ignore_errors=True)
    if into.exists() and any(into.iterdir()):
        raise SmokeError(f"--into {into}: cannot be emptied; is another smoke study running there?")


def workspace_environment() -> dict[str, str]:
    """This process' environment without what points DVC, Prefect, MLflow or Python at another workspace."""
    foreign = ("DVC_", "PREFECT_", "MLFLOW_", "SPARSE_CIRCUITS_", "PYTHONPATH", "PYTHONSAFEPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])}


def run_pipeline(into: Path) -> int:
    """Exit status of ``dvc repro`` in the workspace, with a Prefect server of its own while it runs."""
    variables = workspace_environment()
    up = _run(["-m", "flows.services", "up"], into, variables)
    try:
        return up or _run(["-m", "dvc", "repro"], into, variables)
    finally:
        _run(["-m", "flows.services", "down"], into, variables)


def _run(arguments: list[str], folder: Path, variables: dict[str, str]) -> int:
    """Exit status of this Python with ``arguments``; on an interruption it ends first, with its children."""
    with subprocess.Popen([sys.executable, *arguments], cwd=folder, env=variables) as process:
        try:
            return process.wait()
        except BaseException:  # whatever ends us ends them: dvc killed alone leaves its stage running
            services.end(psutil.Process(process.pid), {signal.SIGINT: WAIT_SECONDS, signal.SIGKILL: 1.0})
            raise


def tables(summary: Summary) -> list[Table]:
    """Tables of a study's results/summary.json: a row per model, then a row per task that any model solved."""
    models = summary["models"]
    overview = Table("model", "validation loss (nats)", "L0", "tasks solved", "edges (geometric mean)", title="Models")
    for model in models:
        solved = f"{model['n_solved']} of {len(model['tasks'])}"
        overview.add_row(
            model["name"], f"{model['val_loss_nats']:.3f}", f"{model['l0']:,}", solved, number(model["geomean_edges"])
        )
    columns: list[Column | str] = [Column("task", no_wrap=True), *(model["name"] for model in models)]
    circuits = Table(*columns, title="Circuits: edges, or the unpruned loss in nats")
    for task in dict.fromkeys(task for model in models for task in model["tasks"]):
        circuits.add_row(task, *[outcome(model["tasks"].get(task, {})) for model in models])
    return [overview, circuits]


def number(value: float | None) -> str:
    """A count or mean to one decimal place, – for nothing."""
    return "–" if value is None else f"{value:,.1f}".removesuffix(".0")


def outcome(task: Mapping[str, Any]) -> str:
    """How a model did on a task: the size of its circuit and what it does alone; if there is none, why."""
    if task.get("n_edges") is not None:
        alone = task.get("circuit_loss")
        return f"{task['n_edges']:,} edges" + ("" if alone is None else f", alone {alone:.3f}")
    if not task.get("expressible", True):
        return "not expressible"
    loss = task.get("unpruned_loss")
    return "–" if loss is None else f"not solved ({loss:.3f})"


def smoke(root: Path, into: Path) -> int:
    """Exit status of a whole smoke study at ``into``, which ends with a table of what it found."""
    began = time.monotonic()
    workspace = make_workspace(root, into)
    print(f"smoke study in {workspace.root}", flush=True)
    status = run_pipeline(workspace.root)
    if status:
        print(f"error: dvc repro ended with status {status} in {workspace.root}", file=sys.stderr)
        return status
    for table in tables(read_json(workspace.results / "summary.json")):
        show(table)
    print(f"{time.monotonic() - began:.0f} s; the report: {workspace.results / 'index.html'}")
    return 0


def main() -> int:
    """Exit status of the command line: that of ``dvc repro``."""
    parser = argparse.ArgumentParser(prog="python -m flows.smoke", description=__doc__)
    parser.add_argument("--into", type=Path, help="the workspace's folder (default: .smoke in the project)")
    root = environment.find_root()
    into = (parser.parse_args().into or root / ".smoke").absolute()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    return smoke(root, into)


if __name__ == "__main__":
    sys.exit(environment.guarded(main, after_interrupt="the next smoke study starts afresh"))
