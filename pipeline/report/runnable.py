"""The part of a circuit's bundle that lets the page run the circuit: its ablation values, and prompts to begin with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.data.pairs import PairBatch
from pipeline.report.picture import two_answers

N_PAIRS = 4  # of the task, to begin with


def run_part(circuit: Circuit, means: Mapping[str, Tensor], batch: PairBatch | None) -> dict[str, Any]:
    """What ``web/try.js`` needs besides the drawing, as JSON; ``means``: those packed with the model; ``batch``: pairs
    of the task (None: not known).

    ``ablated_to``: site key → values of the complement, null where they are the model's means. ``pairs``: tokens of
    both prompts without the first, and the right answer of each; ``answers``: the task's two where all pairs have the
    same.
    """
    values = circuit.constant_ablation.first
    same = all(torch.equal(value.cpu(), means[key].cpu()) for key, value in values.items())
    return {
        "calibration": list(circuit.calibration),
        "ablation": circuit.constant_ablation.kind.words,
        "ablated_to": None if same else {key: value.tolist() for key, value in values.items()},
        "answers": list(two_answers(batch) or ()),
        "pairs": [_pair(batch, pair) for pair in range(min(N_PAIRS, batch.n_pairs))] if batch else [],
    }


def _pair(batch: PairBatch, pair: int) -> list[list[Any]]:
    rows = (2 * pair, 2 * pair + 1)
    return [[batch.tokens[row, 1 : int(batch.last[row]) + 1].tolist(), int(batch.answers[row, 0])] for row in rows]
