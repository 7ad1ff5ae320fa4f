"""Larger circuits around one: the next nodes by their score in the search, with all edges between nodes kept (§5).

Prune stores the circuit of one target, and of stricter ones how many nodes the search needed: so many are taken here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from pipeline.circuit import Circuit
from pipeline.data.pairs import PairBatch
from pipeline.explain.rounding import rounded
from pipeline.model.scoring import calibrate, mean_loss
from pipeline.model.transformer import Transformer
from pipeline.rows import CurvePoint
from pipeline.sites import node_name

MOST_DRAWN = 2000  # edges, and nodes, that a drawing shows at a usable speed
STEPS, MOST_SCALE = 16, 3.0  # of calibration


def larger(
    model: Transformer, circuit: Circuit, curve: Sequence[CurvePoint], train: PairBatch, few: PairBatch
) -> dict[str, Any]:
    """``nodes``: names of nodes that larger circuits have, the next by score first; ``sizes``: of each, the smallest
    first, ``target_loss`` in nats, for which the search needed so many nodes, ``n_added`` (the first of ``nodes``),
    ``n_edges``, and the task ``loss`` in nats on the pairs of ``few``, calibrated on those of ``train``. Of more than
    ``MOST_DRAWN`` edges or nodes there is none. Raises WrongModelError, CompiledModelError."""
    sizes, order = list[dict[str, Any]](), list(next_nodes(circuit))
    stricter = [point for point in curve if point["target_loss"] < circuit.about.get("target_loss", 0.0)]
    n_added = 0
    for point in sorted(stricter, key=lambda point: -point["target_loss"]):
        n_nodes = size["n_nodes"] or 0 if (size := point.get("discretised")) else 0
        if not circuit.n_nodes + n_added < n_nodes <= MOST_DRAWN:
            continue
        n = n_nodes - circuit.n_nodes
        found = replace(circuit.with_nodes(model, *order[:n]), calibration=(1.0, 0.0))
        if found.n_edges > MOST_DRAWN:
            continue
        n_added, calibration = n, calibrate(found.answers(model, train), STEPS, MOST_SCALE)
        loss = rounded(mean_loss(replace(found, calibration=calibration).answers(model, few)))
        sizes.append({"target_loss": point["target_loss"], "n_added": n, "n_edges": found.n_edges, "loss": loss})
    return {"nodes": order[:n_added], "sizes": sizes}


def next_nodes(circuit: Circuit) -> Iterator[str]:
    """Names of the nodes that are not in the circuit, by descending score; of equal ones in forward order."""
    nodes = [node_name(key, index) for key, scores in circuit.scores.items() for index in range(len(scores))]
    kept, order = (
        set(circuit.node_names),
        torch.cat(list(circuit.scores.values())).argsort(descending=True, stable=True),
    )
    return (nodes[n] for n in order.tolist() if nodes[n] not in kept)
