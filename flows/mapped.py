"""A mapped stage: one Prefect task, a unit, per (model, task), each kept when it is finished.

A unit takes a task's name and small plain values (names, hashes of what it reads and of the code, settings) and gives a
row of plain values. Prefect keeps the rows in the workspace and gives them back when all of these are the same, so that
an interrupted stage goes on where it was.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from prefect import Task, runtime
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.cache_policies import INPUTS, TASK_SOURCE
from prefect.futures import PrefectFuture
from tqdm import tqdm

import pipeline
from flows import environment, one_go
from flows.server_gone import tell
from flows.workers import finished
from pipeline.artifacts import DECIDING, ArtifactError, Workspace, file_hash, read_json
from pipeline.circuit import Circuit
from pipeline.config import Params
from pipeline.data.tasks import TaskSet
from pipeline.model.checkpoint import load_model, model_hash
from pipeline.model.device import pick_device, prepare_cpu
from pipeline.model.transformer import Transformer
from pipeline.report.chips import chips
from pipeline.report.picture import rounded as rounded_to

DIGITS = 4  # of a number in a table
TITLES = {"solved": "circuit found"}  # prune's word is not the study's: a task may then miss the target on test pairs
CACHED = "Cached"  # Prefect's name for the state of a unit whose row was there from before
UnitRow = TypeVar("UnitRow")  # what a unit found: one task in one model

# How a unit is declared: @task(name="prune", **UNIT)
UNIT: dict[str, Any] = {
    "task_run_name": "{task}",
    "cache_policy": INPUTS + TASK_SOURCE,
    "persist_result": True,
    "result_serializer": "json",
}


def code_hash(stage: str) -> str:
    """Identity of the code that a stage's units run (the ``deps`` under pipeline/ in dvc.yaml), and of torch."""
    home = Path(pipeline.__file__).parent.parent
    described = yaml.safe_load((home / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    deps = [dep for dep in described["do"]["deps"] if dep.startswith("pipeline/")]
    sources = [path for dep in deps for path in sorted((home / dep).rglob("*.py")) or [home / dep]]  # folders, files
    return hashlib.sha256(f"{torch.__version__} {file_hash(*sources)}".encode()).hexdigest()[:16]


def checked_tasks(workspace: Workspace, model: str) -> TaskSet:
    """The tasks. Raises ArtifactError where they are in other tokens than the model's, or too long for it."""
    tasks, checkpoint = TaskSet.load(workspace.tasks), read_json(workspace.model(model) / "config.json")
    if tasks.tokenizer_hash != checkpoint.get("tokenizer"):
        raise ArtifactError(
            f"{workspace.tasks}: in the tokens of tokenizer {tasks.tokenizer_hash}, but models/{model} was trained "
            f"with {checkpoint.get('tokenizer')}; run dvc repro, which makes both from one tokenizer"
        )
    n_ctx = checkpoint["model"]["n_ctx"]
    if tasks.n_tokens_max > n_ctx:
        raise ArtifactError(
            f"models.{model}.n_ctx {n_ctx} is too short: the longest prompt of the tasks has {tasks.n_tokens_max} "
            f"tokens; allowed: at least {tasks.n_tokens_max}; raise it in params.yaml and run dvc repro"
        )
    return tasks


def shared_inputs(workspace: Workspace, params: Params, stage: str, model: str) -> dict[str, Any]:
    """Everything that determines the results of a stage's units, apart from their task; plain values only."""
    return {
        "model": model,
        "model_hash": model_hash(workspace.model(model)),
        "seed": params.seed,
        "settings": getattr(params, stage).model_dump(mode="json"),
        "device": str(pick_device(params.compute)),
        "code": code_hash(stage),
    }


def inputs_by_circuit(workspace: Workspace, params: Params, stage: str, model: str) -> dict[str, dict[str, Any]]:
    """Task → inputs of its unit, for every circuit of a model. Raises as ``checked_tasks`` and ``circuits_of``."""
    tasks = checked_tasks(workspace, model)
    shared = shared_inputs(workspace, params, stage, model)
    folders = circuits_of(workspace.circuits(model), tasks, shared["model_hash"])
    return {
        name: shared | {"task_hash": tasks.hash(name), "circuit_hash": circuit_hash(folder)}
        for name, folder in folders.items()
    }


def run_units(
    unit: Task[..., UnitRow], inputs: Mapping[str, Mapping[str, Any]], *, redo: Container[str] = ()
) -> dict[str, UnitRow]:
    """Task → row of its unit, in the order of ``inputs`` (task → inputs); only what has not run before is run.

    Those in ``redo`` are run in any case. Every unit is run to its end before the first one's error is raised.
    Raises ArtifactError before any of them for a damaged checkpoint, which would else fail each.
    """
    prepare_cpu(1)
    if shared := next(iter(inputs.values()), None):  # all units of a stage share one model
        loaded_model(environment.workspace().model(shared["model"]), shared["model_hash"], shared["device"])
    again = unit.with_options(refresh_cache=True)

    def submit(task: str) -> PrefectFuture[UnitRow]:
        return (again if task in redo else unit).submit(task, dict(inputs[task]))

    with progress(unit.name, str((shared or {}).get("model", "")), len(inputs)) as on_done:
        futures = finished(submit, inputs, on_done, unit.name)
    stage = one_go.address(runtime.flow_run.flow_name, runtime.flow_run.parameters)
    one_go.reuse(environment.workspace(), stage, sum(future.state.name == CACHED for future in futures.values()))
    return {task: futures[task].result() for task in inputs}


@contextmanager
def progress(unit: str, model: str, n: int) -> Iterator[Callable[[], None]]:
    """A function to call after each of ``n`` units: it moves a bar in the terminal and one in Prefect's UI."""
    about = f"Units of {unit} that are done, of {n}"
    key = artifact_key("progress", unit, model)
    shown: Any = tell(lambda: create_progress_artifact(0.0 if n else 100.0, key=key, description=about))
    with tqdm(total=n, desc=unit, unit="task") as bar:

        def on_done() -> None:
            bar.update()
            tell(lambda: update_progress_artifact(shown, 100 * bar.n / n))  # without a server, tell does nothing

        yield on_done


def circuits_of(folder: Path, tasks: TaskSet, checkpoint: str) -> dict[str, Path]:
    """Task → folder of its circuit. Raises where one is missing, damaged, or of another checkpoint or other pairs."""
    rows = read_json(folder / "summary.json")["tasks"]
    folders = {name: folder / name for name in tasks.names if rows.get(name, {}).get("n_edges") is not None}
    for name, path in folders.items():
        circuit = Circuit.load(path)
        circuit.check_hash(checkpoint)
        if circuit.about["task_hash"] != tasks.hash(name):
            raise ValueError(
                f"{path}: made with other pairs of {name} ({circuit.about['task_hash']}) than those in data/tasks "
                f"({tasks.hash(name)}); run dvc repro, which prunes again"
            )
    return folders


def circuit_hash(folder: Path) -> str:
    """Identity of a task's circuits."""
    folders = [each for each in (folder, folder / DECIDING) if each.is_dir()]
    return file_hash(*(each / name for each in folders for name in ("circuit.json", "circuit.safetensors")))


def show_table(stage: str, model: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """Put a table into Prefect's UI."""
    table = [{name: rounded(value) for name, value in row.items()} for row in rows]
    tell(lambda: create_table_artifact(table, key=artifact_key(stage, model), description=description))


def show_tasks(
    stage: str, model: str, rows: Mapping[str, Mapping[str, Any]], columns: Sequence[str], description: str
) -> None:
    """Put some columns of a row for each task into Prefect's UI."""
    show_table(stage, model, task_table(rows, columns), description)


def task_table(rows: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Some columns of a row for each task, and the claims of rows that have them, as signs."""
    return [
        {"task": name} | claim_signs(row) | {TITLES.get(column, column): row[column] for column in columns}
        for name, row in rows.items()
    ]


def claim_signs(verdict: Mapping[str, Any]) -> dict[str, str]:
    """Claim → the sign of its outcome, from a verdict; nothing for any other row."""
    if "claims" not in verdict:
        return {}
    return chips({name: row["outcome"] for name, row in verdict["claims"].items()})


def rounded(value: Any) -> Any:
    """A number as it is read at a glance; whole numbers and words as they are."""
    return rounded_to(value, DIGITS) if isinstance(value, float) else value


def artifact_key(*names: str) -> str:
    """A key as Prefect's artifacts want it: small letters, digits and dashes."""
    return re.sub("[^a-z0-9]+", "-", "-".join(names).lower()).strip("-")


def unit_model(inputs: Mapping[str, Any]) -> tuple[Workspace, Transformer]:
    """Where a unit works, on one thread, and its model."""
    workspace = environment.workspace()
    prepare_cpu(1)
    return workspace, loaded_model(workspace.model(inputs["model"]), inputs["model_hash"], inputs["device"])


def unit_circuit(workspace: Workspace, task: str, inputs: Mapping[str, Any]) -> Circuit:
    """The circuit of a unit."""
    return Circuit.load(workspace.circuits(inputs["model"]) / task)


def deciding_circuit(workspace: Workspace, task: str, inputs: Mapping[str, Any]) -> Circuit | None:
    """The deciding circuit of a unit; None where the search found none."""
    folder = workspace.circuits(inputs["model"]) / task / DECIDING
    return Circuit.load(folder) if folder.is_dir() else None


@lru_cache(maxsize=2)
def loaded_model(folder: Path, hash_: str, device: str) -> Transformer:
    """The checkpoint of that hash, loaded once a process. Raises ArtifactError where the folder holds another one."""
    if (found := model_hash(folder)) != hash_:
        raise ArtifactError(f"{folder}: changed from checkpoint {hash_} to {found} while its circuits were sought")
    return load_model(folder, device)


def loaded_tasks(folder: Path) -> TaskSet:
    """The tasks, loaded once a process and version of their files."""
    return _loaded_tasks(folder, file_hash(folder / "report.json", folder / "pairs.parquet"))


@lru_cache(maxsize=2)
def _loaded_tasks(folder: Path, hash_: str) -> TaskSet:
    return TaskSet.load(folder)
