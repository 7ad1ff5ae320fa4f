"""The page's charts as SVG files, drawn without a browser: the same specifications, in light colours.

Lines and text are drawn in ``currentColor``. Equal summaries give equal bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import vl_convert

from pipeline.report.charts import Spec, charts
from pipeline.rows import Summary

WIDTH, SMALL = 330, 170  # of one chart among several, and of one task's
FIGURES: Mapping[str, Sequence[Sequence[str]]] = {  # file → rows of charts
    "frontier": [["frontier"]],
    "curves": [["curves", "ratio"], ["tasks"]],
    "training": [["training-loss", "training-l0"]],
    "necessity": [["necessity-nodes", "necessity-edges"]],
    "prediction": [
        ["prediction-model-nested", "prediction-model-flat"],
        ["prediction-node-nested", "prediction-node-flat"],
    ],
}
NOTHING = {
    "frontier": "no model solves a task",
    "curves": "no circuits",
    "training": "no history",
    "necessity": "no circuit was validated",
    "prediction": "no model has a circuit for bracket_counting whose predictions were tested",
}
INK = "currentColor"
TITLES = {
    "curves": "the same tasks in all models",
    "ratio": "at matched pretraining loss",
    "necessity-nodes": "nodes; dotted: chance",
    "necessity-edges": "edges; dashed: random others",
}
TEXT = {"labelColor": INK, "titleColor": INK, "titleFontWeight": 500}
LOOK: Mapping[str, Any] = {
    "background": "transparent",
    "view": {"stroke": None},
    "axis": {**TEXT, "gridColor": "#80868f", "gridOpacity": 0.25, "domainColor": INK, "tickColor": INK},
    "legend": {**TEXT, "orient": "bottom", "columns": 4, "labelLimit": 220},
    "title": {"color": INK, "fontWeight": 500},
    "header": {"labelColor": INK, "titleColor": INK},
    "mark": {"color": INK},
    "text": {"fill": INK},
    "rule": {"color": INK},
}


def figures(summary: Summary, histories: Mapping[str, Any], predicted: Mapping[str, Any]) -> dict[str, str]:
    """Name → SVG text of every figure; one that has nothing to show says so."""
    specs = charts(summary, histories, predicted)
    return {name: figure(name, specs) for name in FIGURES}


def figure(name: str, specs: Mapping[str, Spec], why: str | None = None) -> str:
    """One figure of FIGURES; ``why`` there is nothing to show (None: a sentence of its own)."""
    return svg(beside(specs, FIGURES[name]) or nothing(why or NOTHING[name]))


def svg(spec: Spec) -> str:
    """A specification as SVG text."""
    coloured = json.loads(re.sub(r'"--([\w-]+)"', lambda name: f'"{LIGHT[name[1]]}"', json.dumps(spec)))
    drawn: str = vl_convert.vegalite_to_svg({**coloured, "config": LOOK})
    return drawn


def beside(specs: Mapping[str, Spec], rows: Sequence[Sequence[str]]) -> Spec | None:
    """One specification of charts in rows; None where there is none of them."""
    several = sum(map(len, rows)) > 1
    kept = [[still(specs[name], name, several) for name in row if name in specs] for row in rows]
    if sum(map(len, kept)) == 1:
        return next(chart for row in kept for chart in row)
    return {"vconcat": [{"hconcat": row} for row in kept if row]} if any(kept) else None


def still(spec: Spec, name: str, several: bool) -> Spec:
    """A chart that nobody points at: without selections, of a fixed size, every task of the tasks' chart in a panel."""
    found = {key: value for key, value in spec.items() if key not in ("params", "transform")}
    found |= {"params": [param for param in spec.get("params", []) if "select" not in param and name == "frontier"]}
    if name == "frontier":
        return found | {"transform": spec["transform"], "width": 520}
    encoding = {key: value for key, value in spec["encoding"].items() if key != "opacity"}
    if name == "tasks":
        panel = {"facet": {"field": "task", "type": "nominal", "title": None, "columns": 4}}
        return found | {"encoding": encoding | panel, "width": SMALL, "height": 110}
    title = {"title": TITLES[name]} if name in TITLES else {}
    return found | title | {"encoding": encoding, "width": WIDTH if several else 520, "height": 230}


def nothing(why: str) -> Spec:
    """A figure that only says why it is empty."""
    return {"data": {"values": [{}]}, "mark": {"type": "text", "text": why, "fontSize": 13}, "width": 400, "height": 60}


def _light() -> Iterator[tuple[str, str]]:
    """The page's light colours by name; ink and dim ink are those of the text around the figure."""
    css = (Path(__file__).parent / "templates" / "page.css").read_text(encoding="utf-8")
    yield from re.findall(r"--([\w-]+):([^;}]+)", css[: css.index("@media")])
    yield from (("ink", INK), ("dim", INK))


LIGHT = dict(_light())
