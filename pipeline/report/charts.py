"""The page's charts as Vega-Lite specifications; every value in them is the summary's, or the training history's.

A colour is the name of a CSS variable (``--sparse-0``): the page fills in its value, light or dark, when it draws.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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


def frontier(summary: Summary) -> Spec:
    """Validation loss against geometric-mean edges, one mark a model, its size the L0; lines are the Pareto fronts.

    A thin dashed line joins the seeds of one architecture.
    """
    seeds = {name: found["models"][0] for found in summary["frontier"]["seed_spread"] for name in found["models"]}
    fronts = {name for front in summary["frontier"]["pareto"].values() for name in front}
    keys = ("name", "kind", "n_solved", "l0", "d_model", "val_loss_nats", "geomean_edges")
    rows: Data = [
        {key: model.get(key) for key in keys}
        | {"front": model["name"] in fronts, "architecture": seeds.get(model["name"])}
        for model in summary["models"]
        if model["geomean_edges"] is not None
    ]
    losses = [row["val_loss_nats"] for row in rows] or [0]
    middle = (min(losses) + max(losses)) / 2
    wide = {"zero": False, "padding": 48}
    x = _field("pretraining loss (validation, nats per token)", "val_loss_nats", scale=wide, axis={"tickCount": 6})
    y = _field("edges per circuit (geometric mean)", "geomean_edges", scale={**LOG, "padding": 30}, axis=DECADES)
    colour = {"field": "kind", "scale": KIND, "legend": None}
    size = {"field": "l0", "type": "quantitative", "scale": {"range": [90, 520]}, "legend": None}
    pointed = {"condition": {"test": "active == datum.name", "value": 3}, "value": 0}
    mark = {"type": "point", "filled": True, "opacity": 0.9, "cursor": "pointer", "stroke": "--ink"}
    shape = {"field": "kind", "scale": SHAPE, "legend": None}
    said = {"description": {"field": "name"}}
    return {
        "data": {"values": rows},
        "height": 380,
        "params": [
            {"name": name, "value": value} for name, value in (("sparse", True), ("dense", True), ("active", ""))
        ],
        "transform": [{"filter": "datum.kind == 'sparse' ? sparse : dense"}],
        "encoding": {"x": x, "y": y},
        "layer": [
            {
                "transform": [{"filter": "datum.front"}],
                "mark": {"type": "line", "strokeWidth": 1.5, "opacity": 0.6},
                "encoding": {"color": colour},
            },
            *_joined_seeds(middle),
            {"mark": mark, "encoding": {"color": colour, "size": size, "shape": shape, "strokeWidth": pointed} | said},
            _names(f"datum.val_loss_nats <= {middle}", {"dx": 13, "dy": -9, "align": "left"}),
            _names(f"datum.val_loss_nats > {middle}", {"dx": -11, "dy": 11, "align": "right"}),
        ],
    }


def _joined_seeds(middle: float) -> list[Spec]:
    """A line through the marks of each architecture that has several, and half way along it how many seeds they are.

    The text stands where names do not: to the left of the line up to the loss ``middle``, to the right beyond it.
    """
    several = {"filter": "datum.architecture"}
    means = [{"op": "mean", "field": field, "as": field} for field in ("val_loss_nats", "log_edges")]
    half_way = [
        several,
        {"calculate": "log(datum.geomean_edges)", "as": "log_edges"},
        {"aggregate": [*means, {"op": "count", "as": "n"}], "groupby": ["architecture"]},
        {"calculate": "exp(datum.log_edges)", "as": "geomean_edges"},
        {"calculate": "datum.n + ' seeds'", "as": "said"},
    ]
    line = {"type": "line", "strokeWidth": 1.2, "strokeDash": [3, 2], "color": "--dim"}
    text = {"type": "text", "fontSize": 10, "fontStyle": "italic", "fill": "--dim"}
    sides = (("<=", {"dx": -7, "align": "right"}), (">", {"dx": 7, "align": "left"}))
    return [
        {"transform": [several], "mark": line, "encoding": {"detail": {"field": "architecture"}}},
        *(
            {
                "transform": [*half_way, {"filter": f"datum.n > 1 && datum.val_loss_nats {side} {middle}"}],
                "mark": text | beside,
                "encoding": {"text": {"field": "said"}},
            }
            for side, beside in sides
        ),
    ]


def _names(which: str, mark: Spec) -> Spec:
    """Names beside the marks that a test picks: those on the right stand to the left of their marks."""
    drawn = {"type": "text", "cursor": "pointer"} | mark
    return {"transform": [{"filter": which}], "mark": drawn, "encoding": {"text": {"field": "name"}}}


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
