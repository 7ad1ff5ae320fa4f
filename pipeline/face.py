"""The Python face: ``from pipeline import Circuit, load_model, load_task, draw``, beside ``prune`` and ``validate``."""

from __future__ import annotations

from pathlib import Path

from pipeline.circuit import Circuit
from pipeline.report.bundle import token_texts
from pipeline.report.write import drawn
from pipeline.workspace import LoadedModel, LoadedTask

__all__ = ["Circuit", "draw", "load_model", "load_task"]


def load_model(folder: Path | str, tokenizer: Path | str | None = None) -> LoadedModel:
    """A model with its tokenizer and means: ``run_with_cache``, ``generate``, ``load_task``.

    ``tokenizer``: a folder (None: the model's own, else data/tokens of its workspace). Raises ArtifactError for files
    that are missing, damaged or do not belong together.
    """
    return LoadedModel.open(folder, None, None if tokenizer is None else Path(tokenizer))


def load_task(model: LoadedModel | Path | str, task: Path | str) -> LoadedTask:
    """One task in a model's tokens: a name of the study's twenty, or a file of contrast pairs; ``batch("test")``."""
    return _loaded(model).load_task(task)


def draw(circuit: Circuit | Path | str, model: LoadedModel | Path | str, out: Path | str | None = None) -> str:
    """The drawing of a circuit as SVG text, written to ``out`` where that is given.

    Raises WrongModelError for a circuit of another model, TaskError where its task is none of the twenty.
    """
    found, loaded = _circuit(circuit), _loaded(model)
    found.check_model(loaded.model)
    task = loaded.load_task(str(found.about["task"]))
    svg = drawn(found, loaded.model, task.batch("test"), token_texts(loaded.words), f"{task.task} in {loaded.name}")
    if out is not None:
        Path(out).write_text(svg, encoding="utf-8")
    return svg


def _loaded(model: LoadedModel | Path | str) -> LoadedModel:
    return model if isinstance(model, LoadedModel) else load_model(model)


def _circuit(circuit: Circuit | Path | str) -> Circuit:
    return circuit if isinstance(circuit, Circuit) else Circuit.load(circuit)
