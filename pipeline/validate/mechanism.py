"""Does a circuit compute the same thing as the model that it was cut out of? Patterns, values, interchange (§6).

A circuit may reach the task's loss in a way of its own: its heads look elsewhere, its nodes have other values (Drori
2026). Values are compared over all real positions, and over those where they *matter*: from where they can reach the
answer through the circuit. The checks go by the latter; elsewhere a circuit was never asked to be like the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit.heads import attention_patterns, kept_heads
from pipeline.data.pairs import of_pairs
from pipeline.rows import Check
from pipeline.sites import Site, site_key, site_keys
from pipeline.validate.circuit_under_test import UNCALIBRATED, CircuitUnderTest
from pipeline.validate.limits import MARGIN, MAX_DIVERGENCE, MAX_FVU, MIN_CORRELATION, USELESS_FVU
from pipeline.validate.paired_runs import Indices, PairedRuns, given, reaches, real
from pipeline.validate.verdict import check, untested

MIN_DEVIATION = 1e-5  # a smaller standard deviation, as a fraction of the node's size, is rounding in float32
FIRST = "0.attn_in"  # the embedding's read, which comes before anything that a circuit leaves out


@torch.no_grad()
def mechanism(tested: CircuitUnderTest) -> dict[str, Any]:
    """Divergence of kept heads, values of kept nodes, losses after interchange, on the few test pairs; their checks.

    Losses, divergences and entropies are in nats, each an estimate over pairs. The embedding's read cannot differ from
    the model's: it is left out of the summaries of nodes, and not swapped alone. The complement is ablated to the first
    draw.
    """
    runs = PairedRuns(tested, tested.few)
    looks, values, swapped = heads(runs), nodes(runs), interchange(runs)
    tests = [attention_test(tested, looks), *values_tests(values), *interchange_tests(tested, swapped)]
    return {"heads": looks, "nodes": values, "interchange": swapped, "tests": tests}


def heads(runs: PairedRuns) -> list[dict[str, Any]]:
    """One entry for each head with a kept channel, in the order of the forward pass.

    ``divergence``: of the circuit's pattern from the model's at the answer position; ``divergence_everywhere``: mean
    over all real positions; ``divergence_held``: at the answer position, of the pattern that the head has with all
    queries and keys ablated; ``entropy``: of the model's pattern there. Of several draws of ablation values, the first
    counts.
    """
    found, config = [], runs.tested.model.config
    for layer in range(config.n_layer):
        kept = kept_heads(runs.tested.circuit, layer, config.d_head)
        measured = apart(runs, layer) if kept else {}
        for head, channels in kept.items():
            per_pair = {name: runs.tested.estimate(of_pairs(value[:, head])) for name, value in measured.items()}
            found.append({"head": f"{layer}.{head}", "channels": channels, **per_pair})
    return found


def apart(runs: PairedRuns, layer: int) -> dict[str, Float[Tensor, "prompt head"]]:
    """The numbers of ``heads`` for every head of a layer."""
    place, last = real(runs.batch), runs.batch.last
    rows = torch.arange(len(last), device=last.device)
    attention = runs.tested.model.transformer["h"][layer].attn
    q, k = site_key(layer, Site.ATTN_Q), site_key(layer, Site.ATTN_K)
    draw = runs.tested.circuit.ablation_values.to(place.device).first
    ablated_to = {key: draw[key].expand(*place.shape, -1) for key in (q, k)}
    model, circuit, constant = (
        attention_patterns(values[q], values[k], attention.sink_logit, attention.n_head)
        for values in (runs.model.values, runs.circuit.values, ablated_to)
    )
    moved = divergence(model, circuit) * place[:, None]
    ends = [pattern[rows, :, last] for pattern in (model, constant)]
    return {
        "divergence": moved[rows, :, last],
        "divergence_everywhere": moved.sum(-1) / place.sum(-1)[:, None],
        "divergence_held": divergence(*ends),
        "entropy": entropy(ends[0]),
    }


def entropy(weights: Float[Tensor, "*row key"]) -> Float[Tensor, "*row"]:
    """In nats: 0 where one key has all the weight, ln n where n keys have the same."""
    return torch.special.entr(weights).sum(-1)


def divergence(one: Float[Tensor, "*row key"], other: Float[Tensor, "*row key"]) -> Float[Tensor, "*row"]:
    """Jensen–Shannon divergence in nats: 0 where two patterns are equal, ln 2 where they share no key."""
    mixed = entropy((one + other) / 2) - (entropy(one) + entropy(other)) / 2
    return mixed.clamp(min=0)  # rounding


def nodes(runs: PairedRuns) -> dict[str, Any]:
    """``of_each`` kept node, how far its values are from the model's; medians over the nodes that may differ.

    Each node has ``matters`` (``everywhere`` or at the ``answer`` only), and the numbers of ``compared`` at the
    positions where it matters and, with ``_everywhere`` behind the name, at all real positions.
    """
    of_each = []
    for key, kept in in_order(runs).items():
        where = "everywhere" if reaches(runs.tested.circuit, key) else "answer"
        places = {"": runs.matters(key), "_everywhere": real(runs.batch)}
        own, other = (
            values[key][..., kept.to(values[key].device)] for values in (runs.circuit.values, runs.model.values)
        )
        found = {
            f"{name}{end}": column
            for end, place in places.items()
            for name, column in compared(own[place], other[place]).items()
        }
        for row, index in enumerate(kept.tolist()):
            numbers = {name: column[row] for name, column in found.items()}
            of_each.append({"node": f"{key}.{index}", "matters": where, **numbers})
    may_differ = [node for node in of_each if not str(node["node"]).startswith(f"{FIRST}.")]
    return {
        "of_each": of_each,
        "where_it_matters": summary(may_differ, ""),
        "everywhere": summary(may_differ, "_everywhere"),
    }


def in_order(runs: PairedRuns) -> Indices:
    """The circuit's nodes, sites in the order of the forward pass; sites without any are absent."""
    kept = runs.tested.circuit.nodes
    keys = site_keys(runs.tested.model.config.n_layer)
    return {key: kept[key] for key in keys if len(kept.get(key, ()))}


def compared(circuit: Float[Tensor, "place node"], model: Float[Tensor, "place node"]) -> dict[str, list[float | None]]:
    """``fvu``, ``shift`` and Pearson's ``correlation`` of every node; None where the model's value is constant.

    ``fvu`` = Σ (circuit − model)² / Σ (model − its mean)². ``shift`` is the part of it that the difference of the two
    means makes. A circuit's constant has correlation 0 with everything.
    """
    circuit, model = circuit.double(), model.double()
    x, y = circuit - circuit.mean(0), model - model.mean(0)
    variance, circuits = (y**2).sum(0), (x**2).sum(0)
    moves = [v > MIN_DEVIATION**2 * (z**2).sum(0) for v, z in ((variance, model), (circuits, circuit))]
    found = {
        "fvu": ((circuit - model) ** 2).sum(0) / variance,
        "shift": len(model) * (circuit.mean(0) - model.mean(0)) ** 2 / variance,
        "correlation": torch.where(moves[1], (x * y).sum(0) / (variance * circuits).sqrt(), 0),
    }
    known = moves[0].tolist()
    return {k: [v if ok else None for v, ok in zip(f.tolist(), known, strict=True)] for k, f in found.items()}


def summary(of_each: Sequence[Mapping[str, Any]], end: str) -> dict[str, Any]:
    """``n`` nodes that are not constant in the model, medians over them, and the share above ``USELESS_FVU``.

    Medians and share are None where there is no such node.
    """
    known = [node for node in of_each if node[f"fvu{end}"] is not None]
    names = ("fvu", "shift", "correlation")
    medians = {f"median_{name}": median(node[f"{name}{end}"] for node in known) if known else None for name in names}
    useless = [node[f"fvu{end}"] > USELESS_FVU for node in known]
    return {"n": len(known), **medians, "useless_frac": sum(useless) / len(known) if known else None}


def interchange(runs: PairedRuns) -> dict[str, Any]:
    """Losses with kept nodes' values swapped between the model and the circuit, all at once and site by site.

    ``circuit``: of the circuit, calibrated, with the model's values in its nodes; ``model``: of the model with the
    circuit's values in the same nodes. ``circuit_before`` and ``model_before``: the losses without a swap. All at once
    tells about what the nodes write only, since nothing else of them is then read; ``sites`` tells the rest.
    """
    kept, tested = in_order(runs), runs.tested
    return {
        "circuit_before": tested.estimate(tested.losses(runs.circuit.answers)),
        "model_before": tested.estimate(tested.losses(runs.model.answers, UNCALIBRATED)),
        **swaps(runs, kept),
        "sites": {key: swaps(runs, {key: indices}) for key, indices in kept.items() if key != FIRST},
    }


def swaps(runs: PairedRuns, swapped: Indices) -> dict[str, Any]:
    """Loss of the circuit with the model's values in some nodes, and of the model with the circuit's in the same."""
    tested, batch = runs.tested, runs.batch
    into_circuit = given(swapped, runs.model.values, batch.last, runs.masked.intervene)
    into_model = given(swapped, runs.circuit.values, batch.last)
    circuit, model = runs.answers(into_circuit, runs.cuts), runs.answers(into_model)
    return {
        "circuit": tested.estimate(tested.losses(circuit)),
        "model": tested.estimate(tested.losses(model, UNCALIBRATED)),
    }


def attention_test(tested: CircuitUnderTest, heads: Sequence[Mapping[str, Any]]) -> Check:
    """Whether every kept head looks where it does in the model, at the positions that matter: those of its query."""
    found = []
    for head in heads:
        query = site_key(int(head["head"].partition(".")[0]), Site.ATTN_Q)
        found.append(head["divergence_everywhere" if reaches(tested.circuit, query) else "divergence"]["mean"])
    if not found:
        return untested("attention", "no head is kept", MAX_DIVERGENCE)
    says = f"a kept head's attention pattern diverges from the model's by up to {max(found):.3f} nats"
    return check("attention", max(found) <= MAX_DIVERGENCE, max(found), MAX_DIVERGENCE, says)


def values_tests(nodes: Mapping[str, Any]) -> list[Check]:
    """Whether kept nodes have the values that they have in the model, and whether they at least rise and fall with
    them: a circuit whose complement is ablated may work at another level."""
    fvu, correlation = (nodes["where_it_matters"][f"median_{name}"] for name in ("fvu", "correlation"))
    if fvu is None:
        why = "no kept node's value could differ from the model's"
        return [untested("values", why, MAX_FVU), untested("values_follow", why, MIN_CORRELATION)]
    says = f"the median kept node misses {fvu:.2f} of the model's variance"
    follows = f"the median kept node's correlation with its value in the model is {correlation:.2f}"
    return [
        check("values", fvu <= MAX_FVU, fvu, MAX_FVU, says),
        check("values_follow", correlation >= MIN_CORRELATION, correlation, MIN_CORRELATION, follows),
    ]


def interchange_tests(tested: CircuitUnderTest, swapped: Mapping[str, Any]) -> list[Check]:
    """Whether circuit and model go on doing the task with each other's values in the circuit's nodes.

    Up to MARGIN above the loss of the same pairs before, or above the target where that is more. A circuit in which the
    right values come too late passes the first check, since the model writes the answer; the second shows it.
    """
    found = []
    for of, name, other in (("circuit", "interchange", "model"), ("model", "interchange_into_model", "circuit")):
        limit = max(tested.target, swapped[f"{of}_before"]["mean"]) + MARGIN
        if not tested.circuit.n_nodes:
            found.append(untested(name, "no node is kept", limit))
            continue
        after = {"all": swapped[of]["mean"], **{key: both[of]["mean"] for key, both in swapped["sites"].items()}}
        worst = max(after, key=after.__getitem__)
        says = f"loss {after[worst]:.3f} nats of the {of} with the {other}'s values in its nodes at worst ({worst})"
        found.append(check(name, after[worst] <= limit, after[worst], limit, says))
    return found
