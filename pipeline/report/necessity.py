"""The loss of a model while a circuit is removed from it part by part: validate's curves, over all circuits (§6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.report.inputs import ModelRecord
from pipeline.report.solved import KINDS
from pipeline.report.validation import at, validated
from pipeline.rows import ModelSummary, SectionRow

STEPS = 20  # from nothing removed to the whole circuit
REMOVED = np.linspace(0, 1, STEPS + 1)  # fractions of the circuit that are removed
PARTS = ("nodes", "edges")
SETS = {"circuit": ("loss", "mean"), "random": ("random", "median")}  # removed → path of its loss in a point


def necessity_curves(records: Sequence[ModelRecord], models: Sequence[ModelSummary]) -> dict[str, Any]:
    """``limit``, the loss in nats that counts as chance (None: nothing was tested), ``removed``, fractions of the
    circuit, and for nodes and edges, per kind of model, the loss over them (``over_circuits``).

    ``models``: the records' summaries.
    """
    found: dict[str, list[SectionRow]] = {kind: [] for kind in KINDS}
    for record, model in zip(records, models, strict=True):
        own = [record.validated["tasks"][name].get("necessity") for _, name, _ in validated([model])]
        found[model["kind"]] += [section for section in own if section]
    limits = [section["limit"] for sections in found.values() for section in sections]
    return {
        "limit": limits[0] if limits else None,
        "removed": REMOVED.tolist(),
        **{parts: {kind: over_circuits(found[kind], parts) for kind in KINDS} for parts in PARTS},
    }


def over_circuits(sections: Sequence[SectionRow], parts: str) -> dict[str, Any]:
    """``n_circuits``; without the ``circuit``'s parts and without as many ``random`` others, at each fraction the
    ``median`` loss in nats over circuits, and its quartiles ``low`` and ``high``; empty for no circuits."""
    own = [section for section in sections if reaches_the_whole(section, parts)]
    return {"n_circuits": len(own)} | {name: quartiles([along(row, parts, name) for row in own]) for name in SETS}


def reaches_the_whole(section: SectionRow, parts: str) -> bool:
    """Whether the circuit has such parts, and was measured without all of them."""
    n = at(section, (parts, "n"))
    return bool(n) and any(point["size"] == n for point in section[parts]["curve"])


def along(section: SectionRow, parts: str, name: str) -> NDArray[np.float64]:
    """One circuit's loss at each fraction, between measured sizes by straight lines; at 0 the whole model's."""
    n = section[parts]["n"]
    inside = [point for point in section[parts]["curve"] if point["size"] <= n]
    losses = [section["model_loss"]["mean"], *(at(point, SETS[name]) for point in inside)]
    return np.interp(REMOVED, [0, *(point["size"] / n for point in inside)], losses)


def quartiles(curves: Sequence[NDArray[np.float64]]) -> dict[str, list[float]]:
    """The quartiles of several curves at each of their points."""
    names = ("low", "median", "high")
    if not curves:
        return {name: [] for name in names}
    ends = np.quantile(np.stack(curves), [0.25, 0.5, 0.75], axis=0)
    return {name: values.tolist() for name, values in zip(names, ends, strict=True)}
