"""``sparse-circuits verify``: this workspace is compared with what its report and dvc.lock say of it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from packaging.requirements import Requirement
from rich.markup import escape
from rich.table import Table

from flows import environment
from flows.tables import show
from pipeline.artifacts import DECIDING, ArtifactError, Workspace, existing, file_hash, read_json

EXAMPLE = "Example: sparse-circuits verify"
STATUS_SECONDS = 600  # in which DVC has to compare all files
MADE_BY = ("flows", "pipeline", "dvc.yaml", "params.yaml", "requirements.lock")  # what results follow from
MAX_SHOWN = 3  # files or packages of a row that are named


@dataclass(frozen=True)
class Comparison:
    """One comparison: what of, what the record says, what is here."""

    of: str
    recorded: str
    here: str

    @property
    def same(self) -> bool:
        return self.recorded == self.here


def verify() -> None:
    """Compare this workspace with its provenance: code, settings, packages and corpus with results/summary.json, every
    model and circuit with what it was made from, every stage with dvc.lock. Status 1 where anything differs."""
    workspace = environment.workspace()
    path = existing(workspace.results / "summary.json", "report")
    summary = read_json(path)
    try:
        found = [*of_provenance(workspace, summary["provenance"]), *of_models(workspace, summary["models"])]
    except KeyError as error:
        raise ArtifactError(f"{path}: lacks {error}; run its stage again (dvc repro -f report)") from None
    found += of_stages(workspace)
    table = Table("", "of", "recorded", "here")
    for each in found:
        table.add_row("same" if each.same else "DIFFERS", *map(escape, (each.of, each.recorded, each.here)))
    show(table)
    wrong = [each.of for each in found if not each.same]
    print(f"{len(found) - len(wrong)} of {len(found)} are the same")
    if wrong:
        print("differs: " + ", ".join(wrong), file=sys.stderr)
        raise typer.Exit(1)


def of_provenance(workspace: Workspace, recorded: Mapping[str, Any]) -> Iterator[Comparison]:
    """Code, settings, packages and corpus against what the report noted of them; what it did not note is not asked."""
    from torch import __version__ as torch_version  # takes seconds to import

    from flows.report import origins, precision
    from pipeline.config import load_params
    from pipeline.data.sources.installed import read_lock

    if recorded["git"]:
        yield Comparison("code", *code_of(workspace.root, recorded["git"]))
    for name, path in ({"params": workspace.params} | origins(workspace)).items():
        if wanted := recorded.get(f"{name}_hash"):
            yield Comparison(str(path.relative_to(workspace.root)), wanted, hash_of(path))
    for of, version in (("torch", torch_version), ("python", platform.python_version())):
        yield Comparison(of, recorded["machine"][of], str(version))
    if (wanted := recorded["machine"].get("precision")) and workspace.params.is_file():
        yield Comparison("training's precision", wanted, precision(load_params(workspace.params)))
    if (lock := workspace.root / "requirements.lock").is_file():
        yield Comparison("packages", "as locked", named(other_packages(read_lock(lock))) or "as locked")


def code_of(root: Path, recorded: Mapping[str, Any]) -> tuple[str, str]:
    """The commit that made the results, and what of the code here is not as in it."""
    from flows.report import git_says

    commit = f"commit {recorded['commit'][:12]}"
    try:
        changed = git_says(root, "diff", "--name-only", recorded["commit"], "--", *MADE_BY).splitlines()
    except (OSError, subprocess.CalledProcessError):
        return commit, "no such commit here"
    if recorded["dirty"]:
        return f"{commit} and changes that are in no commit", "not known"
    return commit, f"changed: {named(changed)}" if changed else commit


def other_packages(pins: Iterable[Requirement]) -> list[str]:
    """The locked packages that are here in another version, or are not."""
    others = []
    for pin in pins:
        try:
            version = importlib.metadata.version(pin.name)
        except importlib.metadata.PackageNotFoundError:
            version = "missing"
        if version == "missing" or not pin.specifier.contains(version, prereleases=True):
            others.append(f"{pin.name} {version}")
    return others


def of_models(workspace: Workspace, models: Iterable[Mapping[str, Any]]) -> Iterator[Comparison]:
    """Every checkpoint against the report, every circuit against its checkpoint and its pairs."""
    from pipeline.data.tasks import TaskSet

    tasks = TaskSet.load(workspace.tasks) if (workspace.tasks / "report.json").is_file() else None
    for model in models:
        name, folder = model["name"], workspace.model(model["name"])
        here = hash_of(folder / "model.safetensors", folder / "config.json")
        yield Comparison(f"models/{name}", model["model_hash"], here)
        for path in circuit_files(workspace.circuits(name)):
            of, about = path.parent.relative_to(workspace.root), read_json(path)["about"]
            yield Comparison(f"{of}: its model", model["model_hash"], str(about.get("model_hash")))
            if tasks is not None and about.get("task") in tasks.names:
                yield Comparison(f"{of}: its pairs", tasks.hash(about["task"]), str(about.get("task_hash")))


def circuit_files(folder: Path) -> list[Path]:
    """The circuit.json of every circuit of a model, the deciding ones among them."""
    return sorted([*folder.glob("*/circuit.json"), *folder.glob(f"*/{DECIDING}/circuit.json")])


def of_stages(workspace: Workspace) -> list[Comparison]:
    """Every stage against dvc.lock, as ``dvc status`` does. Raises ArtifactError where DVC cannot tell."""
    from flows.study import stage_graph

    changed = dvc_status(workspace.root)
    return [
        Comparison(f"stage {stage}", "as locked", said_of(changed[stage]) if stage in changed else "as locked")
        for stage in sorted(stage_graph(workspace.root))
    ]


def dvc_status(root: Path) -> dict[str, list[Any]]:
    """Stage → what ``dvc status`` says of it, where it is not up to date."""
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=STATUS_SECONDS)
        return json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise ArtifactError(f"{root}: dvc status took more than {STATUS_SECONDS} s") from None
    except ValueError:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise ArtifactError(f"{root}: dvc status cannot tell: {said}") from None


def said_of(changes: Iterable[Any]) -> str:
    """What ``dvc status`` says of a stage, in one line: the files that differ and how."""
    parts = [part for change in changes if isinstance(change, dict) for part in change.values()]
    files = [f"{path} {how}" for part in parts if isinstance(part, dict) for path, how in part.items()]
    return named(files or list(map(str, changes)))


def hash_of(*paths: Path) -> str:
    """The hash of files, or which of them is missing."""
    missing = [path.name for path in paths if not path.is_file()]
    return f"no {missing[0]}" if missing else file_hash(*paths)


def named(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - MAX_SHOWN
    return ", ".join(names[:MAX_SHOWN]) + (f" and {more} more" if more > 0 else "")
