"""How the answer comes about along a circuit's edges, for its drawing: what each carries, the paths that decide, and
smaller circuits within it.

Prune keeps the circuit of one target only, not those of the other losses of its curve. So the smaller ones are made
here: the edges that are needed most, by the loss without each of them (the certificate) or else by their effect, with
their own loss, measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.circuit import Circuit
from pipeline.data.pairs import PairBatch
from pipeline.explain.carried import ByKey, carried
from pipeline.explain.paths import deciding_paths
from pipeline.explain.rounding import rounded
from pipeline.model.scoring import mean_loss
from pipeline.model.transformer import Transformer

NOTHING = 1e-3  # share of the largest that an edge of its kind carries, below which it carries 0
SHRINK = 0.75  # from one smaller circuit to the next
CHANCE = 0.693  # nats: smaller ones know nothing


def flow(model: Transformer, circuit: Circuit, batch: PairBatch, few: PairBatch) -> dict[str, Any]:
    """``carried``: what each edge carries (``pipeline.explain.carried``), to three digits, in the order of
    ``circuit.edge_names``; ``paths``: those that decide, as node names; ``order``: numbers of the edges, the most
    needed first; ``sizes``: [edges, task loss in nats on the pairs of ``few``] of circuits of the first edges of that
    order, the largest first. Raises WrongModelError, CompiledModelError."""
    if not circuit.n_edges:
        return {"carried": [], "paths": [], "order": [], "sizes": []}
    found = carried(model, circuit, batch)
    order = most_needed(circuit, found.effects)
    return {
        "carried": [number for key in circuit.edges for number in short_numbers(found.edges[key].tolist())],
        "paths": deciding_paths(circuit, found, model.config.d_head),
        "order": order,
        "sizes": list(sizes(model, circuit, order, few)),
    }


def short_numbers(row: Sequence[float]) -> list[float]:
    """Three digits each; 0 for those that are small beside the largest."""
    least = NOTHING * max(map(abs, row))
    return [rounded(number) if abs(number) > least else 0 for number in row]


def most_needed(circuit: Circuit, effects: ByKey) -> list[int]:
    """Numbers of the edges: those first without which the certificate's loss is largest, or without a certificate those
    of the largest effect."""
    removed = circuit.removal_losses
    sizes = [abs(number) for key in circuit.edges for number in effects[key].tolist()]
    needed = [removed.get(name, size) for name, size in zip(circuit.edge_names, sizes, strict=True)]
    return sorted(range(len(needed)), key=lambda edge: (-needed[edge], edge))


def sizes(model: Transformer, circuit: Circuit, order: Sequence[int], batch: PairBatch) -> Iterator[list[float]]:
    """[edges, loss] of the circuit and of ever smaller ones, as far as they know more than chance."""
    n = len(order)
    while n:
        loss = mean_loss(inner(circuit, order[:n]).answers(model, batch))
        yield [n, rounded(loss)]
        if loss > CHANCE:
            return
        n = int(n * SHRINK)


def inner(circuit: Circuit, edges: Sequence[int]) -> Circuit:
    """The circuit of some of its edges, their ends, and its nodes that have no edge anyway."""
    names = circuit.edge_names
    kept = [names[edge] for edge in edges]
    ends = {end for name in kept for end in name.split("->")}
    constant = set(circuit.node_names) - {end for name in names for end in name.split("->")}
    return circuit.of_names(ends | constant, kept)
