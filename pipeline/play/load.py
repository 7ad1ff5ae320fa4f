"""A session out of folders: a checkpoint, its tokenizer, its circuits, and the prompts of their tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.artifacts import Workspace, read_json
from pipeline.circuit import Circuit, WrongModelError
from pipeline.config import Params
from pipeline.data.tasks import TaskError, TaskSet
from pipeline.data.tokenizer import Tokenizer
from pipeline.model.checkpoint import load_model
from pipeline.model.device import pick_device
from pipeline.model.transformer import Transformer
from pipeline.play.examples import Examples
from pipeline.play.session import Session
from pipeline.workspace import description_of, root_of, tasks_for, tokenizer_of


def load_session(
    folder: Path,
    params: Params,
    *,
    circuits: Sequence[Path] = (),
    task: str | None = None,
    tokenizer: Path | None = None,
) -> tuple[Session, list[str]]:
    """The session of a checkpoint's folder, and what had to be left out of it, a sentence each.

    ``circuits``: their folders; none: all of the model's in its workspace, circuits/<name>, of which those of another
    checkpoint are left out. ``task``: the pairs that a circuit was made for, where these are in a file. Raises
    ArtifactError for files that are missing, damaged or do not belong together, WrongModelError for circuits asked for.
    """
    described = description_of(folder)
    model = load_model(folder, pick_device(params.compute))
    words = tokenizer_of(folder, model, described.get("tokenizer"), tokenizer)
    name = described.get("name") or folder.resolve().name
    left_out: list[str] = []
    found = {path: _checked(path, model) for path in circuits}
    if not found:
        found, left_out = _own(Workspace(root_of(folder)).circuits(folder.resolve().name), model)
    named = _named(found)
    examples = _examples(folder, named, task, params, words, model.config.n_ctx)
    labels = _labels(Workspace(root_of(folder)).explanations(folder.resolve().name), model)
    return Session(name, model, words, named, examples, labels), left_out


def _own(folder: Path, model: Transformer) -> tuple[dict[Path, Circuit], list[str]]:
    """The circuits in a folder that are the model's, and why others are not."""
    found, left_out = {}, []
    for path in sorted(file.parent for file in folder.glob("*/circuit.json")):
        try:
            found[path] = _checked(path, model)
        except WrongModelError as error:
            left_out.append(f"{path} is left out: {error}")
    return found, left_out


def _checked(path: Path, model: Transformer) -> Circuit:
    circuit = Circuit.load(path)
    circuit.check_model(model)
    return circuit


def _named(circuits: Mapping[Path, Circuit]) -> dict[str, Circuit]:
    """Circuits by their task, or by their folder where another one has that task."""
    named: dict[str, Circuit] = {}
    for path, circuit in circuits.items():
        task = str(circuit.about.get("task", path.name))
        named[task if task not in named else str(path)] = circuit
    return named


def _labels(path: Path, model: Transformer) -> dict[str, str]:
    """What the stage explain supposes that nodes respond to; none where it has not run on this checkpoint."""
    explanation = read_json(path) if path.is_file() else None
    if explanation is None or explanation["model_hash"] != model.checkpoint:
        return {}
    return {name: node["label"]["text"] for name, node in explanation["nodes"].items() if node["label"]}


def _examples(
    folder: Path, circuits: Mapping[str, Circuit], task: str | None, params: Params, words: Tokenizer, n_ctx: int
) -> dict[str, Examples]:
    """The prompts that circuits were made for; where they cannot be had, why."""
    found: dict[str, Examples] = {}
    tasks: TaskSet | None = None
    for name, circuit in circuits.items():
        made_for = str(circuit.about.get("task"))
        given = task if task is not None and Path(task).stem == made_for else made_for
        try:
            if tasks is None or made_for not in tasks.names or given != made_for:  # a study's set has all of its tasks
                tasks = tasks_for(folder, given, params, words, n_ctx)
            found[name] = Examples(tasks, made_for, tasks.reason(made_for))
        except TaskError as error:
            found[name] = Examples(None, made_for, str(error))
    return found
