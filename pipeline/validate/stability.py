"""Does the search find the same circuit again? Other seeds, the same hyperparameters (§6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations
from statistics import median
from typing import Any

from pipeline.config import Hyperparameters, PruneConfig
from pipeline.prune.discretise import Ranking
from pipeline.prune.prune import PruneProblem
from pipeline.rows import Check
from pipeline.validate.circuit_under_test import CircuitUnderTest
from pipeline.validate.searching import Found, best_of, one_trial, problem_of
from pipeline.validate.sections import Section
from pipeline.validate.verdict import check

Items = set[tuple[str, ...]]
WHAT = "after discretisation, before minimisation; noise and batches differ"
OWN = "the circuit's"  # the seed whose search is not done again


def stability(tested: CircuitUnderTest, prune: PruneConfig) -> dict[str, Any]:
    """Circuits of ``seeds`` seeds: sizes, test losses, and how much they overlap.

    The first seed is the one that the circuit was searched for with: the file has the order that this search gave its
    nodes. Every other has its own initial noise and its own order of batches; hyperparameters, pairs and what is held
    are the circuit's. Circuits are compared after discretisation, before minimisation. ``circuits``: a row a seed; the
    rest is of the ``n_met`` that meet the target, and absent for fewer than two. ``n_nodes``, ``n_edges``: median and
    range over seeds; ``jaccard_nodes``, ``jaccard_edges``: over pairs of seeds. ``recovered_nodes``,
    ``recovered_edges``: the share of the circuit's own, minimised, that each other seed's circuit has. No limit: two
    circuits can both be right.
    """
    return stability_section(tested, prune)()


def stability_section(tested: CircuitUnderTest, prune: PruneConfig) -> Section:
    """``stability``, a part a seed."""
    known = tested.circuit.about.get("hyperparameters")
    if tested.config.seeds < 2 or known is None:
        why = "fewer than two seeds are asked for" if known else "the circuit does not say how it was searched for"
        return Section.of(lambda: {"n_seeds": 0, "tests": [untested(why)]})
    problem = cache(lambda: problem_of(tested, tested.model, tested.batches, prune, tested.seed))
    hyperparameters = Hyperparameters.model_validate(dict(known))
    others = [
        partial(one_seed, tested, problem, hyperparameters, f"stability {i}") for i in range(1, tested.config.seeds)
    ]
    return Section([partial(own_seed, tested, problem), *others], lambda found: compared(tested, found))


@dataclass(frozen=True)
class Seed:
    """What the search finds from one seed: its row, and the circuit's parts."""

    row: dict[str, Any]
    nodes: Items
    edges: Items


def own_seed(tested: CircuitUnderTest, problem: Callable[[], PruneProblem]) -> Seed:
    """The circuit's own search, as its file has it."""
    layout = problem().masking.layout
    order = layout.flat(tested.circuit.order) / layout.sizes
    return as_seed(tested, problem(), best_of(Ranking(problem().evaluator, layout, order), tested.target), OWN)


def one_seed(
    tested: CircuitUnderTest, problem: Callable[[], PruneProblem], hyperparameters: Hyperparameters, purpose: str
) -> Seed:
    return as_seed(tested, problem(), one_trial(problem(), hyperparameters, purpose), purpose)


def as_seed(tested: CircuitUnderTest, problem: PruneProblem, found: Found, name: str) -> Seed:
    row = {"seed": name} | found.row(tested, problem, tested.test)
    return Seed(row, items(found.candidate.nodes), items(found.candidate.edges))


def compared(tested: CircuitUnderTest, found: Sequence[Seed]) -> dict[str, Any]:
    """All circuits; spread of the sizes, and overlaps, of those that meet the target."""
    met = [seed for seed in found if seed.row["met"]]
    return {"n_seeds": len(found), "n_met": len(met), "circuits": [seed.row for seed in found]} | (
        overlapping(tested, met)
        if len(met) > 1
        else {"tests": [untested(f"{len(met)} of {len(found)} seeds find a circuit that meets the target")]}
    )


def overlapping(tested: CircuitUnderTest, met: Sequence[Seed]) -> dict[str, Any]:
    nodes, edges = [one.nodes for one in met], [one.edges for one in met]
    own_nodes, own_edges = items(tested.circuit.nodes), items(tested.circuit.edges)
    overlaps = spread([jaccard(a, b) for a, b in combinations(edges, 2)])
    others = [seed for seed in met if seed.row["seed"] != OWN]
    says = f"circuits of two of {len(met)} seeds share {100 * overlaps['median']:.0f} % of their edges (median), {WHAT}"
    return {
        "n_nodes": spread(list(map(len, nodes))),
        "n_edges": spread(list(map(len, edges))),
        "jaccard_nodes": spread([jaccard(a, b) for a, b in combinations(nodes, 2)]),
        "jaccard_edges": overlaps,
        "recovered_nodes": spread([share(own_nodes, other.nodes) for other in others]),
        "recovered_edges": spread([share(own_edges, other.edges) for other in others]),
        "tests": [check("stable", None, overlaps["median"], None, says)],
    }


def untested(why: str) -> Check:
    return check("stable", None, None, None, why)


def items(parts: Mapping[str, Any]) -> Items:
    """Nodes or edges as comparable names."""
    return {
        (key, *map(str, row if isinstance(row, list) else [row]))
        for key, rows in parts.items()
        for row in rows.tolist()
    }


def jaccard(one: Items, other: Items) -> float:
    """Shared ÷ all; 1 for two empty sets."""
    return len(one & other) / len(one | other) if one | other else 1.0


def share(own: Items, other: Items) -> float:
    return len(own & other) / len(own) if own else 1.0


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": median(values), "least": min(values), "most": max(values)}
