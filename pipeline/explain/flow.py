"""How the answer comes about along a circuit's edges, for its drawing: what each carries, the paths that decide, and
smaller circuits within it.

Prune keeps the circuit of one target only, not those of the other losses of its curve, so that smaller ones are made
here by removing edges one after the other; their loss is measured. Larger ones: ``pipeline.explain.larger_circuits``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from pipeline.circuit import Circuit
from pipeline.data.pairs import PairBatch
from pipeline.explain.carried import ByKey, carried
from pipeline.explain.paths import deciding_paths, of_nodes
from pipeline.explain.rounding import rounded
from pipeline.model.scoring import mean_loss
from pipeline.model.transformer import Transformer
from pipeline.sites import node_name

NOTHING = 1e-3  # share of the largest that an edge of its kind carries, below which it carries 0
CHANCE = 0.693  # nats: smaller ones know nothing
TRIED = 8  # edges for each that is removed
ONE_BY_ONE = 400  # edges; of larger circuits a part of the least needed is removed at once, untried
PART = 16
POINTS = 40  # sizes that are told, about


def flow(
    model: Transformer, circuit: Circuit, batch: PairBatch, few: PairBatch, named: Collection[str] | None = None
) -> dict[str, Any]:
    """``carried``: what each edge carries (``Carried.pushes``: positive where it pushes the first answer), to three
    digits, in the order of ``circuit.edge_names``; ``pushes``: node → the same of what it writes into the answer, in
    logits; ``paths``: those that decide, as node names, through ``named`` nodes only; ``order``: numbers of the edges,
    those first that are removed last; ``sizes``: [edges, task loss in nats on the pairs of ``few``] of circuits of the
    first edges of that order, the largest first; ``size_pairs``: how many. Raises WrongModelError,
    CompiledModelError."""
    if not circuit.n_edges:
        return {"carried": [], "pushes": {}, "paths": [], "order": [], "sizes": [], "size_pairs": few.n_pairs}
    found = carried(model, circuit, batch)
    order, sizes = shrunk(model, circuit, most_needed(circuit, found.effects), few)
    return {
        "carried": [number for key in circuit.edges for number in short_numbers(found.pushes[key].tolist())],
        "pushes": {node_name(*node): rounded(x) for node, x in of_nodes(circuit, found.direct_pushes).items() if x},
        "paths": deciding_paths(circuit, found, model.config.d_head, named),
        "order": order,
        "sizes": sizes,
        "size_pairs": few.n_pairs,
    }


def short_numbers(row: Sequence[float]) -> list[float]:
    """Three digits each; 0 for those that are small beside the largest."""
    least = NOTHING * max(map(abs, row))
    return [rounded(number) if abs(number) > least else 0 for number in row]


def most_needed(circuit: Circuit, effects: ByKey) -> dict[int, float]:
    """Number of each edge → how much it is needed: the certificate's loss without it, or without a certificate the size
    of its effect."""
    removed = circuit.removal_losses
    sizes = [abs(number) for key in circuit.edges for number in effects[key].tolist()]
    return {edge: removed.get(name, sizes[edge]) for edge, name in enumerate(circuit.edge_names)}


def shrunk(
    model: Transformer, circuit: Circuit, needed: dict[int, float], batch: PairBatch
) -> tuple[list[int], list[list[float]]]:
    """All edges, those that are removed last first; and [edges, loss] of the circuit and of the smaller ones on the way
    there, as far as they know more than chance.

    Of the edges that seem least needed a few are tried, and the one without which the loss is least is removed.
    """

    def loss_of(edges: Sequence[int]) -> float:
        return mean_loss(inner(circuit, edges).answers(model, batch))

    left, gone, needed = sorted(needed), list[int](), dict(needed)
    sizes = [[len(left), loss_of(left)]]
    while len(left) > 1 and sizes[-1][1] <= CHANCE:
        least = sorted(left, key=lambda edge: (needed[edge], edge))
        if len(left) > ONE_BY_ONE:
            some = least[: len(left) // PART]
        else:
            for edge in least[:TRIED]:
                needed[edge] = loss_of([other for other in left if other != edge])
            some = [min(least[:TRIED], key=lambda edge: (needed[edge], edge))]
        left, gone = [edge for edge in left if edge not in some], [*gone, *some]
        sizes.append([len(left), needed[some[0]] if len(some) == 1 else loss_of(left)])
    order = sorted(left, key=lambda edge: (-needed[edge], edge)) + gone[::-1]
    return order, list(spaced(sizes, circuit.n_edges))


def spaced(sizes: Sequence[Sequence[float]], n_edges: int) -> Iterator[list[float]]:
    """The first and the last size, and those between that are far enough from each other for about ``POINTS``."""
    last = math.inf
    for i, (n, loss) in enumerate(sizes):
        if last - n >= n_edges / POINTS or i == len(sizes) - 1:
            last = n
            yield [n, rounded(loss)]


def inner(circuit: Circuit, edges: Sequence[int]) -> Circuit:
    """The circuit of some of its edges, their ends, and its nodes that have no edge anyway."""
    names = circuit.edge_names
    kept = [names[edge] for edge in edges]
    ends = {end for name in kept for end in name.split("->")}
    constant = set(circuit.node_names) - {end for name in names for end in name.split("->")}
    return circuit.of_names(ends | constant, kept)
