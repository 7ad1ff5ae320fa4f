"""Does the model fail without the circuit: loss against how much of it is ablated (inverse pruning, §6).

All else is intact. The circuit's nodes, or edges, go first, those most needed first; the curve goes on beyond the
circuit. At every size it is compared with random sets of as many nodes per site or edges per kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.conditions import Condition
from pipeline.circuit.graph import Edge, by_key, induced_edges
from pipeline.circuit.random_circuits import Complement, ends
from pipeline.data.pairs import of_pairs, prompt_losses
from pipeline.prune.masks import UnitLayout
from pipeline.rows import Check
from pipeline.validate.circuit_under_test import UNCALIBRATED, CircuitUnderTest
from pipeline.validate.limits import CHANCE_LOSS
from pipeline.validate.verdict import check, untested

BEYOND = (2, 4)  # times the circuit's nodes: whether more removed does what the circuit alone did not
ON_THE_WAY = 0.25  # of the random sets, at sizes other than the circuit's, which no check goes by


def necessity(tested: CircuitUnderTest) -> dict[str, Any]:
    """Two curves of task loss (nats, uncalibrated, of ``tested.few``) by the size of the set removed, and their checks.

    ``nodes`` and ``edges`` each: ``n``, how many the circuit has; ``curve``, by size; ``n_to_chance``, the smallest
    size on the curve whose loss reaches ``limit`` (None: no size does).
    """
    nodes = curve(tested, Condition.ABLATED_NODES, node_sets(tested), tested.circuit.n_nodes)
    edges = curve(tested, Condition.ABLATED_EDGES, edge_sets(tested), tested.circuit.n_edges)
    return {
        "n_pairs": tested.few.n_pairs,
        "limit": CHANCE_LOSS,
        "model_loss": tested.estimate(tested.losses(tested.model_of_few, UNCALIBRATED)),
        "nodes": nodes,
        "edges": edges,
        "tests": [check_necessary("nodes", nodes), check_necessary("edges", edges)],
    }


def curve(tested: CircuitUnderTest, condition: Condition, sets: Iterable[Circuit], n: int) -> dict[str, Any]:
    """The loss without each set, beside that without random ones."""
    generator = tested.generator(f"necessity {condition.value}")
    points = [point(tested, condition, removed, generator) for removed in sets]
    reached = [p["size"] for p in points if p["loss"]["mean"] >= CHANCE_LOSS]
    return {"n": n, "curve": points, "n_to_chance": min(reached, default=None)}


def point(
    tested: CircuitUnderTest, condition: Condition, removed: Circuit, generator: torch.Generator
) -> dict[str, Any]:
    """``size``, ``loss`` (an estimate) without the set, and ``random``: of random sets, their size (smaller where a
    site's or kind's complement is), median, range and losses."""
    size = size_of(removed, condition)
    whole = size == size_of(tested.circuit, condition)
    n = tested.config.n_random if whole else max(1, round(ON_THE_WAY * tested.config.n_random))
    sets = [tested.complement.random_set(removed, generator, of_edges=condition.of_edges) for _ in range(n)]
    of_random = [float(losses(tested, condition, drawn).mean()) for drawn in sets]
    return {
        "size": size,
        "loss": tested.estimate(losses(tested, condition, removed)),
        "random": {
            "size": size_of(sets[0], condition),
            "median": median(of_random),
            "low": min(of_random),
            "high": max(of_random),
            "losses": of_random,
        },
    }


def size_of(circuit: Circuit, condition: Condition) -> int:
    return circuit.n_edges if condition.of_edges else circuit.n_nodes


def losses(tested: CircuitUnderTest, condition: Condition, removed: Circuit) -> Float[Tensor, "draw pair"]:
    """Each pair's loss without a set, of every draw: mean over prompts."""
    if condition is Condition.ABLATED_NODES:  # the same as all other nodes alone, which takes a third less time
        others = Complement(tested.model, removed).nodes
        removed, condition = replace(removed, nodes=others, edges={}), Condition.NODES_ONLY
    return of_pairs(prompt_losses(tested.ablator.answers(removed, condition, tested.few)))


def node_sets(tested: CircuitUnderTest) -> list[Circuit]:
    """The first nodes in order of need, without edges: some of the circuit's, all of them, and more."""
    sequence = nodes_by_need(tested)
    sizes = grid(tested.circuit.n_nodes, tested.config.points)
    return [*(first_nodes(tested, sequence, size) for size in sizes), *larger_sets(tested)]


def edge_sets(tested: CircuitUnderTest) -> list[Circuit]:
    """The circuit's first edges in order of need; then all edges between more nodes than the circuit's."""
    every = edges_by_need(tested.circuit)
    sets = [by_key(every[:size]) for size in grid(len(every), tested.config.points)]
    if every:
        sets += [induced_edges(tested.model, more.node_masks()) for more in larger_sets(tested)]
    return [replace(tested.circuit, nodes=ends(edges), edges=edges) for edges in sets]


def larger_sets(tested: CircuitUnderTest) -> list[Circuit]:
    """The first nodes in order of need, BEYOND times as many as the circuit's, as far as the model has so many."""
    sequence, n = nodes_by_need(tested), tested.circuit.n_nodes
    return [first_nodes(tested, sequence, times * n) for times in BEYOND if n and times * n <= len(sequence)]


def first_nodes(tested: CircuitUnderTest, sequence: Int[Tensor, " node"], size: int) -> Circuit:
    """The first nodes of a sequence over all nodes of the model, without edges."""
    mask = torch.zeros(len(sequence))
    mask[sequence[:size]] = 1
    return replace(tested.circuit, nodes=UnitLayout(tested.model.widths()).nodes(mask), edges={})


def nodes_by_need(tested: CircuitUnderTest) -> Int[Tensor, " node"]:
    """All nodes of the model, as numbered by ``UnitLayout``: the circuit's by their certificate's loss, then the rest.

    Where nothing else tells two nodes apart, the search's order does.
    """
    layout, circuit = UnitLayout(tested.model.widths()), tested.circuit
    need = circuit.node_masks()
    for key, losses in (circuit.certificate["nodes"] if circuit.certificate else {}).items():
        need[key][circuit.nodes[key]] += torch.tensor(losses)  # a loss is not negative: still before the rest
    sequence = layout.flat(circuit.scores).argsort(descending=True, stable=True)
    return sequence[layout.flat(need)[sequence].argsort(descending=True, stable=True)]


def edges_by_need(circuit: Circuit) -> list[Edge]:
    """The circuit's edges by the loss after each single removal, the largest first; without a certificate as filed."""
    losses = circuit.certificate["edges"] if circuit.certificate else {}
    needs = [
        (float(losses[key][i]) if key in losses else 0.0, (key, s, t))
        for key, pairs in circuit.edges.items()
        for i, (s, t) in enumerate(pairs.tolist())
    ]
    return [edge for _, edge in sorted(needs, key=lambda need: -need[0])]


def grid(n: int, points: int) -> list[int]:
    """Sizes from 1 to ``n`` in equal ratios, at most ``points`` of them; none for 0."""
    return sorted({round(n ** (i / (points - 1))) for i in range(points)}) if n else []


def check_necessary(parts: str, found: dict[str, Any]) -> Check:
    """Whether the loss without all of the circuit's nodes or edges is surely at chance (by the interval's lower end),
    and above every random set's: of 20 sets none so bad is p < 0.05."""
    name = f"necessary_{parts}"
    whole = next((p for p in found["curve"] if p["size"] == found["n"]), None)
    if whole is None:
        return untested(name, f"the circuit has no {parts} to remove", CHANCE_LOSS)
    low, loss, random = whole["loss"]["interval"][0], whole["loss"]["mean"], whole["random"]
    says = (
        f"loss {loss:.3f} nats (at least {low:.3f}) without the circuit's {found['n']} {parts}; at most "
        f"{random['high']:.3f} without {random['size']} others, {len(random['losses'])} times at random"
    )
    return check(name, low >= CHANCE_LOSS and loss > random["high"], low, CHANCE_LOSS, says)
