"""Does the search find the same circuit again? Other seeds, the same hyperparameters (§6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import combinations
from statistics import median
from typing import Any

from pipeline.circuit import Circuit
from pipeline.circuit.graph import Subgraph
from pipeline.config import Hyperparameters, PruneConfig
from pipeline.prune.evaluator import Candidate
from pipeline.prune.problem import PruneProblem
from pipeline.rows import Check
from pipeline.validate.circuit_under_test import CircuitUnderTest
from pipeline.validate.limits import MIN_FOUND_AGAIN
from pipeline.validate.searching import TrialCircuit, one_trial, problem_of
from pipeline.validate.sections import SectionWork
from pipeline.validate.verdict import check, untested

Items = Mapping[str, set[Any]]  # "nodes" and "edges" → those of a circuit
SeedCircuit = tuple[dict[str, Any], Items]  # of one seed, its row and its items
HOW = "after discretisation, before minimisation; noise and batches differ"
OWN = "the circuit's"  # the seed whose search is not done again


def stability(tested: CircuitUnderTest, prune: PruneConfig) -> SectionWork:
    """Circuits of ``seeds`` seeds: sizes, test losses, and how much they overlap.

    The first seed is the one that the circuit was searched for with: the file has the scores that this search gave its
    nodes. Every other has its own initial noise and its own order of batches; hyperparameters, pairs and ablation
    values are the circuit's. Circuits are compared after discretisation, before minimisation. ``circuits``: a row for
    each seed; the rest is of the ``n_met`` that meet the target, and absent for fewer than two. ``n_nodes``,
    ``n_edges``: median and range over seeds; ``jaccard_nodes``, ``jaccard_edges``: over pairs of seeds.
    ``recovered_nodes``, ``recovered_edges``: the share of the circuit's own, minimised, that each other seed's circuit
    has, of which the check ``found_again`` asks for most. A piece of work for each seed.
    """
    known = tested.circuit.about.get("hyperparameters")
    if tested.config.seeds < 2 or known is None:
        why = "fewer than two seeds are asked for" if known else "the circuit does not say how it was searched for"
        return SectionWork([lambda: {"n_seeds": 0, "tests": not_compared(why)}])
    problem = cache(lambda: problem_of(tested, tested.model, tested.batches, prune, tested.seed))
    hyperparameters = Hyperparameters.model_validate(dict(known))
    names = [OWN, *(f"stability {i}" for i in range(1, tested.config.seeds))]
    pieces = [partial(one_seed, tested, problem, hyperparameters, name) for name in names]
    return SectionWork(pieces, lambda found: compared(tested, found))


def one_seed(
    tested: CircuitUnderTest, problem: Callable[[], PruneProblem], known: Hyperparameters, name: str
) -> SeedCircuit:
    """The circuit of a trial with another seed; of OWN, that of the circuit's search, by the scores in its file."""
    if name == OWN:
        layout = problem().masking.layout
        found = TrialCircuit.of(problem(), layout.flat(tested.circuit.scores) / layout.sizes)
    else:
        found = one_trial(problem(), known, name)
    return {"seed": name} | found.row(tested, problem(), tested.test), items_of(found.candidate)


def items_of(circuit: Circuit | Candidate) -> Items:
    parts = Subgraph(circuit.nodes, circuit.edges)
    return {"nodes": set(parts.list_nodes()), "edges": set(parts.list_edges())}


def compared(tested: CircuitUnderTest, found: Sequence[SeedCircuit]) -> dict[str, Any]:
    """All circuits; spread of the sizes, and overlaps, of those that meet the target."""
    met = {row["seed"]: items for row, items in found if row["met"]}
    rows: dict[str, Any] = {"n_seeds": len(found), "n_met": len(met), "circuits": [row for row, _ in found]}
    if len(met) < 2:
        why = f"{len(met)} of {len(found)} seeds find a circuit that meets the target"
        return rows | {"tests": not_compared(why)}
    for kind, own in items_of(tested.circuit).items():
        each, others = [items[kind] for items in met.values()], [met[seed][kind] for seed in met if seed != OWN]
        rows[f"n_{kind}"] = spread([len(items) for items in each])
        rows[f"jaccard_{kind}"] = spread([jaccard(one, other) for one, other in combinations(each, 2)])
        rows[f"recovered_{kind}"] = spread([share(own, other) for other in others])
    return rows | {"tests": checks(rows)}


def checks(rows: Mapping[str, Any]) -> list[Check]:
    """Whether other seeds find most of the circuit's edges again; how much any two seeds share has no limit."""
    again, overlap = rows["recovered_edges"]["median"], rows["jaccard_edges"]["median"]
    found = f"the median other seed's circuit has {again:.0%} of the circuit's edges, {HOW}"
    shared = f"circuits of two of {rows['n_met']} seeds share {overlap:.0%} of their edges (median), {HOW}"
    return [
        check("found_again", again >= MIN_FOUND_AGAIN, again, MIN_FOUND_AGAIN, found),
        check("stable", None, overlap, None, shared),
    ]


def not_compared(why: str) -> list[Check]:
    return [untested("found_again", why, MIN_FOUND_AGAIN), untested("stable", why)]


def jaccard(one: set[Any], other: set[Any]) -> float:
    """Shared ÷ all; 1 for two empty sets."""
    return len(one & other) / len(one | other) if one | other else 1.0


def share(own: set[Any], other: set[Any]) -> float:
    return len(own & other) / len(own) if own else 1.0


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": median(values), "least": min(values), "most": max(values)}
