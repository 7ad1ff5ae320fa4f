"""Where the circuit says that the unpruned model fails: the plot of the paper's Fig 8, from validate's prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pipeline.report.figures import DENSE, INK, SPARSE, _figure, _nothing, _svg

# One line a comment: ink where there is no stray bracket, colours where there is one.
STYLES: Mapping[str, Mapping[str, Any]] = {
    "none": {"label": "no comment", "color": INK, "ls": "-", "marker": "o"},
    "plain": {"label": "comment without a bracket", "color": INK, "ls": ":", "marker": "."},
    "[": {"label": "comment with [", "color": DENSE[0], "ls": "-", "marker": "s"},
    "[[": {"label": "comment with [[", "color": DENSE[2], "ls": "-", "marker": "D"},
    "]": {"label": "comment with ]", "color": SPARSE[0], "ls": "--", "marker": "v"},
}
OTHER = {"color": "#80868f", "ls": "-", "marker": "x"}


def prediction_svg(found: Mapping[str, Any]) -> str:
    """P(nested answer) of the unpruned model against the list's length, flat and nested lists, one line a comment.

    Below it the value of the circuit's node in the same runs, 0 at the mean of train's flat lists and 1 at that of the
    nested ones, with the threshold that was fitted on train pairs. Bars: 95 % intervals over pairs.
    """
    with _figure((8.4, 6.2)) as figure:
        if "points" not in found:
            return _nothing(figure, figure.subplots(), found["tests"][0]["says"])
        panels: Any = figure.subplots(2, 2, sharex=True, sharey="row")
        for column, side in zip(panels.T, ("nested", "flat"), strict=True):
            column[0].set_title(f"{side} lists")
            _lines(column[0], found, side, "model_p", 0.0, 1.0)
            _lines(column[1], found, side, "node", *_scale(found))
            column[1].set_xlabel("items of the list")
        _axes(panels, found)
        handles = [Line2D([], [], ms=4.5, **_style(comment)) for comment in found["comments"]]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8.5)
        return _svg(figure)


def _scale(found: Mapping[str, Any]) -> tuple[float, float]:
    """What is drawn at 0, and what is drawn as a distance of 1."""
    flat, nested = (found["node"]["train_means"][side] for side in ("flat", "nested"))
    return flat, nested - flat


def _lines(axes: Axes, found: Mapping[str, Any], side: str, field: str, zero: float, unit: float) -> None:
    for comment in found["comments"]:
        points = [point for point in found["points"] if point["comment"] == comment]
        estimates = [point[side][field] for point in points]
        lengths = [point["length"] for point in points]
        style = _style(comment)
        axes.plot(lengths, [(e["mean"] - zero) / unit for e in estimates], ms=4.5, lw=1.5, **style)
        for length, estimate in zip(lengths, estimates, strict=True):
            bar = [(end - zero) / unit for end in estimate["interval"]]
            axes.plot([length] * 2, bar, color=style["color"], lw=1, alpha=0.6)


def _style(comment: str) -> dict[str, Any]:
    return dict(STYLES.get(comment, OTHER | {"label": comment}))


def _axes(panels: Any, found: Mapping[str, Any]) -> None:
    """Scales, and the lines at which an answer turns."""
    zero, unit = _scale(found)
    for turn, row in zip((0.5, (found["node"]["threshold"] - zero) / unit), panels, strict=True):
        for axes in row:
            axes.axhline(turn, color=INK, lw=0.8, ls="--", alpha=0.6)
    lengths = found["lengths"]
    panels[0, 0].set(ylim=(-0.03, 1.03), ylabel="P(nested answer), unpruned model")
    panels[1, 0].set_ylabel(f"{found['node']['name']} (flat 0, nested 1)")
    if len(lengths) > 1 and lengths[0] > 0:
        panels[0, 0].set_xscale("log")
    for axes in panels[1]:
        axes.set_xticks(lengths, [str(length) for length in lengths], fontsize=8)
        axes.minorticks_off()
