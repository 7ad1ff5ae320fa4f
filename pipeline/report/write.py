"""The report stage as one function: everything under results/ from the artifacts of the other stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from pipeline.artifacts import read_json, whole_folder, write_json
from pipeline.circuit import Circuit
from pipeline.config import Params
from pipeline.data.pairs import PairBatch
from pipeline.data.tasks import Pair, TaskSet, find_task
from pipeline.data.tasks import task_names as registered_tasks
from pipeline.data.tokenizer import Tokenizer
from pipeline.model.checkpoint import load_model
from pipeline.model.transformer import Transformer
from pipeline.report.bundle import circuit_bundle, token_texts
from pipeline.report.drawing import draw_circuit
from pipeline.report.figures import figures
from pipeline.report.inputs import ModelArtifacts, ModelRecord, read_explanation, read_record
from pipeline.report.packed import pack_json
from pipeline.report.page import Example, PageParts, build_page, task_names
from pipeline.report.picture import picture_of
from pipeline.report.shared import common_part, own_part
from pipeline.report.summary import smallest_circuits, summarise
from pipeline.report.tables import curves_csv, frontier_csv, metrics
from pipeline.report.verdicts import Asked
from pipeline.rows import Explanation, Summary


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
) -> Summary:
    """The summary, after writing ``folder`` whole: summary.json, index.html, figures, tables, the smallest circuits.

    ``margin``: nats that a circuit's loss on test pairs may be above its target; validate has it. ``provenance`` (git
    commit or null, params hash, machine, seconds per stage) goes into the summary as it is. Equal inputs give equal
    bytes. Raises ArtifactError where an artifact is missing, damaged or made from another checkpoint.
    """
    statistics = read_json(tokens / "stats.json")
    return assemble(
        models,
        task_set=TaskSet.load(tasks),
        texts=token_texts(Tokenizer.load(tokens)),
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
    texts: Sequence[str],
    statistics: Mapping[str, Any],
    params: Params,
    margin: float,
    provenance: Mapping[str, Any],
    folder: Path,
) -> Summary:
    """``write_report`` with the tasks, the tokens' texts and their statistics already read."""
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
    histories = {record.name: record.history for record in records}
    examples = {name: _examples(task_set, name, params.report.example_pairs) for name in task_names(summary)}
    decides = {name: find_task(name).decides for name in task_names(summary) if name in registered_tasks()}
    explanations = {name: read_explanation(files) for name, files in models.items()}
    with whole_folder(folder) as partial:
        parts = PageParts(
            prediction=predicted[1] if predicted else {},
            histories=histories,
            bundles=dict(_pack_all(summary, models, explanations, task_set, texts)),
            explained={name: pack_json(common_part(found)) for name, found in explanations.items() if found},
            examples=examples,
            decides=decides,
            statistics=statistics,
            predicts=predicted and predicted[0],
        )
        _draw_smallest(summary, models, task_set, texts, partial / "circuits")
        (partial / "index.html").write_text(build_page(summary, parts), encoding="utf-8")
        for name, svg in figures(summary, histories, parts.prediction).items():
            (partial / f"{name}.svg").write_text(svg, encoding="utf-8")
        (partial / "frontier.csv").write_text(frontier_csv(summary), encoding="utf-8")
        (partial / "curves.csv").write_text(curves_csv(summary), encoding="utf-8")
        write_json(partial / "metrics.json", metrics(summary))
        write_json(partial / "summary.json", summary)
    return summary


def prediction_of(records: Sequence[ModelRecord]) -> tuple[str, Mapping[str, Any]] | None:
    """Model, and what its circuit of bracket_counting predicts, where it predicts best; None where none was tested."""
    found = [
        (record.name, section)
        for record in records
        for task in record.validated["tasks"].values()
        if (section := task.get("prediction")) and "points" in section
    ]
    return max(found, key=lambda of: of[1]["gain"]["mean"], default=None)


def _pack_all(
    summary: Summary,
    files: Mapping[str, ModelArtifacts],
    explanations: Mapping[str, Explanation | None],
    task_set: PairSource,
    texts: Sequence[str],
) -> Iterator[tuple[tuple[str, str], str]]:
    """((model, task), packed bundle) of every circuit that has a node."""
    for row in tqdm(summary["models"], desc="pages of circuits"):
        place = files[row["name"]]
        model = load_model(place.model)
        for name, task in row["tasks"].items():
            if task["n_nodes"]:
                circuit, batch = Circuit.load(place.circuits / name), task_set.batch(name, "test")
                facts: dict[str, Any] = {"task": name, "model_row": row, "row": task, "batch": batch, "texts": texts}
                bundle = circuit_bundle(circuit, model, explanation=None, **facts)
                yield (row["name"], name), pack_json(own_part(bundle, explanations[row["name"]]))


def _draw_smallest(
    summary: Summary,
    files: Mapping[str, ModelArtifacts],
    task_set: PairSource,
    texts: Sequence[str],
    folder: Path,
) -> None:
    """Writes the smallest circuit of each task as an SVG file."""
    for name, model in smallest_circuits(summary).items():
        place = files[model]
        circuit, batch = Circuit.load(place.circuits / name), task_set.batch(name, "test")
        path = folder / model / f"{name}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(drawn(circuit, load_model(place.model), batch, texts, f"{name} in {model}"), encoding="utf-8")


def drawn(circuit: Circuit, model: Transformer, batch: PairBatch, texts: Sequence[str], name: str) -> str:
    """The circuit as an SVG file's text, with its size in the title; ``batch``: pairs of its task."""
    title = f"{name}: {circuit.n_nodes} nodes, {circuit.n_edges} edges"
    return draw_circuit(picture_of(circuit, model, batch, texts), title=title, standalone=True)


def _examples(task_set: PairSource, name: str, n: int) -> list[Example]:
    pairs = task_set.examples(name, n)
    return [Example((pair.a.prompt, pair.a.answer), (pair.b.prompt, pair.b.answer)) for pair in pairs]
