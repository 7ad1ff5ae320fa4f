"""docs/training.md's table: trial models (``python -m flows.sweep``) and, below them, the study's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report import blocks
from pipeline.rows import Summary

COMMAND = "python -m flows.sweep"
HEAD = "model|width|density|rate|`pretrain`|tokens|L0|loss, nats|tasks|min".split("|")


def filled(text: str, trials: Mapping[str, Mapping[str, Any]], summary: Summary) -> str:
    """The page with its block made anew. Raises ValueError where it has none."""
    of_study = [[model["name"], str(model["d_model"]), "", "", "", *found(model)] for model in summary["models"]]
    lines = [HEAD, ["---"] * len(HEAD), *(cells(name, row) for name, row in trials.items()), *of_study]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return blocks.filled(text, COMMAND, lambda _: table)


def cells(name: str, row: Mapping[str, Any]) -> list[str]:
    """A trial's line."""
    model, shared = row["settings"]["model"], row["settings"]["pretrain"]
    densities = dict.fromkeys(one_in(model[key]) for key in ("block_density", "embed_density"))
    return [
        name,
        str(model["d_model"]),
        ", embedding ".join(densities),
        f"{model['lr']:g}",
        ", ".join(f"{key} {value}" for key, value in shared.items()),
        *found(dict(row) | {"n_solved": len(row["solved"])}),
    ]


def found(row: Mapping[str, Any]) -> list[str]:
    """What was measured of a model."""
    return [
        f"{row['tokens'] / 1e6:.1f} M",
        f"{row['l0'] / 1e3:.0f} k",
        f"{row['val_loss_nats']:.3f}",
        str(row["n_solved"]),
        f"{row['train_seconds'] / 60:.0f}",
    ]


def one_in(density: float) -> str:
    """``1/8``, and ``1`` for a dense model."""
    return "1" if density == 1 else f"1/{1 / density:g}"
