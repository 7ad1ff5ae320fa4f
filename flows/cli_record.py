"""``sparse-circuits track`` and ``verify``: a workspace's files, told to MLflow again, and held to their provenance."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from packaging.utils import canonicalize_name
from rich.markup import escape
from rich.table import Table

from flows import environment
from flows.tables import show
from pipeline.artifacts import DECIDING, ArtifactError, Workspace, existing, file_hash, read_json
from pipeline.config import Params, load_params

TRACK_EXAMPLE = "Example: MLFLOW_TRACKING_URI=https://mlflow.example sparse-circuits track"
VERIFY_EXAMPLE = "Example: sparse-circuits verify"
STATUS_SECONDS = 600


def track() -> None:
    """Record the models, circuits, tests and results of this workspace in MLflow: all that it missed while it was down,
    or lost with a deleted experiment, or never saw (after dvc pull). What it has already is not recorded twice."""
    from flows.tracking import Tracker, log_study  # takes seconds to import

    workspace, params = _study()
    well, n_models = True, 0
    for name in params.models:
        if not (workspace.model(name) / "summary.json").is_file():
            continue
        n_models += 1
        with Tracker(params, name) as tracker:
            _tell(tracker, workspace, name)
        well &= not tracker.sender.failed
    results = workspace.results / "summary.json"
    if results.is_file():
        well &= log_study(params, read_json(results), workspace.results, once=True)
    if not n_models and not results.is_file():
        raise ArtifactError(
            f"{workspace.root}: nothing to record, neither models nor results; run dvc repro or dvc pull"
        )
    if not well:
        raise typer.Exit(1)  # the tracker said why
    print(f"recorded: {n_models} models{' and the results' if results.is_file() else ''}")


def _tell(tracker: Any, workspace: Workspace, name: str) -> None:
    """Tell MLflow all that there is of one model, in the order in which the stages do."""
    model, circuits = workspace.model(name), workspace.circuits(name)
    tracker.log_checkpoint(model)
    if (circuits / "summary.json").is_file():
        tracker.log_circuits(model, circuits)
        if workspace.ablations(name).is_file():
            tracker.log_ablations(model, circuits, workspace.ablations(name))
        if workspace.validations(name).is_file():
            tracker.log_validations(model, circuits, workspace.validations(name))
    if workspace.explanations(name).is_file():
        tracker.log_explanations(model, workspace.explanations(name))


@dataclass(frozen=True)
class Check:
    """One comparison: what of, what the record says, what is here."""

    of: str
    recorded: str
    here: str

    @property
    def same(self) -> bool:
        return self.recorded == self.here


def verify() -> None:
    """Compare this workspace with its provenance: code, settings, packages and data with results/summary.json, every
    model and circuit with what it was made from, every file with dvc.lock. Status 1 where anything differs."""
    workspace, params = _study()
    summary = read_json(existing(workspace.results / "summary.json", "report"))
    checks = [*of_provenance(workspace, summary["provenance"]), *of_models(workspace, summary), *of_dvc(workspace)]
    table = Table("", "of", "recorded", "here")
    for check in checks:
        table.add_row("same" if check.same else "DIFFERS", *map(escape, (check.of, check.recorded, check.here)))
    show(table)
    wrong = [check for check in checks if not check.same]
    print(f"{len(checks) - len(wrong)} of {len(checks)} are the same, {params.profile} profile, seed {params.seed}")
    if wrong:
        print("differs: " + ", ".join(check.of for check in wrong), file=sys.stderr)
        raise typer.Exit(1)


def of_provenance(workspace: Workspace, recorded: dict[str, Any]) -> Iterator[Check]:
    """Code, settings, packages and corpus against what the report noted of them; what it did not note is not asked."""
    from flows.report import git_state, origins  # takes seconds to import

    git, now = recorded.get("git") or {}, git_state(workspace.root) or {}
    yield Check("git commit", str(git.get("commit")), str(now.get("commit")))
    yield Check("changed since that commit", str(git.get("dirty")), str(now.get("dirty")))
    for name, path in ({"params": workspace.params} | origins(workspace)).items():
        if wanted := recorded.get(f"{name}_hash"):
            yield Check(str(path.relative_to(workspace.root)), wanted, hash_of(path))
    import torch

    from pipeline.data.sources.installed import read_lock  # takes seconds to import

    for of, version in (("torch", torch.__version__), ("python", platform.python_version())):
        yield Check(of, str(recorded.get("machine", {}).get(of)), str(version))
    if (lock := workspace.root / "requirements.lock").is_file():
        others = other_packages(read_lock(lock))
        yield Check("packages", "as locked", ", ".join(others) or "as locked")


def other_packages(pins: dict[str, str]) -> list[str]:
    """The locked packages that are here in another version, or are not."""
    here = {canonicalize_name(one.name): one.version for one in importlib.metadata.distributions()}
    return [
        f"{name} {here.get(name, 'missing')} (locked: {version})"
        for name, version in pins.items()
        if here.get(name, "").split("+")[0] != version and name != "pip"
    ]


def of_models(workspace: Workspace, summary: dict[str, Any]) -> Iterator[Check]:
    """Every checkpoint against the report, every circuit against its checkpoint and its pairs."""
    from pipeline.data.tasks import TaskSet

    tasks = TaskSet.load(workspace.tasks) if (workspace.tasks / "report.json").is_file() else None
    for model in summary["models"]:
        name, folder = model["name"], workspace.model(model["name"])
        files = [folder / "model.safetensors", folder / "config.json"]
        yield Check(f"models/{name}", model["model_hash"], hash_of(*files))
        for path in sorted(workspace.circuits(name).glob("*/circuit.json")):
            for file in (path, path.parent / DECIDING / "circuit.json"):
                if file.is_file():
                    about = read_json(file)["about"]
                    of = str(file.parent.relative_to(workspace.root))
                    yield Check(f"{of}: its model", model["model_hash"], str(about.get("model_hash")))
                    if tasks is not None and about.get("task") in tasks.names:
                        yield Check(f"{of}: its pairs", str(about.get("task_hash")), tasks.hash(about["task"]))


def of_dvc(workspace: Workspace) -> Iterator[Check]:
    """Every stage against dvc.lock, as ``dvc status`` does."""
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    done = subprocess.run(command, cwd=workspace.root, capture_output=True, text=True, timeout=STATUS_SECONDS)
    try:
        changed = json.loads(done.stdout)
    except ValueError:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise ArtifactError(f"{workspace.root}: dvc status cannot tell: {said}") from None
    stages = locked_stages(workspace)
    for stage in sorted({*stages, *changed}):
        yield Check(f"stage {stage}", "dvc.lock", "dvc.lock" if stage not in changed else said_of(changed[stage]))


def locked_stages(workspace: Workspace) -> list[str]:
    """The stages that dvc.lock knows."""
    import yaml

    path = existing(workspace.root / "dvc.lock")
    return list((yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("stages", {}))


def said_of(changes: list[Any]) -> str:
    """What ``dvc status`` says of a stage, in one line: the files that differ and how."""
    parts = [part for change in changes if isinstance(change, dict) for part in change.values()]
    files = [f"{path} {how}" for part in parts if isinstance(part, dict) for path, how in part.items()]
    return ", ".join(files or map(str, changes))


def hash_of(*paths: Path) -> str:
    """The hash of files, or which of them is missing."""
    missing = [path for path in paths if not path.is_file()]
    return f"no {missing[0].name}" if missing else file_hash(*paths)


def _study() -> tuple[Workspace, Params]:
    workspace = environment.workspace()
    return workspace, load_params(workspace.params)
