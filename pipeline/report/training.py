"""docs/training.md's table of trial models, from the rows that ``python -m flows.sweep`` keeps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

BLOCK = re.compile(r"(<!-- trials: python -m flows\.sweep -->\n).*?(<!-- /trials -->)", re.DOTALL)
HEAD = (
    "trial",
    "width",
    "density",
    "of the embedding",
    "L0",
    "rate",
    "tokens",
    "`pretrain`",
    "loss, nats",
    "tasks",
    "min",
)


def filled(text: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with its block made anew. Raises ValueError where it has none."""
    if not BLOCK.search(text):
        raise ValueError("docs/training.md has no block <!-- trials: python -m flows.sweep -->; restore it from git")
    lines = [HEAD, ["---"] * len(HEAD), *(cells(name, row) for name, row in rows.items())]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return BLOCK.sub(lambda found: found[1] + table + found[2], text)


def cells(name: str, row: Mapping[str, Any]) -> list[str]:
    """A trial's line."""
    model, shared = row["settings"]["model"], row["settings"]["pretrain"]
    return [
        name,
        str(model["d_model"]),
        one_in(model["block_density"]),
        one_in(model["embed_density"]),
        f"{row['l0'] / 1e3:.0f} k",
        f"{model['lr']:g}",
        f"{row['tokens'] / 1e6:.1f} M",
        ", ".join(f"{key} {value}" for key, value in shared.items()) or "–",
        f"{row['val_loss_nats']:.3f}",
        str(len(row["solved"])),
        f"{row['train_seconds'] / 60:.0f}",
    ]


def one_in(density: float) -> str:
    """``1/8``, and ``1`` for a dense model."""
    return "1" if density == 1 else f"1/{1 / density:g}"
