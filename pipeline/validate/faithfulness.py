"""MIB's curves (arXiv 2504.13151, §6): how much of the model's margin circuits of growing size bring back.

f = (m(circuit) − m(∅)) / (m(model) − m(∅)), where m is the mean margin in logits, uncalibrated, with the complement
ablated to the circuit's ablation values. The sizes k are fractions of the model's edges, linear from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.conditions import Condition
from pipeline.circuit.graph import sites_of
from pipeline.circuit.random_circuits import nonzero_edges
from pipeline.model.transformer import Transformer
from pipeline.prune.masks import UnitLayout
from pipeline.sites import edge_keys
from pipeline.stats import central
from pipeline.validate.circuit_under_test import CircuitUnderTest, margins
from pipeline.validate.necessity import first_nodes, nodes_by_need

MIN_FRACTION = 0.001  # of the model's edges: MIB's smallest circuit

Margins = Float[Tensor, "draw pair"]


def faithfulness_curve(tested: CircuitUnderTest) -> dict[str, Any]:
    """f of circuits made of the first nodes in order of need and all edges between them, CPR = ∫ f dk,
    CMD = ∫ |1 − f| dk, and f of the circuit itself.

    On all test pairs and the circuit's draws. All intervals are 95 %, of one set of bootstrap resamples over pairs, and
    over draws where there are several. Where the model's margin is ∅'s, f, CPR, CMD and their intervals are None.
    """
    model = margins(tested.of_model)
    circuits = [(0.0, 0, tested.nothing), *nested(tested)]
    found = {(k, n): run(tested, circuit, Condition.NODES_ONLY) for k, n, circuit in circuits}
    nothing, own = found[0.0, 0], run(tested, tested.circuit, Condition.CIRCUIT)
    found[1.0, sum(tested.model.widths().values())] = model.expand_as(nothing)
    curve = [{"k": k, "n_nodes": n, **point(tested, m, nothing, model)} for (k, n), m in found.items()]
    return {
        "n_pairs": tested.test.n_pairs,
        "n_draws": len(nothing),
        "m_nothing": curve[0]["m"],
        "m_model": curve[-1]["m"],
        "circuit": {"k": tested.circuit.n_edges / n_edges(tested.model), **point(tested, own, nothing, model)},
        "curve": curve,
        "k_scale": "linear",
        **areas([point["k"] for point in curve], [point["f"] for point in curve]),
        **areas_intervals(tested, [k for k, _ in found], [*found.values()], known=curve[-1]["f"] is not None),
    }


def run(tested: CircuitUnderTest, circuit: Circuit, condition: Condition) -> Margins:
    """Each draw's and test pair's margin, uncalibrated."""
    return margins(tested.ablator.answers(circuit, condition, tested.test))


def point(tested: CircuitUnderTest, own: Margins, nothing: Margins, model: Float[Tensor, " pair"]) -> dict[str, Any]:
    """``m`` and ``f``, exactly 0 for ∅ and 1 for the model, with intervals ``m_interval`` and ``interval``."""
    m, f = tested.estimate(own), tested.faithfulness(own, nothing, model)
    return {"m": m["mean"], "m_interval": m["interval"], "f": f["mean"], "interval": f["interval"]}


def areas(ks: Sequence[float], fs: Sequence[float | None]) -> dict[str, float | None]:
    """``cpr`` and ``cmd`` by the trapezoid rule over linear k; None where an f is."""
    if None in fs:
        return {"cpr": None, "cmd": None}
    cpr, cmd = integrals(ks, torch.tensor(fs, dtype=torch.float64))
    return {"cpr": float(cpr), "cmd": float(cmd)}


def integrals(ks: Sequence[float], f: Float[Tensor, "*resample point"]) -> tuple[Tensor, Tensor]:
    """∫ f dk and ∫ |1 − f| dk, for every resample."""
    k = torch.tensor(ks, dtype=torch.float64)
    return torch.trapezoid(f, k), torch.trapezoid((1 - f).abs(), k)


def areas_intervals(
    tested: CircuitUnderTest, ks: Sequence[float], found: Sequence[Margins], known: bool = True
) -> dict[str, list[float] | None]:
    """``cpr_interval`` and ``cmd_interval``: the areas of every resample, the same pairs and draws at all points.

    ``found``: margins of all points, ∅'s first and the model's last. |1 − f| is convex, so that noise adds to it:
    CMD's interval may lie a little above CMD. None unless f is ``known``.
    """
    if not known:
        return {"cpr_interval": None, "cmd_interval": None}
    above = torch.stack([tested.resampled(m - found[0], "faithfulness") for m in found], dim=1)  # [resample, point]
    cpr, cmd = integrals(ks, above / above[:, -1:])
    return {"cpr_interval": central(cpr), "cmd_interval": central(cmd)}


def nested(tested: CircuitUnderTest) -> list[tuple[float, int, Circuit]]:
    """Fraction of edges, number of nodes, and circuit, of the fewest first nodes that have each wanted fraction.

    Nodes in the order of ``necessity``: the circuit's by their certificate, the rest as the search had them.
    """
    sequence = nodes_by_need(tested)
    whole_from = nodes_needed(tested.model, UnitLayout(tested.model.widths()), sequence)
    n, points = len(whole_from), tested.config.points
    found = {}
    for i in range(points - 1):  # the last point is the model
        wanted = max(1, round(n * MIN_FRACTION ** (1 - i / (points - 1))))
        size = int(whole_from[min(wanted, n) - 1])
        k = int(torch.searchsorted(whole_from, size, right=True)) / n
        found[k] = (k, size, first_nodes(tested, sequence, size))
    return [found[k] for k in sorted(found) if k < 1]


def nodes_needed(model: Transformer, layout: UnitLayout, sequence: Int[Tensor, " node"]) -> Int[Tensor, " edge"]:
    """How many first nodes it takes to have both ends of each edge of the model, ascending."""
    place = torch.empty_like(sequence)
    place[sequence] = torch.arange(1, len(sequence) + 1)
    needed = []
    for key in edge_keys(model.config.n_layer):
        starts = torch.tensor([layout.start[site] for site in sites_of(key)])
        needed.append(place[nonzero_edges(model, key) + starts].amax(1))
    return torch.cat(needed).sort().values


def n_edges(model: Transformer) -> int:
    """Nonzero weights that can be edges."""
    return sum(len(nonzero_edges(model, key)) for key in edge_keys(model.config.n_layer))
