"""The report stage as one function: everything under results/ from the artifacts of the other stages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.artifacts import Workspace, whole_folder, write_json
from pipeline.circuit import Circuit
from pipeline.config import Params
from pipeline.data.tasks import TaskSet, find_task
from pipeline.data.tasks import task_names as registered_tasks
from pipeline.data.tokenizer import Tokenizer
from pipeline.model.checkpoint import load_means, load_model
from pipeline.report.bundle import circuit_bundle, common_part, core_of, larger_of, of_task, own_part, paths_of
from pipeline.report.drawing import draw_circuit
from pipeline.report.figures import figures
from pipeline.report.gallery import gallery_circuits
from pipeline.report.inputs import ModelRecord, read_explanation, read_record
from pipeline.report.packed import pack_json
from pipeline.report.packed_model import pack_model
from pipeline.report.page import PageParts, build_page, task_names
from pipeline.report.picture import Picture
from pipeline.report.runnable import run_part
from pipeline.report.summary import CircuitTarget, smallest_circuits, summarise
from pipeline.report.tables import curves_csv, frontier_csv, metrics
from pipeline.report.thumbnail import thumbnail
from pipeline.rows import Explanation, Summary


def write_report(
    workspace: Workspace,
    models: Iterable[str],
    *,
    task_set: TaskSet,
    texts: Sequence[str],
    tokenizer: Tokenizer | None,
    statistics: Mapping[str, Any],
    params: Params,
    margin: float,
    provenance: Mapping[str, Any],
    folder: Path,
) -> Summary:
    """The summary, after writing ``folder`` whole: summary.json, index.html, figures, tables, the smallest circuits.

    ``models``: names; ``texts``: of every token (``token_texts``); ``tokenizer``: with which the page runs models
    (None: it runs none); ``statistics``: the tokenise stage's stats.json; ``margin``: nats that a circuit's loss on
    test pairs may be above its target; ``provenance`` (git commit or null,
    params hash, machine, seconds per stage) goes into the summary as it is. Equal inputs give equal bytes. Raises
    ArtifactError where an artifact is missing, damaged or made from another checkpoint.
    """
    models = list(models)
    records = [read_record(workspace, name) for name in models]
    summary = summarise(
        records,
        target=CircuitTarget(params.prune.target_loss, margin, params.prune.ablations[0]),
        curve_losses=params.prune.curve_losses,
        seed=params.seed,
        n_bootstrap=params.report.n_bootstrap,
        bigram_loss=statistics.get("bigram_loss_nats"),
        provenance=provenance,
        architectures=[group for group in params.seeds_of_one_architecture() if {*group} <= {*models}],
    )
    tasks = task_names(summary)
    predicts, prediction = prediction_of(records) or (None, {})
    explanations = {record.name: read_explanation(workspace, record.name) for record in records}
    with whole_folder(folder) as partial:
        found = list(_pack_and_draw(summary, workspace, explanations, task_set, texts, tokenizer, partial / "circuits"))
        parts = PageParts(
            prediction=prediction,
            predicts=predicts,
            histories={record.name: record.history for record in records},
            bundles={key: bundle for key, bundle, _ in found},
            thumbnails={key: small for key, _, small in found if small},
            gists=gists(explanations),
            engines=dict(_packed_models(summary, workspace, tokenizer)) if tokenizer else {},
            explained={name: pack_json(common_part(found)) for name, found in explanations.items() if found},
            examples={name: task_set.examples(name, params.report.example_pairs) for name in tasks},
            decides={name: find_task(name).decides for name in tasks if name in registered_tasks()},
            statistics=statistics,
        )
        texts_of = {
            "index.html": build_page(summary, parts),
            "frontier.csv": frontier_csv(summary),
            "curves.csv": curves_csv(summary),
            **{f"{name}.svg": svg for name, svg in figures(summary, parts.histories, prediction).items()},
        }
        for name, text in texts_of.items():
            (partial / name).write_text(text, encoding="utf-8")
        write_json(partial / "metrics.json", metrics(summary))
        write_json(partial / "summary.json", summary)
    return summary


def prediction_of(records: Sequence[ModelRecord]) -> tuple[str, Mapping[str, Any]] | None:
    """The model whose circuit of bracket_counting predicts best, and its section ``prediction``; None for no test."""
    found = [
        (record.name, section)
        for record in records
        for task in record.validated["tasks"].values()
        if (section := task.get("prediction")) and "points" in section
    ]
    return max(found, key=lambda of: of[1]["gain"]["mean"], default=None)


def _pack_and_draw(
    summary: Summary,
    workspace: Workspace,
    explanations: Mapping[str, Explanation | None],
    task_set: TaskSet,
    texts: Sequence[str],
    tokenizer: Tokenizer | None,
    folder: Path,
) -> Iterator[tuple[tuple[str, str], str, str]]:
    """((model, task), packed bundle, thumbnail) of every circuit with a node, thumbnails of the gallery's alone; draws
    each task's smallest into ``folder``."""
    smallest, chosen = smallest_circuits(summary), gallery_circuits(summary)
    widest = max((row["d_model"] for row in summary["models"] if row["kind"] == "sparse"), default=0)
    for row in tqdm(summary["models"], desc="pages of circuits"):
        name = row["name"]
        model, means = load_model(workspace.model(name)), load_means(workspace.model(name)) if tokenizer else None
        for task, found in row["tasks"].items():
            if not found["n_nodes"] and smallest.get(task) != name:
                continue
            circuit, batch = Circuit.load(workspace.circuits(name) / task), task_set.batch(task, "test")
            facts: dict[str, Any] = {"task": task, "model_row": row, "row": found, "batch": batch, "texts": texts}
            bundle = own_part(circuit_bundle(circuit, model, explanation=None, **facts), explanations[name])
            bundle["core"] = core_of(circuit, model, batch, texts, paths_of(explanations[name], task))
            if row["d_model"] == widest:  # of all models they would be a megabyte
                bundle["larger"] = larger_of(circuit, model, batch, texts, of_task(explanations[name], task))
            if smallest.get(task) == name:
                (folder / name).mkdir(parents=True, exist_ok=True)
                svg = drawn(circuit, bundle["drawing"], f"{task} in {name}", bundle["explanation"])
                (folder / name / f"{task}.svg").write_text(svg, encoding="utf-8")
            if found["n_nodes"]:
                if means:
                    bundle["run"] = run_part(circuit, means, batch)
                small = thumbnail(bundle["drawing"], label=f"{task} in {name}") if chosen.get(task) == name else ""
                yield (name, task), pack_json(bundle), small


def gists(explanations: Mapping[str, Explanation | None]) -> dict[tuple[str, str], str]:
    """(model, task) → the sentence that says what the circuit does, where it was told."""
    circuits = {
        (model, task): circuit
        for model, found in explanations.items()
        if found
        for task, circuit in found["circuits"].items()
    }
    return {key: circuit["story"]["gist"] for key, circuit in circuits.items() if circuit.get("story")}


def _packed_models(summary: Summary, workspace: Workspace, tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    """(name, packed model) of every sparse model that the page can compute and that has a circuit with a node, the
    widest first."""
    rows = [row for row in summary["models"] if row["kind"] == "sparse"]
    for row in sorted(rows, key=lambda row: (-row["d_model"], row["l0"])):
        if any(task["n_nodes"] for task in row["tasks"].values()):
            folder = workspace.model(row["name"])
            model = load_model(folder)
            if model.config.is_studys:
                yield row["name"], pack_model(model, load_means(folder), tokenizer)


def drawn(circuit: Circuit, picture: Picture, name: str, explanation: Mapping[str, Any] | None = None) -> str:
    """A circuit's picture as an SVG file's text, with the circuit's size in the title; ``explanation``: of its bundle,
    for words and the paths that decide."""
    title = f"{name}: {circuit.n_nodes} nodes, {circuit.n_edges} edges"
    return draw_circuit(picture, title=title, explanation=explanation)
