"""What a model loses while a circuit is taken away from it, against as much that is not the circuit's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from pipeline.report.figures import DENSE, INK, SPARSE, _figure, _nothing, _svg

COLOURS = {"sparse": SPARSE[0], "dense": DENSE[0]}
LINES = {"circuit": "-", "random": "--"}
SAYS = {"circuit": "without the circuit’s parts", "random": "without as many random others"}


def necessity_svg(found: Mapping[str, Any]) -> str:
    """Task loss of the model against the fraction of the circuit's nodes, and edges, that is removed.

    Lines: medians over circuits; bands: quartiles. ``found``: the summary's ``validation.necessity``.
    """
    with _figure((8.4, 4.2)) as figure:
        if found["limit"] is None:
            return _nothing(figure, figure.subplots(), "no circuit was validated")
        panels: Any = figure.subplots(1, 2, sharey=True)
        for axes, parts in zip(panels, ("nodes", "edges"), strict=True):
            for kind in COLOURS:
                _curves(axes, found["removed"], found[parts][kind], COLOURS[kind])
            axes.axhline(found["limit"], color=INK, lw=0.8, ls=":")
            counted = ", ".join(f"{found[parts][kind]['n_circuits']} {kind}" for kind in COLOURS)
            axes.set_title(f"{parts}: {counted} circuits")
            axes.set_xlabel(f"of the circuit’s {parts} removed, most needed first")
            axes.xaxis.set_major_formatter(PercentFormatter(1))
        panels[0].set_ylabel("task loss (nats), dotted: chance")
        handles = [
            Line2D([], [], color=COLOURS[kind], ls=LINES[name], lw=1.6, label=f"{kind}: {SAYS[name]}")
            for kind in COLOURS
            for name in LINES
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=8.5)
        return _svg(figure)


def _curves(axes: Axes, removed: list[float], own: Mapping[str, Any], colour: str) -> None:
    """One kind of model: the median without the circuit and without random others, each in its band."""
    if not own["n_circuits"]:
        return
    for name, line in LINES.items():
        axes.fill_between(removed, own[name]["low"], own[name]["high"], color=colour, alpha=0.13, lw=0)
        axes.plot(removed, own[name]["median"], color=colour, ls=line, lw=1.6)
