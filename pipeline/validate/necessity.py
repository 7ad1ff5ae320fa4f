"""Does the model fail without the circuit: loss against how much of it is taken away (inverse pruning, §6).

What is removed is held, all else is intact. The circuit's parts go first, those most needed first; the curve goes on
beyond it. At every size it is compared with random sets of the same number per site or kind of edge, drawn from what is
not in the circuit: with a few of its nodes in it, any set may cripple the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.conditions import Condition
from pipeline.circuit.graph import Edge, by_key
from pipeline.circuit.random_circuits import ends, random_edges, random_nodes
from pipeline.data.pairs import of_pairs, prompt_losses
from pipeline.prune.edges import induced_edges
from pipeline.prune.masks import UnitLayout
from pipeline.rows import Check
from pipeline.validate.circuit_under_test import UNCALIBRATED, CircuitUnderTest
from pipeline.validate.verdict import check

# A model that tells the two prompts of a pair nothing apart loses at least ln 2 on the pair, whatever it prefers
# (softplus is convex). So a smaller loss proves that what is left still knows; a rounding's worth is allowed.
CHANCE = math.log(2)
SLACK = 0.01  # nats
BEYOND = (2, 4)  # times the circuit's nodes: does more removed do what the circuit alone did not
ON_THE_WAY = 0.25  # of the random sets, at sizes other than the circuit's, which no verdict rests on

LIMIT = CHANCE - SLACK


def necessity(tested: CircuitUnderTest) -> dict[str, Any]:
    """Two curves of task loss (nats, uncalibrated, of ``tested.few``) over what is removed, and their checks.

    ``nodes`` and ``edges`` each: ``n``, how many the circuit has; ``curve``, by size; ``n_to_chance``, the smallest
    size on the curve whose loss reaches ``limit`` (None: no size does).
    """
    nodes = curve(tested, Condition.ABLATED_NODES, node_sets(tested), tested.circuit.n_nodes)
    edges = curve(tested, Condition.ABLATED_EDGES, edge_sets(tested), tested.circuit.n_edges)
    return {
        "n_pairs": tested.few.n_pairs,
        "limit": LIMIT,
        "model_loss": tested.estimate(tested.losses(tested.model_of_few, UNCALIBRATED)),
        "nodes": nodes,
        "edges": edges,
        "tests": [check_necessary("nodes", nodes), check_necessary("edges", edges)],
    }


def curve(tested: CircuitUnderTest, condition: Condition, sets: Iterable[Circuit], n: int) -> dict[str, Any]:
    """The loss without each set, beside that without random ones."""
    generator = tested.generator(f"necessity {condition.value}")
    points = [point(tested, condition, removed, generator) for removed in sets]
    reached = [p["size"] for p in points if p["loss"]["mean"] >= LIMIT]
    return {"n": n, "curve": points, "n_to_chance": min(reached, default=None)}


def point(
    tested: CircuitUnderTest, condition: Condition, removed: Circuit, generator: torch.Generator
) -> dict[str, Any]:
    """``size``, ``loss`` (an estimate) without the set, and ``random``: of random sets, their size (smaller where a
    site or kind has not so many other parts), median, range and losses."""
    size = size_of(removed, condition)
    whole = size == size_of(tested.circuit, condition)
    n = tested.config.n_random if whole else max(1, round(ON_THE_WAY * tested.config.n_random))
    sets = [random_set(tested, condition, removed, generator) for _ in range(n)]
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


def random_set(tested: CircuitUnderTest, condition: Condition, like: Circuit, generator: torch.Generator) -> Circuit:
    """As many nodes at each site, or edges of each kind, none of them in the circuit under test."""
    if condition.of_edges:
        return random_edges(like, tested.other_edges, generator)
    return random_nodes(like, generator, excluded=tested.circuit)


def size_of(circuit: Circuit, condition: Condition) -> int:
    return circuit.n_edges if condition.of_edges else circuit.n_nodes


def losses(tested: CircuitUnderTest, condition: Condition, removed: Circuit) -> Float[Tensor, "draw pair"]:
    """Each pair's loss without a set, of every draw: mean over prompts."""
    if condition is Condition.ABLATED_NODES:  # as all other nodes alone, which is the same and spares a third of time
        nodes = {key: (mask == 0).nonzero().flatten() for key, mask in removed.node_masks().items()}
        removed, condition = replace(removed, nodes=nodes, edges={}), Condition.NODES_ONLY
    return of_pairs(prompt_losses(tested.ablator.answers(removed, condition, tested.few)))


def node_sets(tested: CircuitUnderTest) -> list[Circuit]:
    """The first nodes in order of need, without edges: some of the circuit's, all of them, and more."""
    n, sequence = tested.circuit.n_nodes, nodes_by_need(tested)
    sizes = [*grid(n, tested.config.points), *(times * n for times in BEYOND if n and times * n <= len(sequence))]
    return [first_nodes(tested, sequence, size) for size in sizes]


def edge_sets(tested: CircuitUnderTest) -> list[Circuit]:
    """The circuit's first edges in order of need; then all edges between more nodes than the circuit's."""
    circuit, every = tested.circuit, edges_by_need(tested.circuit)
    subsets = [by_key(every[:size]) for size in grid(len(every), tested.config.points)]
    sequence = nodes_by_need(tested)
    for times in BEYOND if every else ():
        if times * circuit.n_nodes <= len(sequence):
            more = first_nodes(tested, sequence, times * circuit.n_nodes)
            subsets.append(induced_edges(tested.model, more.node_masks()))
    return [replace(circuit, nodes=ends(edges), edges=edges) for edges in subsets]


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
    sequence = layout.flat(circuit.order).argsort(descending=True, stable=True)
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
        return check(name, None, None, LIMIT, f"the circuit has no {parts} to remove")
    low, loss, random = whole["loss"]["interval"][0], whole["loss"]["mean"], whole["random"]
    says = (
        f"loss {loss:.3f} nats (at least {low:.3f}) without the circuit's {found['n']} {parts}; at most "
        f"{random['high']:.3f} without {random['size']} others, {len(random['losses'])} times at random"
    )
    return check(name, low >= LIMIT and loss > random["high"], low, LIMIT, says)
