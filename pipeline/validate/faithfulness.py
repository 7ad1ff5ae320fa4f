"""MIB's curves (arXiv 2504.13151, METHOD §6): how much of the model's margin circuits of growing size bring back.

f = (m(circuit) − m(∅)) / (m(model) − m(∅)), where m is the mean margin in logits, uncalibrated, and all that is
outside is held as the circuit's. The sizes k are fractions of the model's edges, linear from 0 to 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.ablate.conditions import Condition
from pipeline.ablate.controls import nonzero_edges
from pipeline.circuit import Circuit
from pipeline.model.transformer import Transformer
from pipeline.prune.masks import Layout
from pipeline.sites import edge_keys, site_key, split_edge_key
from pipeline.validate.claim import Claim, margins

SMALLEST = 0.001  # of the model's edges: MIB's smallest circuit
LEAST_GAP = 1e-3  # logits between the model and nothing, under which the ratio means nothing

Margins = Float[Tensor, " pair"]


def faithfulness_curve(claim: Claim) -> dict[str, Any]:
    """f of circuits made of the first nodes of the search's order and all edges between them, CPR = ∫ f dk,
    CMD = ∫ |1 − f| dk, and f of the circuit itself, with a 95 % interval (bootstrap over pairs).

    On all test pairs. Where the model's margin is nothing's, ``f``, ``cpr`` and ``cmd`` are None.
    """
    nothing, model = run(claim, claim.nothing, Condition.NODES_ONLY), margins(claim.of_model)
    points = [
        {"k": k, "n_nodes": n, "m": float(run(claim, circuit, Condition.NODES_ONLY).mean())}
        for k, n, circuit in nested(claim)
    ]
    ends = ({"k": 0.0, "n_nodes": 0, "m": float(nothing.mean())}, whole(claim, float(model.mean())))
    curve = [{**point, "f": ratio(point["m"], ends[0]["m"], ends[1]["m"])} for point in (ends[0], *points, ends[1])]
    own = run(claim, claim.circuit, Condition.CIRCUIT)
    return {
        "n_pairs": claim.test.n_pairs,
        "m_nothing": ends[0]["m"],
        "m_model": ends[1]["m"],
        "circuit": of_circuit(claim, own, nothing, model),
        "curve": curve,
        "k_scale": "linear",
        **areas([point["k"] for point in curve], [point["f"] for point in curve]),
    }


def run(claim: Claim, circuit: Circuit, condition: Condition) -> Margins:
    """Each test pair's margin, uncalibrated, the mean over draws."""
    return margins(claim.runner.answers(circuit, condition, claim.test).mean(0))


def ratio(m: float, nothing: float, model: float) -> float | None:
    """f, exactly 0 for nothing and 1 for the model; None where the two are the same."""
    gap = model - nothing
    return (m - nothing) / gap if abs(gap) >= LEAST_GAP else None


def areas(ks: list[float], fs: list[float | None]) -> dict[str, float | None]:
    """``cpr`` and ``cmd`` by the trapezoid rule over linear k."""
    known = [f for f in fs if f is not None]
    if len(known) < len(fs):
        return {"cpr": None, "cmd": None}
    k, f = torch.tensor(ks, dtype=torch.float64), torch.tensor(known, dtype=torch.float64)
    return {"cpr": float(torch.trapezoid(f, k)), "cmd": float(torch.trapezoid((1 - f).abs(), k))}


def of_circuit(claim: Claim, own: Margins, nothing: Margins, model: Margins) -> dict[str, Any]:
    """``k``, ``m`` and ``f`` of the circuit with its own edges only, and the interval of f."""
    found = {"k": claim.circuit.n_edges / n_edges(claim.model), "m": float(own.mean())}
    if ratio(found["m"], float(nothing.mean()), float(model.mean())) is None:
        return {**found, "f": None, "interval": None}
    estimate = claim.faithfulness(own, nothing, model)
    return {**found, "f": estimate["mean"], "interval": estimate["interval"]}


def nested(claim: Claim) -> list[tuple[float, int, Circuit]]:
    """Fraction of edges, number of nodes, and circuit, of the fewest first nodes that have each wanted fraction."""
    layout = Layout(claim.model.widths())
    sequence = layout.flat(claim.circuit.order).argsort(descending=True, stable=True)
    whole_from = nodes_needed(claim.model, layout, sequence)
    n, points = len(whole_from), claim.config.points
    found = {}
    for i in range(points - 1):  # the last point is the model
        wanted = max(1, round(n * SMALLEST ** (1 - i / (points - 1))))
        size = int(whole_from[min(wanted, n) - 1])
        mask = torch.zeros(len(sequence))
        mask[sequence[:size]] = 1
        k = int(torch.searchsorted(whole_from, size, right=True)) / n
        found[k] = (k, size, replace(claim.circuit, nodes=layout.nodes(mask), edges={}))
    return [found[k] for k in sorted(found) if k < 1]


def nodes_needed(model: Transformer, layout: Layout, sequence: Int[Tensor, " node"]) -> Int[Tensor, " edge"]:
    """How many first nodes it takes to have both ends of each edge of the model, ascending."""
    place = torch.empty_like(sequence)
    place[sequence] = torch.arange(1, len(sequence) + 1)
    needed = []
    for key in edge_keys(model.config.n_layer):
        layer, kind = split_edge_key(key)
        source, target = nonzero_edges(model, key).unbind(1)
        starts = layout.start[site_key(layer, kind.source)], layout.start[site_key(layer, kind.target)]
        needed.append(torch.maximum(place[starts[0] + source], place[starts[1] + target]))
    return torch.cat(needed).sort().values


def n_edges(model: Transformer) -> int:
    """Nonzero weights that can be edges."""
    return sum(len(nonzero_edges(model, key)) for key in edge_keys(model.config.n_layer))


def whole(claim: Claim, m: float) -> dict[str, Any]:
    """The curve's last point: the model itself."""
    return {"k": 1.0, "n_nodes": sum(claim.model.widths().values()), "m": m}
