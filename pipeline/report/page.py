"""results/index.html: the whole study in one file that needs nothing else: the study, a page a model, one a circuit.

The module computes no number: it chooses which numbers of the summary stand where.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.data.tasks import Pair
from pipeline.report.averages import log_edges
from pipeline.report.charts import charts
from pipeline.report.chips import AT_LEAST, NAMES, SIGNS, chips
from pipeline.report.gallery import gallery
from pipeline.report.marked_numbers import Numbers
from pipeline.report.packed import chart_library, pack, pack_json, packed_size, those_that_fit, within_budget
from pipeline.report.provenance import origin
from pipeline.report.solved import KINDS, all_solved, deciding_loss, of_kind
from pipeline.report.templating import render
from pipeline.report.validation import checks_of, places_of
from pipeline.rows import HistoryRow, Summary, TaskSummary, ValidationRow

WEB = Path(__file__).parent / "web"
FIRST, LAST = ("elements.js", "packed.js", "scene.js"), "app.js"  # the others use the first ones; the last starts all
ENGINE = ("tokenizer", "gelu", "weights", "attention", "forward", "changes", "session")  # of web/engine
MOST_BYTES = 12_000_000  # of the page; results/ is committed, and a browser has to open it
TITLE = "Sparse circuits"


@dataclass(frozen=True)
class PageParts:
    """All that the page shows besides the summary."""

    prediction: Mapping[str, Any]  # the section of validate that the plot of predictions shows; empty for none
    histories: Mapping[str, Sequence[HistoryRow]]  # model → lines of its training history
    bundles: Mapping[tuple[str, str], str]  # (model, task) → packed bundle, of every circuit
    explained: Mapping[str, str]  # model → packed common part of the explanations of its circuits
    engines: Mapping[str, str]  # model → the packed model, to be run by the page; those that matter most first
    examples: Mapping[str, Sequence[Pair]]  # task → pairs as text
    decides: Mapping[str, str]  # task → the sentence that says how its answer is decided
    thumbnails: Mapping[tuple[str, str], str]  # (model, task) → small drawing of a circuit of the gallery
    gists: Mapping[tuple[str, str], str]  # (model, task) → one sentence that says what the circuit does
    statistics: Mapping[str, Any]  # the tokenise stage's stats.json
    predicts: str | None  # the model that the plot of predictions is of


def build_page(summary: Summary, parts: PageParts) -> str:
    """HTML text of the report."""
    specs = charts(summary, parts.histories, parts.prediction)
    common = {"numbers": Numbers(summary), "validation": summary["validation"], "charts": specs}
    common |= {
        "checks_of": checks_of,
        "places_of": places_of,
        "outcome": outcome,
        "at_least": AT_LEAST,
        "sign_of": SIGNS.get,
        "chips_of": chips,
        "deciding_loss": deciding_loss,
    }
    pages = {f"/{route}": pack(text) for route, text in further_pages(summary, parts, common)}
    whole = partial(shell, study(summary, parts, common), title=TITLE, first="circuits", charts=specs, pages=pages)
    room = MOST_BYTES - len(whole(left_out=list(parts.bundles)).encode())
    first = dict(list(those_that_fit(parts.engines, room).items())[:1])  # the widest model that has room
    kinds = {model["name"]: model["kind"] for model in summary["models"]}
    explained, bundles = circuits_that_fit(parts, kinds, room - packed_size(first))
    left_out = [key for key in parts.bundles if key not in bundles]
    whole = partial(whole, explained=explained, bundles=bundles, left_out=left_out)
    others = {name: text for name, text in parts.engines.items() if name not in first}
    return whole(engines=first | those_that_fit(others, MOST_BYTES - len(whole(engines=first).encode())))


def circuits_that_fit(
    parts: PageParts, kinds: Mapping[str, str], room: int
) -> tuple[dict[str, str], dict[tuple[str, str], str]]:
    """The common parts and the bundles that fit into so many bytes: sparse models first, of each kind those that take
    least; of a model that does not fit whole, its smallest circuits."""
    own = {name: {key: text for key, text in parts.bundles.items() if key[0] == name} for name in kinds}
    common = {name: {name: parts.explained[name]} if name in parts.explained else {} for name in kinds}
    sizes = {name: packed_size(own[name]) + packed_size(common[name]) for name in kinds}
    explained, bundles = dict[str, str](), dict[tuple[str, str], str]()
    for name in sorted(kinds, key=lambda name: (kinds[name] != "sparse", sizes[name])):
        if found := within_budget(own[name], room - packed_size(common[name])):
            explained, bundles = explained | common[name], bundles | found
            room -= packed_size(common[name]) + packed_size(found)
    return explained, bundles


def build_circuit_page(
    bundle: Mapping[str, Any], *, title: str, validation: ValidationRow | None = None, packed_model: str = ""
) -> str:
    """HTML text of one circuit's page alone, in the same shell; ``validation``: of the stage validate, None without
    one; ``packed_model``: the circuit's model, empty where the page shall not run it."""
    model, task = bundle["model"], bundle["task"]
    article = render(
        "alone.html.j2",
        model=model,
        task=task,
        title=title,
        validation=validation,
        checks=checks_of(validation),
        at_least=AT_LEAST,
        names=NAMES,
        sign_of=SIGNS.get,
        row=bundle["row"],
    )
    engines = {model: packed_model} if packed_model else {}
    return shell(article, title=title, first="drawing", bundles={(model, task): pack_json(bundle)}, engines=engines)


def shell(body: str, *, title: str, first: str, served: bool = False, **packed: Any) -> str:
    """A whole document around its first article: style, scripts, charts, and all that is packed.

    ``served``: whether the page may ask the server that it came from. ``packed``, empty where not given: ``charts``;
    ``pages``, route → packed text of an article; ``explained``, ``bundles`` and ``engines``, as in PageParts;
    ``left_out``, circuits whose bundle had no room.
    """
    found = dict.fromkeys(("charts", "pages", "explained", "engines", "bundles", "left_out"), {}) | packed
    found |= {"library": chart_library() if found["charts"] else "", "most_bytes": MOST_BYTES}
    found |= {"style": style(), "scripts": list(scripts())}
    return render("index.html.j2", body=body, title=title, first=first, served=served, **found)


def style() -> str:
    """All style sheets, the page's own palette first."""
    own = (Path(__file__).parent / "templates" / "page.css").read_text(encoding="utf-8")
    return own + "".join(path.read_text(encoding="utf-8") for path in sorted(WEB.glob("*.css")))


def scripts() -> Iterator[str]:
    """The scripts, in the order in which they run."""
    between = sorted(path.name for path in WEB.glob("*.js") if path.name not in (*FIRST, LAST))
    yield from engine()
    for name in (*FIRST, *between, LAST):
        yield (WEB / name).read_text(encoding="utf-8")


def engine() -> Iterator[str]:
    """The scripts that run a packed model, which need no others."""
    for name in ENGINE:
        yield (WEB / "engine" / f"{name}.js").read_text(encoding="utf-8")


def study(summary: Summary, parts: PageParts, common: Mapping[str, Any]) -> str:
    """HTML of the study's own article."""
    models, tasks = summary["models"], task_names(summary)
    with_curve = {name for _, name, found in all_solved(models) if found["curve"]}
    sizes = [log_edges(found["n_edges"]) for _, _, found in all_solved(models)]
    ends, target = (min(sizes, default=0), max(sizes, default=0)), summary["target_loss"]
    return render(
        "study.html.j2",
        summary=summary,
        headline=headline(summary),
        gallery=gallery(summary, parts.thumbnails, parts.gists, parts.decides),
        matrix=[
            {"task": task, "cells": [_cell(model["tasks"].get(task), target, *ends) for model in models]}
            for task in tasks
        ],
        curve_tasks=[task for task in tasks if task in with_curve],
        origin=origin(summary["provenance"], parts.statistics),
        predicts=parts.predicts,
        **common,
    )


def further_pages(summary: Summary, parts: PageParts, common: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(route, HTML inside of its article) of every model and every circuit, which links to ``others`` of its task."""
    for model in summary["models"]:
        losses = {point["target_loss"] for task in model["tasks"].values() for point in task["curve"]}
        targets = sorted(losses, reverse=True)  # the loosest first
        yield f"model/{model['name']}", render("model.html.j2", model=model, targets=targets, **common)
        for name, task in model["tasks"].items():
            others = [other for other in summary["models"] if other is not model and name in other["tasks"]]
            yield (
                f"circuit/{model['name']}/{name}",
                render(
                    "circuit.html.j2",
                    model=model,
                    name=name,
                    task=task,
                    others=[other for other in others if other["tasks"][name]["n_edges"] is not None],
                    examples=parts.examples.get(name, ()),
                    decides=parts.decides.get(name),
                    **common,
                ),
            )


def outcome(test: Mapping[str, Any]) -> str:
    """A check's result as a sign: passed, failed, only measured, not tested."""
    if test["passed"] is None:
        return "–" if test["value"] is None else "·"
    return "✓" if test["passed"] else "✗"


def task_names(summary: Summary) -> list[str]:
    """All tasks of the study, in the order in which the models list them."""
    return list(dict.fromkeys(task for model in summary["models"] for task in model["tasks"]))


def headline(summary: Summary) -> dict[str, Any]:
    """The numbers at the top: ratio, best loss beside the bigram's, tasks solved, smallest circuit; null where none."""
    models = summary["models"]
    losses = [(model["val_loss_nats"], model["name"]) for model in models if model["val_loss_nats"] is not None]
    best_loss, best_model = min(losses, default=(None, None))
    sparse, dense = ({name for _, name, _ in all_solved(of_kind(models, kind))} for kind in KINDS)
    return {
        "best_loss": best_loss,
        "best_model": best_model,
        "bigram_loss": summary["bigram_loss_nats"],
        "n_tasks": len(task_names(summary)),
        "n_solved": len(sparse | dense),
        "n_sparse": len(sparse),
        "n_dense": len(dense),
        "n_both": len(sparse & dense),
    }


def _cell(task: TaskSummary | None, target_loss: float, low: float, high: float) -> dict[str, Any]:
    """One field of the matrix; ``heat`` 0…1 is where the circuit's edges lie between the study's smallest and largest,
    given as logarithms; ``loss`` the name of the loss by which the task is not solved."""
    if task is None:
        return {"state": "absent"}
    if not task["expressible"]:
        return {"state": "not expressible", "reason": task["reason"]}
    if not task["solved"]:
        return {"state": "not solved", "loss": deciding_loss(task, target_loss)}
    heat = (log_edges(task["n_edges"]) - low) / (high - low) if high > low else 0.0
    return {"state": "solved", "heat": round(heat, 2), "tested": _said(task)}


def _said(task: TaskSummary) -> str:
    """The line of a circuit's verdict; empty where nothing was tested."""
    return str(task["validation"]["verdict"]["line"]) if task["n_nodes"] and task["validation"] else ""
