"""The page's charts as Vega-Lite specifications; every value in them is the summary's, or the training history's.

A colour is the name of a CSS variable (``--sparse-0``): the page fills in its value, light or dark, when it draws.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import log
from statistics import fmean
from typing import Any

from pipeline.report.averages import geometric_mean_edges
from pipeline.report.name_places import name_places
from pipeline.report.solved import curve_points, of_kind
from pipeline.rows import HistoryRow, ModelSummary, Summary

Spec = dict[str, Any]
Data = list[dict[str, Any]]  # rows of a chart

HUES = {"sparse": 6, "dense": 5}  # CSS variables per kind of model
LOG: Mapping[str, Any] = {"type": "log", "nice": False}
SHORT: Mapping[str, Any] = {"format": "~s"}
# On a logarithmic axis only 1, 2 and 5 of each decade are labelled.
LEADING = "indexof('125', substring(format(datum.value, 'e'), 0, 1)) < 0 ? '' : format(datum.value, '~s')"
DECADES: Mapping[str, Any] = {"labelExpr": LEADING}
KIND: Mapping[str, Any] = {"domain": ["sparse", "dense"], "range": ["--sparse-0", "--dense-0"]}
SHAPE: Mapping[str, Any] = {"domain": ["sparse", "dense"], "range": ["circle", "square"]}
REMOVED = {"circuit": "the circuit’s", "random": "random others"}
DASH: Mapping[str, Any] = {"domain": ["sparse", "dense"], "range": [[1, 0], [6, 3]]}


def charts(
    summary: Summary,
    histories: Mapping[str, Sequence[HistoryRow]],
    predicted: Mapping[str, Any],
) -> dict[str, Spec]:
    """Name → specification of every chart that has something to show; ``predicted``: validate's section prediction."""
    models = summary["models"]
    means = mean_curves(summary)
    counted = {point["target_loss"]: len(point["tasks"]) for point in summary["curve_means"]["points"]}
    found = {
        "frontier": frontier(summary),
        "curves": _lines(models, means, _targets(means, counted), _edges("edges (geometric mean)")),
        "ratio": ratio_at_targets(summary),
        "tasks": task_curves(models),
        "training-loss": _lines(models, history(histories, "val_loss"), TOKENS, _field("validation loss (nats)")),
        "training-l0": _lines(models, history(histories, "l0"), TOKENS, _edges("nonzero weights (L0)")),
        "necessity-nodes": necessity(summary["validation"]["necessity"], "nodes"),
        "necessity-edges": necessity(summary["validation"]["necessity"], "edges"),
    } | (predictions(predicted) if "points" in predicted else {})
    return {name: spec for name, spec in found.items() if spec["data"]["values"]}


def _field(title: str, field: str = "y", **more: Any) -> Spec:
    return {"field": field, "type": "quantitative", "title": title, "scale": {"zero": False}} | more


def _edges(title: str) -> Spec:
    return _field(title, scale=LOG, axis=DECADES)


def _tips(*columns: tuple[str, str, str]) -> list[Spec]:
    """Lines of a mark's tooltip, each of (field, title, format)."""
    return [{"field": field, "title": title, "format": form} for field, title, form in columns]


def _layered(rows: Data, height: int, encoding: Spec, *layers: Spec) -> Spec:
    """A chart of layers with the same data and, where they do not say otherwise, the same encoding."""
    return {"data": {"values": rows}, "height": height, "encoding": encoding, "layer": list(layers)}


def _range(y: Spec) -> Spec:
    """From ``low`` to ``high``, on the axis of ``y``."""
    return {"y": y | {"field": "low"}, "y2": {"field": "high"}}


def _limit(value: float) -> Spec:
    """A dotted line across the chart."""
    mark = {"type": "rule", "strokeDash": [2, 3], "color": "--dim"}
    return {"mark": mark, "encoding": {"x": None, "color": None, "y": {"datum": value}}}


TOKENS = _field("training tokens", "x", axis={**SHORT, "tickCount": 5})


def _targets(rows: Data, n_tasks: Mapping[float, int] | None = None) -> Spec:
    """The axis of target losses, with a mark at each of them, and the number of tasks that the value there is over."""
    axis: Spec = {"format": "~g", "values": sorted({row["x"] for row in rows})}
    if n_tasks is not None:
        said = {f"{x:g}": f"{n} task{'' if n == 1 else 's'}" for x, n in n_tasks.items()}
        axis["labelExpr"] = f"[datum.label, ({json.dumps(said)})[datum.label]]"
    return _field("target task loss (nats)", "x", scale=LOG, axis=axis)


def hues(models: Sequence[ModelSummary]) -> dict[str, str]:
    """Model → CSS variable of its colour: cool ones for sparse models, warm ones for dense ones."""
    numbered = [(kind, n, model["name"]) for kind in HUES for n, model in enumerate(of_kind(models, kind))]
    return {name: f"--{kind}-{n % HUES[kind]}" for kind, n, name in numbered}


FRONTIER_SIZE = (520, 380)  # pixels; on the page it may be wider
FRONTIER_PADDING = (48, 30)


def frontier(summary: Summary) -> Spec:
    """Validation loss against geometric-mean edges, one mark a model, its size the L0; lines are the Pareto fronts.

    A thin dashed line joins the seeds of one architecture.
    """
    rows = _frontier_rows(summary)
    wide = {"zero": False, "nice": False, "padding": FRONTIER_PADDING[0]}
    x = _field("pretraining loss (validation, nats per token)", "val_loss_nats", scale=wide, axis={"tickCount": 6})
    scale = {**LOG, "padding": FRONTIER_PADDING[1]}
    y = _field("edges per circuit (geometric mean)", "geomean_edges", scale=scale, axis=DECADES)
    colour = {"field": "kind", "scale": KIND, "legend": None}
    size = {"field": "l0", "type": "quantitative", "scale": {"range": [90, 520]}, "legend": None}
    pointed = {"condition": {"test": "active == datum.name", "value": 3}, "value": 0}
    mark = {"type": "point", "filled": True, "opacity": 0.9, "cursor": "pointer", "stroke": "--ink"}
    shape = {"field": "kind", "scale": SHAPE, "legend": None}
    described = {"description": {"field": "name"}}
    front = {"type": "line", "strokeWidth": 1.5, "opacity": 0.6}
    joined = {"type": "line", "strokeWidth": 1.2, "strokeDash": [3, 2], "color": "--dim"}
    small = {"fontSize": 10, "fontStyle": "italic", "fill": "--dim"}
    return {
        "data": {"values": rows},
        "height": FRONTIER_SIZE[1],
        "params": [
            {"name": name, "value": value} for name, value in (("sparse", True), ("dense", True), ("active", ""))
        ],
        "transform": [{"filter": "datum.kind == 'sparse' ? sparse : dense"}],
        "encoding": {"x": x, "y": y},
        "layer": [
            _some("datum.front", front, {"color": colour}),
            _some("datum.name && datum.architecture", joined, {"detail": {"field": "architecture"}}),
            _some(
                "datum.name", mark, {"color": colour, "size": size, "shape": shape, "strokeWidth": pointed} | described
            ),
            _some("datum.name", TEXT | {"cursor": "pointer"}, {"text": {"field": "name"}}),
            _some("datum.seeds", TEXT | small, {"text": {"field": "seeds"}}),
        ],
    }


TEXT: Spec = {"type": "text"} | {key: {"expr": f"datum.{key}"} for key in ("align", "dx", "dy")}


def _some(test: str, mark: Spec, encoding: Spec) -> Spec:
    """A layer of the rows that a test picks."""
    return {"transform": [{"filter": test}], "mark": mark, "encoding": encoding}


def _frontier_rows(summary: Summary) -> Data:
    """A row for each model that has circuits, and half way between seeds of one architecture how many they are."""
    seeds = {name: found["models"][0] for found in summary["frontier"]["seed_spread"] for name in found["models"]}
    fronts = {name for front in summary["frontier"]["pareto"].values() for name in front}
    keys = ("name", "kind", "n_solved", "l0", "d_model", "val_loss_nats", "geomean_edges")
    rows: Data = [
        {key: model.get(key) for key in keys}
        | {"front": model["name"] in fronts, "architecture": seeds.get(model["name"])}
        for model in summary["models"]
        if model["geomean_edges"] is not None
    ]
    rows += list(_half_way(rows))
    places = name_places([row.get("name") or row["seeds"] for row in rows], _pixels(rows), FRONTIER_SIZE)
    return [row | place for row, place in zip(rows, places, strict=True)]


def _half_way(rows: Data) -> Iterator[dict[str, Any]]:
    """The middle, on the chart, of each architecture that has several seeds."""
    for architecture in dict.fromkeys(row["architecture"] for row in rows if row["architecture"]):
        own = [row for row in rows if row["architecture"] == architecture]
        if len(own) > 1:
            edges = geometric_mean_edges(row["geomean_edges"] for row in own)
            loss = fmean(row["val_loss_nats"] for row in own)
            yield {
                "kind": own[0]["kind"],
                "seeds": f"{len(own)} seeds",
                "val_loss_nats": loss,
                "geomean_edges": edges,
            }


def _pixels(rows: Data) -> list[tuple[float, float]]:
    """Where the frontier's marks lie, from its upper left corner."""
    across = _spread_over([row["val_loss_nats"] for row in rows], FRONTIER_SIZE[0], FRONTIER_PADDING[0])
    up = _spread_over([log(row["geomean_edges"]) for row in rows], FRONTIER_SIZE[1], FRONTIER_PADDING[1])
    return [(x, FRONTIER_SIZE[1] - y) for x, y in zip(across, up, strict=True)]


def _spread_over(values: Sequence[float], length: float, padding: float) -> list[float]:
    """Values on an axis of ``length`` pixels, the least and the largest at ``padding`` pixels from its ends."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    return [padding + (v - low) / ((high - low) or 1.0) * (length - 2 * padding) for v in values]


def _lines(models: Sequence[ModelSummary], rows: Data, x: Spec, y: Spec) -> Spec:
    """One line a model through ``rows`` of {name, x, y}; a click on the legend leaves only that model."""
    kinds = {model["name"]: model["kind"] for model in models}
    colours = hues(models)
    names = [name for name in kinds if any(row["name"] == name for row in rows)]
    scale = {"domain": names, "range": [colours[name] for name in names]}
    shown = {"condition": {"param": "picked", "value": 1}, "value": 0.12}
    tips = [{"field": "name", "title": "model"}, *({**axis, "format": ",.4~g"} for axis in (x, y))]
    return {
        "data": {"values": [row | {"kind": kinds[row["name"]]} for row in rows]},
        "height": 260,
        "params": [{"name": "picked", "select": {"type": "point", "fields": ["name"]}, "bind": "legend"}],
        "mark": {"type": "line", "point": {"size": 22 if len(rows) < 80 else 9}, "strokeWidth": 1.7},
        "encoding": {
            "x": x,
            "y": y,
            "color": {"field": "name", "scale": scale, "title": None},
            "strokeDash": {"field": "kind", "scale": DASH, "legend": None},
            "opacity": shown,
            "tooltip": [{key: tip[key] for key in ("field", "title", "type", "format") if key in tip} for tip in tips],
        },
    }


def mean_curves(summary: Summary) -> Data:
    """Geometric-mean edges at each target loss, all models over the same tasks."""
    return [
        {"name": name, "x": point["target_loss"], "y": edges}
        for point in summary["curve_means"]["points"]
        if point["tasks"]
        for name, edges in point["geomean_edges"].items()
    ]


def task_curves(models: Sequence[ModelSummary]) -> Spec:
    """Edges at each target loss for the one task that the parameter ``task`` names; no edges are drawn at 1."""
    rows = [
        {"name": model["name"], "task": name, "x": point["target_loss"], "y": max(point["n_edges"], 1)}
        for model in models
        for name, point in curve_points(model)
    ]
    spec = _lines(models, rows, _targets(rows), _edges("edges"))
    chosen = {"name": "task", "value": rows[0]["task"] if rows else ""}
    return spec | {"params": [*spec["params"], chosen], "transform": [{"filter": "datum.task == task"}]}


def ratio_at_targets(summary: Summary) -> Spec:
    """Dense over sparse edges at matched pretraining loss against target loss, with 95 % intervals."""
    points = [point for point in summary["frontier"]["by_target_loss"] if point["ratio"] is not None]
    ends = [point["interval"] or [point["ratio"]] * 2 for point in points]
    rows = [
        {"x": p["target_loss"], "y": p["ratio"], "low": low, "high": high, "tasks": len(p["tasks_compared"])}
        for p, (low, high) in zip(points, ends, strict=True)
    ]
    y = _field("dense edges / sparse edges")
    told = [("x", "target loss"), ("y", "ratio"), ("low", "95 % from"), ("high", "to"), ("tasks", "tasks")]
    tips = _tips(*((field, title, ".3~g") for field, title in told))
    return _layered(
        rows,
        260,
        {"x": _targets(rows, {row["x"]: row["tasks"] for row in rows})},
        {"mark": {"type": "rule", "strokeDash": [2, 3]}, "encoding": {"x": None, "y": {"datum": 1}}},
        {"mark": "rule", "encoding": _range(y)},
        {"mark": {"type": "line", "point": {"size": 34}, "color": "--ink"}, "encoding": {"y": y, "tooltip": tips}},
    )


def history(histories: Mapping[str, Sequence[HistoryRow]], field: str) -> Data:
    """A field of the training histories over tokens."""
    return [
        {"name": name, "x": line["tokens"], "y": line[field]}
        for name, lines in histories.items()
        for line in lines
        if line.get(field) is not None
    ]


def necessity(found: Mapping[str, Any], parts: str) -> Spec:
    """Task loss while the circuit's nodes or edges are removed, and while random others are: medians, quartiles."""
    rows = [
        {"kind": kind, "removed": what, "x": x, "y": own["median"][i], "low": own["low"][i], "high": own["high"][i]}
        for kind in HUES
        if found["limit"] is not None and found[parts][kind]["n_circuits"]
        for what, own in ((says, found[parts][kind][name]) for name, says in REMOVED.items())
        for i, x in enumerate(found["removed"])
    ]
    x = _field(f"of the circuit’s {parts} removed, most needed first", "x", axis={"format": "%", "tickCount": 5})
    y = _field("task loss (nats)", axis={"tickCount": 6})
    colour = {"field": "kind", "scale": KIND, "title": None, "legend": {"symbolType": "stroke", "symbolOpacity": 1}}
    dashes = {"domain": list(REMOVED.values()), "range": [[1, 0], [4, 3]]}
    dash = {"field": "removed", "scale": dashes, "legend": None}  # the caption says which is which
    line = {"type": "line", "point": {"size": 9}, "strokeWidth": 1.7}
    losses = (("y", "median", ".3f"), ("low", "quartile", ".3f"), ("high", "to", ".3f"))
    tips = [{"field": "kind"}, {"field": "removed"}, *_tips(("x", "share removed", ".0%"), *losses)]
    return _layered(
        rows,
        260,
        {"x": x, "color": colour},
        {"mark": {"type": "area", "opacity": 0.13}, "encoding": _range(y) | {"detail": {"field": "removed"}}},
        {"mark": line, "encoding": {"y": y, "strokeDash": dash, "tooltip": tips}},
        _limit(found["limit"]),
    )


COMMENTS = {  # of a prompt → its name, colour and dashes: ink where there is no stray bracket
    "none": ("no comment", "--ink", [1, 0]),
    "plain": ("comment without a bracket", "--ink", [1, 3]),
    "[": ("comment with [", "--dense-0", [1, 0]),
    "[[": ("comment with [[", "--dense-2", [1, 0]),
    "]": ("comment with ]", "--sparse-0", [6, 3]),
}


def predictions(found: Mapping[str, Any]) -> dict[str, Spec]:
    """P(nested answer) of the whole model against the list's length, and the circuit's node in the same runs (Fig 8).

    The node's value is 0 at the mean of train's flat lists and 1 at that of the nested ones. Bars: 95 % over pairs.
    """
    node = found["node"]
    zero, one = (node["train_means"][side] for side in ("flat", "nested"))

    def scaled(value: float) -> float:
        return (value - zero) / (one - zero)

    fields: dict[str, tuple[str, str, float, Callable[[float], float]]] = {
        "model": ("P(nested answer), whole model", "model_p", 0.5, float),
        "node": (f"{node['name']} (flat 0, nested 1)", "node", node["threshold"], scaled),
    }
    return {
        f"prediction-{what}-{side}": _prediction(found, side, title, field, turn, scaled)
        for what, (title, field, turn, scaled) in fields.items()
        for side in ("nested", "flat")
    }


def _prediction(
    found: Mapping[str, Any], side: str, title: str, field: str, turn: float, scaled: Callable[[float], float]
) -> Spec:
    rows = [
        {"comment": COMMENTS.get(point["comment"], (point["comment"],))[0], "x": point["length"]}
        | {"y": scaled(estimate["mean"])}
        | dict(zip(("low", "high"), map(scaled, estimate["interval"]), strict=True))
        for point in found["points"]
        for estimate in [point[side][field]]
    ]
    known = [look for look in COMMENTS.values() if any(row["comment"] == look[0] for row in rows)]
    names, colours, dashes = zip(*known, strict=True)
    colour, dash = (
        {"field": "comment", "title": None, "scale": {"domain": names, "range": looks}} for looks in (colours, dashes)
    )
    x = _field(f"items of the list, {side} lists", "x", scale={"type": "sqrt"}, axis={"values": found["lengths"]})
    y = _field(title)
    return _layered(
        rows,
        230,
        {"x": x, "color": colour},
        {"mark": {"type": "rule", "opacity": 0.6}, "encoding": _range(y)},
        {"mark": {"type": "line", "point": {"size": 20}}, "encoding": {"y": y, "strokeDash": dash}},
        _limit(scaled(turn)),
    )
