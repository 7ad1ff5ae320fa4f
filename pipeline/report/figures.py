"""The report's plots as SVG text: frontier, loss against size, training. Equal summaries give equal bytes.

Lines and text are drawn in ``currentColor``, so that a plot set into the page follows its light or dark mode.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from pipeline.report.frontier import Point, pareto, points_of

INK = "#010203"  # stands for currentColor until the SVG is written
SPARSE = ("#0a7ea4", "#2aa198", "#3c6fd1", "#7a5fd0", "#1f9d61", "#5b8def")
DENSE = ("#d9622b", "#e0a030", "#c2417c", "#a0522d")
MARKERS = {"sparse": "o", "dense": "s"}
STYLE: Any = {
    "svg.hashsalt": "sparse-circuits",  # element ids that depend on the content alone
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#80868f",
    "grid.alpha": 0.25,
    "legend.frameon": False,
    **{f"{what}.color": INK for what in ("text", "xtick", "ytick")},
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlesize": 10,
    "figure.dpi": 72,
}


def frontier_svg(summary: Mapping[str, Any]) -> str:
    """Pretraining loss against geometric-mean edges; colour = parameters, size = L0, lines = Pareto fronts."""
    models = {model["name"]: model for model in summary["models"]}
    points = {kind: points_of(summary["models"], kind) for kind in MARKERS}
    shown = [point for part in points.values() for point in part]
    with _figure((7.6, 4.8)) as figure:
        axes = figure.subplots()
        if not shown:
            return _nothing(figure, axes, "no model solves a task")
        norm = _norm([models[point.model]["n_params"] for point in shown])
        largest = max(models[point.model]["l0"] for point in shown)
        for kind, part in points.items():
            _front(axes, pareto(part), kind)
            sizes = [60 + 240 * models[point.model]["l0"] / largest for point in part]
            colours = [models[point.model]["n_params"] for point in part]
            places = [point.loss for point in part], [point.edges for point in part]
            drawn = axes.scatter(
                *places, s=sizes, c=colours, norm=norm, cmap="viridis", marker=MARKERS[kind], edgecolors=INK, zorder=3
            )
        for point in shown:
            axes.annotate(point.model, (point.loss, point.edges), (9, 7), textcoords="offset points", fontsize=8.5)
        _frontier_axes(figure, axes, drawn, norm)
        return _svg(figure)


def _norm(n_params: Sequence[int]) -> LogNorm:
    low, high = min(n_params), max(n_params)
    return LogNorm(low / 1.2, high * 1.2)


def _front(axes: Axes, front: Sequence[Point], kind: str) -> None:
    colour = SPARSE[0] if kind == "sparse" else DENSE[0]
    axes.plot([point.loss for point in front], [point.edges for point in front], color=colour, lw=1.6, alpha=0.7)


def _frontier_axes(figure: Figure, axes: Axes, drawn: Any, norm: LogNorm) -> None:
    axes.set_yscale("log")
    _plain_log(axes)
    axes.margins(x=0.16, y=0.16)
    axes.set_xlabel("pretraining loss (validation, nats per token)")
    axes.set_ylabel("edges per circuit (geometric mean over solved tasks)")
    bar = figure.colorbar(drawn, ax=axes, label="parameters")
    written = FuncFormatter(lambda value, _: _short(value))
    wide = (norm.vmax or 1) / (norm.vmin or 1) > 10
    bar.ax.yaxis.set_major_formatter(written)
    bar.ax.yaxis.set_minor_formatter(NullFormatter() if wide else written)
    handles = [
        Line2D([], [], marker=MARKERS[kind], color=colour, mfc="none", mec=INK, label=f"{kind} (line: Pareto front)")
        for kind, colour in (("sparse", SPARSE[0]), ("dense", DENSE[0]))
    ]
    axes.legend(handles=handles, loc="best", title="size of a mark: L0", fontsize=8.5, title_fontsize=8.5)


def curves_svg(summary: Mapping[str, Any]) -> str:
    """Edges of the circuits that meet each target loss: means over tasks and sparse against dense, then every task."""
    tasks = [task for task in _task_names(summary) if any(_curve(model, task) for model in summary["models"])]
    n_columns = min(4, max(len(tasks), 1))
    n_rows = max(math.ceil(len(tasks) / n_columns), 1)
    upper, lower = 3.6, 2.1 * n_rows + 0.5
    with _figure((max(2.45 * n_columns + 0.6, 8.4), upper + lower)) as figure:
        if not tasks:
            return _nothing(figure, figure.subplots(), "no circuits")
        halves: Any = figure.subfigures(2, 1, height_ratios=(upper, lower))
        above, below = halves
        handles = [Line2D([], [], **style) for _, style in _styles(summary)]
        above.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 4), fontsize=8.5)
        left, right = above.subplots(1, 2)
        _mean_curves(left, summary)
        _ratio_curve(right, summary)
        panels = below.subplots(n_rows, n_columns, squeeze=False, sharex=True, sharey=True).ravel()
        for panel, task in zip(panels, tasks, strict=False):
            panel.set_title(task)
            for model, style in _styles(summary):
                panel.plot(*_columns(_curve(model, task)), ms=3.5, lw=1.3, **style)
        _curve_axes(below, panels, len(tasks), n_columns, _targets(summary))
        return _svg(figure)


def _mean_curves(axes: Axes, summary: Mapping[str, Any]) -> None:
    """Geometric-mean edges against target loss, one line a model, all over the same tasks at a target (Fig 2)."""
    points = [point for point in summary["curve_means"]["points"] if point["tasks"]]
    for model, style in _styles(summary):
        own = [
            (p["target_loss"], p["geomean_edges"][model["name"]]) for p in points if model["name"] in p["geomean_edges"]
        ]
        axes.plot(*_columns(own), ms=4.5, lw=1.6, **style)
    axes.set(xscale="log", yscale="log", ylabel="edges (geometric mean)")
    axes.set_title("the same tasks in all models")
    _plain_log(axes)
    _target_axis(axes, {point["target_loss"]: len(point["tasks"]) for point in points})


def _ratio_curve(axes: Axes, summary: Mapping[str, Any]) -> None:
    """Dense over sparse edges at matched pretraining loss against target loss, with its interval."""
    points = [point for point in summary["frontier"]["by_target_loss"] if point["ratio"] is not None]
    losses, ratios = [point["target_loss"] for point in points], [point["ratio"] for point in points]
    axes.plot(losses, ratios, color=INK, marker="o", ms=4.5, lw=1.6)
    for point in points:
        if point["interval"] is not None:
            axes.plot([point["target_loss"]] * 2, point["interval"], color=INK, lw=1, alpha=0.6)
    axes.axhline(1, color=INK, lw=0.8, ls=":")
    axes.set(xscale="log", ylabel="dense edges / sparse edges")
    axes.set_title("at matched pretraining loss")
    _target_axis(axes, {point["target_loss"]: len(point["tasks_compared"]) for point in points})


def _target_axis(axes: Axes, n_tasks: Mapping[float, int]) -> None:
    """Target losses as ticks, with the number of tasks that the mean at each is over."""
    labels = [f"{target:g}\n{n} task{'' if n == 1 else 's'}" for target, n in n_tasks.items()]
    axes.set_xticks(list(n_tasks), labels, fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("target task loss (nats)")


def _curve_axes(figure: Any, panels: Any, n_tasks: int, n_columns: int, targets: Sequence[float]) -> None:
    for panel in panels[n_tasks:]:
        panel.set_visible(False)
    panels[0].set(xscale="log", yscale="log")
    _plain_log(panels[0])
    panels[0].set_xticks(targets, [f"{target:g}" for target in targets])
    panels[0].xaxis.set_minor_locator(NullLocator())
    for panel in panels[max(n_tasks - n_columns, 0) : n_tasks]:
        panel.tick_params(labelbottom=True, axis="x", labelsize=8)
    figure.supxlabel("target task loss (nats)", fontsize=10)
    figure.supylabel("edges", fontsize=10)


def _targets(summary: Mapping[str, Any]) -> list[float]:
    """All target losses of the curves, ascending."""
    tasks = [task for model in summary["models"] for task in model["tasks"].values()]
    return sorted({point["target_loss"] for task in tasks for point in task["curve"]})


def training_svg(summary: Mapping[str, Any], histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Validation loss and nonzero weights over training tokens, one line a model."""
    with _figure((8.4, 3.7)) as figure:
        left, right = figure.subplots(1, 2)
        for model, style in _styles(summary):
            style = style | {"marker": None, "lw": 1.4}
            for axes, field in ((left, "val_loss"), (right, "l0")):
                axes.plot(*_series(histories.get(model["name"], ()), field), **style)
        left.set_ylabel("validation loss (nats per token)")
        right.set_ylabel("nonzero weights (L0)")
        right.set_yscale("log")
        _plain_log(right)
        for axes in (left, right):
            axes.set_xlabel("training tokens")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
            axes.xaxis.set_major_locator(MaxNLocator(5))
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(max(len(labels), 1), 4), fontsize=8.5)
        return _svg(figure)


def _series(history: Sequence[Mapping[str, Any]], field: str) -> tuple[list[float], list[float]]:
    """Tokens and values of the lines that have the field."""
    lines = [line for line in history if line.get(field) is not None]
    return [line["tokens"] for line in lines], [line[field] for line in lines]


def _styles(summary: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    """Each model with its line: cool colours and discs for sparse ones, warm colours and squares for dense ones."""
    for kind, palette, line in (("dense", DENSE, "--"), ("sparse", SPARSE, "-")):
        own = [model for model in summary["models"] if model["kind"] == kind]
        for rank, model in enumerate(own):
            colour = palette[rank % len(palette)]
            yield model, {"color": colour, "ls": line, "marker": MARKERS[kind], "label": model["name"]}


def _task_names(summary: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(task for model in summary["models"] for task in model["tasks"]))


def _curve(model: Mapping[str, Any], task: str) -> list[tuple[float, int]]:
    """(target loss, edges) of one model's circuits for a solved task, by target; without edges, on the axis at 1."""
    entry = model["tasks"].get(task)
    if entry is None or not entry["solved"]:
        return []
    reached = [point for point in entry["curve"] if point.get("n_edges") is not None]
    return sorted((point["target_loss"], max(point["n_edges"], 1)) for point in reached)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """All x and all y of some points."""
    return [x for x, _ in points], [y for _, y in points]


def _plain_log(axes: Axes) -> None:
    """Counts written as 100, 2k, 3M, also between powers of ten where there are few of those."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    low, high = axes.get_ylim()
    few = low > 0 and high / low < 30
    labelled = FuncFormatter(lambda value, _: _short(value) if f"{value:e}"[0] in "25" else "")
    axes.yaxis.set_minor_formatter(labelled if few else NullFormatter())


def _short(value: float) -> str:
    """``1.5k``, ``3M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


@contextmanager
def _figure(inches: tuple[float, float]) -> Iterator[Figure]:
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=inches, layout="constrained")
        try:
            yield figure
        finally:
            plt.close(figure)


def _nothing(figure: Figure, axes: Axes, why: str) -> str:
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    """The figure as SVG text, without background, date or other metadata."""
    text = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue().replace(INK, "currentColor")
    return re.sub(r"<!DOCTYPE[^>]*>\s*", "", svg)


def inline(svg: str, prefix: str) -> str:
    """An SVG file's element, to be set into HTML: no XML header or namespaces, its ids made unique by ``prefix``."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return svg.replace("xlink:href", "href")
