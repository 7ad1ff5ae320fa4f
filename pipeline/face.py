"""The Python face: ``from pipeline import Circuit, load_model, load_task, draw``, beside ``prune`` and ``validate``.

Two methods of ``Circuit`` are defined here, because what they need lies above the package that defines circuits.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import vl_convert

from pipeline.artifacts import whole_file
from pipeline.circuit import Circuit
from pipeline.report.bundle import token_texts
from pipeline.report.picture import picture_of
from pipeline.report.write import drawn
from pipeline.workspace import LoadedModel, LoadedTask, model_beside

__all__ = ["Circuit", "draw", "load_model", "load_task"]

FILES = (".svg", ".png", ".pdf")
PIXELS = 2  # of a PNG, for each of the SVG's


def load_model(folder: Path | str, tokenizer: Path | str | None = None) -> LoadedModel:
    """A model with its tokenizer and means: ``run_with_cache``, ``generate``, ``load_task``.

    ``tokenizer``: a folder (None: the model's own, else data/tokens of its workspace). Raises ArtifactError for files
    that are missing, damaged or do not belong together.
    """
    return LoadedModel.open(folder, tokenizer=tokenizer)


def load_task(model: LoadedModel | Path | str, task: Path | str) -> LoadedTask:
    """One task in a model's tokens: a name of the study's twenty, or a file of contrast pairs; ``batch("test")``."""
    return _loaded(model).load_task(task)


class Drawing(str):
    """SVG text, which a notebook shows as a picture."""

    def _repr_svg_(self) -> str:
        return str(self)


def draw(
    circuit: Circuit | Path | str, model: LoadedModel | Path | str | None = None, out: Path | str | None = None
) -> Drawing:
    """The drawing of a circuit as SVG text, written to ``out`` (.svg, .png or .pdf) where that is given.

    ``model``: None for the one beside the circuit, which was loaded from circuits/<model>/<task>; a ``LoadedTask`` says
    which pairs the drawing's values are of (else those of the task that the circuit names). Raises ValueError for
    another kind of file, WrongModelError for a circuit of another model, WrongPairsError for pairs that it was not made
    with, TaskError where its task is none of the twenty, ArtifactError where the model is not found.
    """
    if out is not None and Path(out).suffix not in FILES:
        raise ValueError(f"{out}: cannot write {Path(out).suffix or 'no ending'}; allowed: {', '.join(FILES)}")
    found = circuit if isinstance(circuit, Circuit) else Circuit.load(circuit)
    loaded = _loaded(model or model_beside(found))
    found.check_model(loaded.model)
    task = loaded if isinstance(loaded, LoadedTask) else loaded.load_task_of(found)
    task.check_pairs(found)
    picture = picture_of(found, task.model, task.batch("test"), token_texts(task.tokenizer))
    svg = drawn(found, picture, f"{task.task} in {task.name}")
    if out is not None:
        with whole_file(Path(out)) as partial:
            partial.write_bytes(as_file(svg, Path(out).suffix))
    return Drawing(svg)


def as_file(svg: str, suffix: str) -> bytes:
    """The drawing as the bytes of an SVG, PNG or PDF file."""
    if suffix == ".svg":
        return svg.encode()
    return vl_convert.svg_to_pdf(on_paper(svg)) if suffix == ".pdf" else vl_convert.svg_to_png(on_paper(svg), PIXELS)


def on_paper(svg: str) -> str:
    """The same drawing in its light colours, without variables, media queries and inherited fonts, which only browsers
    know."""
    light = re.sub(r"@media[^{]*\{.*?\}\}", "", svg).replace(".circuit text{", ".circuit text{font:10px sans-serif;", 1)
    values = dict(re.findall(r"--(\w+):([^;}]+)", light))
    return re.sub(r"var\(--(\w+)\)", lambda found: values[found[1]], light)


def _run_with_cache(
    circuit: Circuit, model: LoadedModel | Path | str, text: Any, names: str | list[str] = "*", **changes: Any
) -> Any:
    """``model.run_with_cache`` with only this circuit live; arguments, result and errors are the same."""
    return _loaded(model).run_with_cache(text, names, circuit=circuit, **changes)


def _draw(circuit: Circuit, out: Path | str | None = None, model: LoadedModel | Path | str | None = None) -> Drawing:
    """``pipeline.draw`` of this circuit."""
    return draw(circuit, model, out)


def _loaded(model: LoadedModel | Path | str) -> LoadedModel:
    return model if isinstance(model, LoadedModel) else load_model(model)


Circuit.run_with_cache = _run_with_cache  # type: ignore[method-assign, assignment]
Circuit.draw = _draw  # type: ignore[method-assign, assignment]
