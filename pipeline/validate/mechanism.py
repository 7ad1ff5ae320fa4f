"""Does a circuit compute the same thing as the model that it was cut out of? Patterns, values, interchange (§6).

A circuit may reach the task's loss in a way of its own: its heads look elsewhere, its nodes have other values (Drori
2026). Values are compared over all real positions, and over those where they *matter*: from where they can reach the
answer through the circuit. The verdict goes by the latter; elsewhere a circuit was never asked to be like the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.model.layout import pick
from pipeline.model.transformer import Intervene
from pipeline.rows import Check
from pipeline.sites import Site, site_key, site_keys
from pipeline.validate.circuit_under_test import MARGIN, UNCALIBRATED, CircuitUnderTest
from pipeline.validate.patterns import heads
from pipeline.validate.runs import Runs, Values, padded_answers, reaches, real
from pipeline.validate.verdict import check

# ln 2 − H(3/4), the least divergence of two patterns that share half of their weight. The bound is convex: a mean below
# it says that on average more than half of the weight is on the same keys.
MOST_DIVERGENCE = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
MOST_FVU = 0.5  # for the median node, more of the model's variance is found in the circuit's value than is missed
LEAST_CORRELATION = 0.5**0.5  # more than half of the variance is shared once level and scale are set aside
USELESS_FVU = 1.0  # what a node has that is held at its mean over these prompts: above it, a value is worse than none
CONSTANT = 1e-5  # a standard deviation of less, as a fraction of the node's size, is rounding in float32
FIRST = "0.attn_in"  # the embedding's read, which comes before anything that a circuit leaves out

Nodes = Mapping[str, Int[Tensor, " n"]]


@torch.no_grad()
def mechanism(tested: CircuitUnderTest) -> dict[str, Any]:
    """Divergence of kept heads, values of kept nodes, losses after interchange, on the first test pairs; the verdict.

    Losses, divergences and entropies are in nats, each an estimate over pairs. The embedding's read cannot differ from
    the model's: it is left out of the summaries of nodes, and not swapped alone. What is outside is held at the first
    draw.
    """
    runs = Runs(tested, tested.few)
    looks, values, swapped = heads(runs), nodes(runs), interchange(runs)
    tests = [attention_test(tested, looks), *values_tests(values), *interchange_tests(tested, swapped)]
    return {"heads": looks, "nodes": values, "interchange": swapped, "tests": tests}


def nodes(runs: Runs) -> dict[str, Any]:
    """``of_each`` kept node, how far its values are from the model's; medians over the nodes that may differ.

    Of every node: ``matters`` (``everywhere`` or at the ``answer`` only), and what ``compared`` gives at the positions
    where it matters and, with ``_everywhere`` behind the name, at all real positions.
    """
    of_each = []
    for key, kept in in_order(runs).items():
        where = "everywhere" if reaches(runs.tested.circuit, key) else "answer"
        places = {"": runs.matters(key), "_everywhere": real(runs.batch)}
        own, other = (values[key][..., kept.to(values[key].device)] for _, values in (runs.circuit, runs.model))
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


def in_order(runs: Runs) -> Nodes:
    """The circuit's nodes, sites in the order of the forward pass; sites without any are absent."""
    kept = runs.tested.circuit.nodes
    keys = site_keys(runs.tested.model.config.n_layer)
    return {key: kept[key] for key in keys if len(kept.get(key, ()))}


def compared(circuit: Float[Tensor, "place node"], model: Float[Tensor, "place node"]) -> dict[str, list[float | None]]:
    """Of every node ``fvu``, ``shift`` and Pearson's ``correlation``; None where the model's value is constant.

    ``fvu`` = Σ (circuit − model)² / Σ (model − its mean)². ``shift`` is the part of it that the difference of the two
    means makes. A circuit's constant has correlation 0 with everything.
    """
    circuit, model = circuit.double(), model.double()
    x, y = circuit - circuit.mean(0), model - model.mean(0)
    variance, circuits = (y**2).sum(0), (x**2).sum(0)
    moves = [v > CONSTANT**2 * (z**2).sum(0) for v, z in ((variance, model), (circuits, circuit))]
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


def interchange(runs: Runs) -> dict[str, Any]:
    """Losses with kept nodes' values swapped between the model and the circuit, all at once and site by site.

    ``circuit``: of the circuit, calibrated, with the model's values in its nodes; ``model``: of the model with the
    circuit's values in the same nodes. ``circuit_before`` and ``model_before``: the losses without a swap. All at once
    tells about what the nodes write only, since nothing else of them is then read; ``sites`` tells the rest.
    """
    kept = in_order(runs)
    before = {
        "circuit_before": runs.tested.losses(runs.circuit[0]),
        "model_before": runs.tested.losses(runs.model[0], UNCALIBRATED),
    }
    sites = {key: swaps(runs, {key: indices}) for key, indices in kept.items() if key != FIRST}
    return {
        **{name: runs.tested.estimate(value) for name, value in before.items()},
        **swaps(runs, kept),
        "sites": sites,
    }


def swaps(runs: Runs, swapped: Nodes) -> dict[str, Any]:
    """Loss of the circuit with the model's values in some nodes, and of the model with the circuit's in the same."""
    tested = runs.tested
    into_circuit = given(swapped, runs.model[1], runs.batch.last, runs.masked.intervene)
    into_model = given(swapped, runs.circuit[1], runs.batch.last, lambda _, x: x)
    return {
        "circuit": tested.estimate(tested.losses(padded_answers(tested.model, runs.batch, into_circuit, runs.cuts))),
        "model": tested.estimate(tested.losses(padded_answers(tested.model, runs.batch, into_model), UNCALIBRATED)),
    }


def given(swapped: Nodes, values: Values, last: Int[Tensor, " prompt"], before: Intervene) -> Intervene:
    """An intervention that writes recorded values into some nodes, after another intervention has been made."""

    def intervene(key: str, x: Tensor) -> Tensor:
        x = before(key, x)
        if key not in swapped:
            return x
        new = values[key] if values[key].shape[1] == x.shape[1] else pick(values[key], last)
        return x.index_copy(-1, swapped[key].to(x.device), new[..., swapped[key].to(x.device)])

    return intervene


def attention_test(tested: CircuitUnderTest, heads: Sequence[Mapping[str, Any]]) -> Check:
    """Whether every kept head looks where it does in the model, at the positions that matter: where its query does."""
    found = []
    for head in heads:
        query = site_key(int(head["head"].partition(".")[0]), Site.ATTN_Q)
        everywhere = reaches(tested.circuit, query)
        found.append(head["divergence_everywhere" if everywhere else "divergence"]["mean"])
    if not found:
        return check("attention", None, None, MOST_DIVERGENCE, "no head is kept")
    says = f"a kept head's attention pattern diverges from the model's by up to {max(found):.3f} nats"
    return check("attention", max(found) <= MOST_DIVERGENCE, max(found), MOST_DIVERGENCE, says)


def values_tests(nodes: Mapping[str, Any]) -> list[Check]:
    """Whether kept nodes have the values that they have in the model, and whether they at least rise and fall with
    them: a circuit in which everything else is held may work at another level."""
    found = nodes["where_it_matters"]
    fvu, correlation = found["median_fvu"], found["median_correlation"]
    if fvu is None:
        why = "no kept node's value could differ from the model's"
        return [
            check("values", None, None, MOST_FVU, why),
            check("values_follow", None, None, LEAST_CORRELATION, why),
        ]
    says = f"the median kept node misses {fvu:.2f} of the model's variance"
    follows = f"the median kept node's correlation with its value in the model is {correlation:.2f}"
    return [
        check("values", fvu <= MOST_FVU, fvu, MOST_FVU, says),
        check("values_follow", correlation >= LEAST_CORRELATION, correlation, LEAST_CORRELATION, follows),
    ]


def interchange_tests(tested: CircuitUnderTest, swapped: Mapping[str, Any]) -> list[Check]:
    """Whether circuit and model go on doing the task with each other's values in the circuit's nodes.

    Up to MARGIN above what the same pairs lost before, or above the target where that is more.
    A circuit in which the right values come too late passes the first, since what the model writes is the answer; the
    second shows it.
    """
    limits = {of: max(tested.target, swapped[f"{of}_before"]["mean"]) + MARGIN for of in ("circuit", "model")}
    names = {"circuit": "interchange", "model": "interchange_into_model"}
    if not tested.circuit.n_nodes:
        return [check(name, None, None, limits[of], "no node is kept") for of, name in names.items()]
    found = []
    for of, name in names.items():
        after = {"all": swapped[of]["mean"], **{key: both[of]["mean"] for key, both in swapped["sites"].items()}}
        worst = max(after, key=after.__getitem__)
        other = "model" if of == "circuit" else "circuit"
        says = f"loss {after[worst]:.3f} nats of the {of} with the {other}'s values in its nodes at worst ({worst})"
        found.append(check(name, after[worst] <= limits[of], after[worst], limits[of], says))
    return found
