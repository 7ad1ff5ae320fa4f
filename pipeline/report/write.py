"""The report stage as one function: everything under results/ from the artifacts of the other stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from tqdm import tqdm

from pipeline.artifacts import read_json, whole_folder, write_json
from pipeline.circuit import Circuit
from pipeline.config import Params
from pipeline.data.pairs import PairBatch
from pipeline.data.tasks import Pair, TaskSet, find_task
from pipeline.data.tasks import task_names as registered_tasks
from pipeline.model.checkpoint import load_model
from pipeline.report import figures
from pipeline.report.drawing import Readout, draw_circuit, edge_weights, readout_weights
from pipeline.report.inputs import ModelArtifacts, ModelRecord, read_record
from pipeline.report.necessity_figure import necessity_svg
from pipeline.report.page import Example, PageParts, build_page, task_names
from pipeline.report.prediction_figure import prediction_svg
from pipeline.report.summary import summarise
from pipeline.report.tables import curves_csv, frontier_csv, metrics
from pipeline.report.verdicts import Asked

NOT_PREDICTED = {"tests": [{"says": "no model has a circuit for bracket_counting"}]}
DRAWING_BYTES = 4_500_000  # all drawings of the page together; results/ is committed, so it stays small


class PairSource(Protocol):
    """What the report needs of a TaskSet."""

    def batch(self, name: str, split: str) -> PairBatch: ...

    def examples(self, name: str, n: int) -> Sequence[Pair]: ...


def write_report(
    models: Mapping[str, ModelArtifacts],
    *,
    tasks: Path,
    tokens: Path,
    params: Params,
    margin: float,
    provenance: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """The summary, after writing ``folder`` whole: summary.json, index.html, figures, tables, the smallest circuits.

    ``margin``: nats that a circuit's loss on test pairs may be above its target; validate has it. ``provenance`` (git
    commit or null, params hash, machine, seconds per stage) goes into the summary as it is. Equal inputs give equal
    bytes. Raises ArtifactError where an artifact is missing, damaged or made from another checkpoint.
    """
    statistics = read_json(tokens / "stats.json")
    return assemble(
        models,
        task_set=TaskSet.load(tasks),
        statistics=statistics,
        params=params,
        margin=margin,
        provenance=provenance,
        folder=folder,
    )


def assemble(
    models: Mapping[str, ModelArtifacts],
    *,
    task_set: PairSource,
    statistics: Mapping[str, Any],
    params: Params,
    margin: float,
    provenance: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """``write_report`` with the tasks and the token statistics already read."""
    records = [read_record(files) for files in models.values()]
    summary = summarise(
        records,
        asked=Asked(params.prune.target_loss, margin, params.prune.ablation),
        curve_losses=params.prune.curve_losses,
        seed=params.seed,
        n_bootstrap=params.report.n_bootstrap,
        bigram_loss=statistics.get("bigram_loss_nats"),
        provenance=provenance,
    )
    predicted = prediction_of(records)
    plots = _plot_all(summary, records, predicted[1] if predicted else NOT_PREDICTED)
    examples = {name: _examples(task_set, name, params.report.example_pairs) for name in task_names(summary)}
    decides = {name: find_task(name).decides for name in task_names(summary) if name in registered_tasks()}
    with whole_folder(folder) as partial:
        drawings = dict(_draw_all(summary, models, task_set, partial / "circuits"))
        shown = predicted and predicted[0]
        parts = PageParts(plots, within_budget(drawings, DRAWING_BYTES), examples, decides, statistics, shown)
        (partial / "index.html").write_text(build_page(summary, parts), encoding="utf-8")
        for name, svg in plots.items():
            (partial / f"{name}.svg").write_text(svg, encoding="utf-8")
        (partial / "frontier.csv").write_text(frontier_csv(summary), encoding="utf-8")
        (partial / "curves.csv").write_text(curves_csv(summary), encoding="utf-8")
        write_json(partial / "metrics.json", metrics(summary))
        write_json(partial / "summary.json", summary)
    return summary


def _plot_all(
    summary: Mapping[str, Any], records: Sequence[ModelRecord], predicted: Mapping[str, Any]
) -> dict[str, str]:
    """Name → SVG file text of every figure but the circuits."""
    histories = {record.name: record.history for record in records}
    return {
        "frontier": figures.frontier_svg(summary),
        "curves": figures.curves_svg(summary),
        "training": figures.training_svg(summary, histories),
        "necessity": necessity_svg(summary["validation"]["necessity"]),
        "prediction": prediction_svg(predicted),
    }


def prediction_of(records: Sequence[ModelRecord]) -> tuple[str, Mapping[str, Any]] | None:
    """Model, and what its circuit of bracket_counting predicts, where it predicts best; None where none was tested."""
    found = [
        (record.name, section)
        for record in records
        for task in record.validated["tasks"].values()
        if (section := task.get("prediction")) and "points" in section
    ]
    return max(found, key=lambda of: of[1]["gain"]["mean"], default=None)


def within_budget(drawings: Mapping[tuple[str, str], str], budget: int) -> dict[tuple[str, str], str]:
    """As many drawings as fit into ``budget`` bytes, the smallest first."""
    kept: dict[tuple[str, str], str] = {}
    for key, svg in sorted(drawings.items(), key=lambda item: (len(item[1]), item[0])):
        budget -= len(svg.encode())
        if budget < 0:
            break
        kept[key] = svg
    return kept


def smallest_circuits(summary: Mapping[str, Any]) -> dict[str, str]:
    """Task → the model whose circuit for it has the fewest edges, for tasks that are solved."""
    best: dict[str, tuple[int, str]] = {}
    for model in summary["models"]:
        for name, task in model["tasks"].items():
            if task["solved"] and (name not in best or task["n_edges"] < best[name][0]):
                best[name] = (task["n_edges"], model["name"])
    return {name: model for name, (_, model) in best.items()}


def _draw_all(
    summary: Mapping[str, Any], files: Mapping[str, ModelArtifacts], task_set: PairSource, folder: Path
) -> Iterator[tuple[tuple[str, str], str]]:
    """((model, task), SVG element) of every circuit; writes the smallest of each task as a file of its own."""
    smallest = smallest_circuits(summary)
    for model in tqdm(summary["models"], desc="draw circuits"):
        place = files[model["name"]]
        state = load_model(place.model).state_dict()
        for name, task in model["tasks"].items():
            if task["n_edges"] is None:
                continue
            circuit = Circuit.load(place.circuits / name)
            alone = smallest.get(name) == model["name"]
            yield (model["name"], name), drawn(circuit, state, task_set, model["name"], name)
            if alone:
                path = folder / model["name"] / f"{name}.svg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(drawn(circuit, state, task_set, model["name"], name, standalone=True), encoding="utf-8")


def drawn(
    circuit: Circuit, state: Mapping[str, Tensor], task_set: PairSource, model: str, task: str, standalone: bool = False
) -> str:
    """The circuit as SVG, with its size in the title and, where a task has two, its answers at the end."""
    title = f"{task} in {model}: {circuit.n_nodes} nodes, {circuit.n_edges} edges"
    readout = _readout(circuit, state, task_set, task)
    return draw_circuit(circuit, edge_weights(circuit, state), title=title, readout=readout, standalone=standalone)


def _readout(circuit: Circuit, state: Mapping[str, Tensor], task_set: PairSource, task: str) -> Readout | None:
    """The two answers at the picture's end, where all pairs of the task have the same two."""
    answers = task_set.batch(task, "test").answers
    first, second = answers[0].tolist()
    if {tuple(row) for row in answers.tolist()} != {(first, second), (second, first)}:
        return None
    pair = task_set.examples(task, 1)[0]
    return Readout((pair.a.answer, pair.b.answer), readout_weights(circuit, state, (first, second)))


def _examples(task_set: PairSource, name: str, n: int) -> list[Example]:
    pairs = task_set.examples(name, n)
    return [Example((pair.a.prompt, pair.a.answer), (pair.b.prompt, pair.b.answer)) for pair in pairs]
