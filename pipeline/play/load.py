"""A session out of folders: a checkpoint, its tokenizer, its circuits, and the prompts of their tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.artifacts import read_json
from pipeline.circuit import Circuit, WrongModelError
from pipeline.config import Params
from pipeline.data.tasks import TaskError
from pipeline.play.session import Session
from pipeline.rows import Explanation
from pipeline.workspace import LoadedModel, LoadedTask, WrongPairsError


def load_session(
    folder: Path,
    params: Params,
    *,
    circuits: Sequence[Path] = (),
    task: str | None = None,
    tokenizer: Path | None = None,
) -> tuple[Session, list[str]]:
    """The session of a checkpoint's folder, and a sentence for each circuit that had to be left out of it.

    ``circuits``: their folders; none: all of the model's in its workspace, circuits/<name>, of which those of another
    checkpoint are left out. ``task``: the pairs that a circuit was made for, where these are in a file. Raises
    ArtifactError for files that are missing, damaged or do not belong together, WrongModelError and WrongPairsError for
    circuits asked for, TaskError for a task that no circuit was made for.
    """
    loaded = LoadedModel.open(folder, params, tokenizer)
    own = loaded.workspace.circuits(folder.resolve().name)
    found: dict[str, Circuit] = {}
    left_out: list[str] = []
    for path in circuits or sorted(file.parent for file in own.glob("*/circuit.json")):
        circuit = Circuit.load(path)
        try:
            circuit.check_model(loaded.model)
        except WrongModelError as error:
            if circuits:
                raise
            left_out.append(f"{path} is left out: {error}")
            continue
        name = str(circuit.about.get("task", path.name))
        found[name if name not in found else f"{name}_{len(found) + 1}"] = circuit
    tasks = _tasks_of(found, loaded, task, params)
    wrong = next((reason for reason in tasks.values() if isinstance(reason, WrongPairsError)), None)
    if circuits and wrong is not None:
        raise wrong
    return Session(**vars(loaded), circuits=found, tasks=tasks, explanation=_explanation(loaded)), left_out


def _tasks_of(
    circuits: Mapping[str, Circuit], loaded: LoadedModel, task: str | None, params: Params
) -> dict[str, LoadedTask | TaskError]:
    """Name of a circuit → the task that it was made for; where its pairs cannot be had, the reason.

    ``task`` is that of the circuits which have its pairs. Raises WrongPairsError where none of them has.
    """
    given: dict[str, LoadedTask | TaskError] = {}
    if task is not None:
        given = {name: _task_of(circuit, loaded, task, params) for name, circuit in circuits.items()}
        if circuits and all(isinstance(found, TaskError) for found in given.values()):
            [*_, wrong] = given.values()
            raise TaskError(f"{task}: no circuit was made for it; they were made for {', '.join(circuits)}: {wrong}")
    return {
        name: found if isinstance(found := given.get(name), LoadedTask) else _task_of(circuit, loaded, None, params)
        for name, circuit in circuits.items()
    }


def _task_of(circuit: Circuit, loaded: LoadedModel, task: str | None, params: Params) -> LoadedTask | TaskError:
    """The task that a circuit was made for; where its pairs cannot be had, or ``task`` has others, the reason."""
    try:
        found = loaded.load_task_of(circuit, task, params)
        found.batch("test")
        return found
    except TaskError as error:
        return error


def _explanation(loaded: LoadedModel) -> Explanation | None:
    """The output of the stage explain; None where it has not run on this checkpoint."""
    path = loaded.workspace.explanations(loaded.folder.resolve().name)
    found: Explanation | None = read_json(path) if path.is_file() else None
    return found if found and found["model_hash"] == loaded.model.checkpoint else None
