"""Sections of validation as tables: medians over circuits, those of sparse models beside those of dense ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.spread import middle, spread
from pipeline.report.validation import KINDS, Validated, at, outcomes


def complement(circuits: Sequence[Validated]) -> list[dict[str, Any]]:
    """Every ablation of the complement: ``name``, and per kind of model the spread over circuits of the ``loss`` in
    nats and of the ``faithfulness``."""
    names = dict.fromkeys(
        name
        for row in sections(circuits, "complement")
        for name, part in row.items()
        if at(part, ("loss", "mean")) is not None
    )
    return [{"name": name} | {kind: ablated(circuits, kind, name) for kind in KINDS} for name in names]


def ablated(circuits: Sequence[Validated], kind: str, name: str) -> dict[str, Any]:
    """The spread of losses in nats, and of faithfulness, under one ablation of the complement."""
    own = sections(circuits, "complement", [kind])
    return {what: spread(at(row, (name, what, "mean")) for row in own) for what in ("loss", "faithfulness")}


def generalisation(circuits: Sequence[Validated]) -> list[dict[str, Any]]:
    """Every generalisation set: ``family``, and per kind of model the results of its circuits on that set."""
    families = dict.fromkeys(name for row in sections(circuits, "generalisation") for name in row.get("families", ()))
    return [{"family": family} | {kind: followed(circuits, kind, family) for kind in KINDS} for family in families]


def followed(circuits: Sequence[Validated], kind: str, family: str) -> dict[str, Any]:
    """``n_circuits`` whose task has the set, on the fewest and most ``n_pairs``; median loss in nats of the model and
    of the circuit; of the ``n_tested`` where the model does the task there, ``n_passed`` follow it."""
    rows = [row.get("families", {}) for row in sections(circuits, "generalisation", [kind])]
    own = [row[family] for row in rows if family in row]
    pairs = [row["model"]["n"] for row in own]
    taken = outcomes(circuits, kind, f"generalises_{family}")
    return {
        "n_circuits": len(own),
        "n_pairs": [min(pairs), max(pairs)] if pairs else None,
        "model_loss": middle(row["model"]["mean"] for row in own),
        "circuit_loss": middle(row["circuit"]["mean"] for row in own),
        "n_tested": taken["n_tested"],
        "n_passed": taken["n_passed"],
    }


def sections(circuits: Sequence[Validated], name: str, kinds: Sequence[str] = KINDS) -> list[Mapping[str, Any]]:
    """One section of each circuit that has it, of models of some kinds."""
    rows: list[Any] = [task["validation"].get(name) for model, _, task in circuits if model["kind"] in kinds]
    return [row for row in rows if row]
