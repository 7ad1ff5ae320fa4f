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
from pipeline.validate.circuit_under_test import CircuitUnderTest
from pipeline.validate.searching import TrialCircuit, one_trial, problem_of
from pipeline.validate.sections import SectionWork
from pipeline.validate.verdict import check, untested

Names = set[tuple[str, ...]]  # of nodes or edges
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
    has. No limit: two circuits can both be right. A piece of work for each seed.
    """
    known = tested.circuit.about.get("hyperparameters")
    if tested.config.seeds < 2 or known is None:
        why = "fewer than two seeds are asked for" if known else "the circuit does not say how it was searched for"
        return SectionWork([lambda: {"n_seeds": 0, "tests": [untested("stable", why)]}])
    problem = cache(lambda: problem_of(tested, tested.model, tested.batches, prune, tested.seed))
    hyperparameters = Hyperparameters.model_validate(dict(known))
    names = [OWN, *(f"stability {i}" for i in range(1, tested.config.seeds))]
    pieces = [partial(one_seed, tested, problem, hyperparameters, name) for name in names]
    return SectionWork(pieces, lambda found: compared(tested, found))


@dataclass(frozen=True)
class SeedCircuit:
    """The circuit that the search finds from one seed: its row, its nodes and its edges."""

    row: dict[str, Any]
    nodes: Names
    edges: Names


def one_seed(
    tested: CircuitUnderTest, problem: Callable[[], PruneProblem], known: Hyperparameters, name: str
) -> SeedCircuit:
    """The circuit of a trial with another seed; of OWN, that of the circuit's search, by the scores in its file."""
    if name == OWN:
        layout = problem().masking.layout
        ranking = Ranking(problem().evaluator, layout, layout.flat(tested.circuit.order) / layout.sizes)
        found = TrialCircuit.of(ranking, tested.target)
    else:
        found = one_trial(problem(), known, name)
    row = {"seed": name} | found.row(tested, problem(), tested.test)
    return SeedCircuit(row, items(found.candidate.nodes), items(found.candidate.edges))


def compared(tested: CircuitUnderTest, found: Sequence[SeedCircuit]) -> dict[str, Any]:
    """All circuits; spread of the sizes, and overlaps, of those that meet the target."""
    met = [seed for seed in found if seed.row["met"]]
    rows = {"n_seeds": len(found), "n_met": len(met), "circuits": [seed.row for seed in found]}
    if len(met) < 2:
        why = f"{len(met)} of {len(found)} seeds find a circuit that meets the target"
        return rows | {"tests": [untested("stable", why)]}
    return rows | overlapping(tested, met)


def overlapping(tested: CircuitUnderTest, met: Sequence[SeedCircuit]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    others = [seed for seed in met if seed.row["seed"] != OWN]
    for kind in ("nodes", "edges"):
        each, own = [getattr(seed, kind) for seed in met], items(getattr(tested.circuit, kind))
        found[f"n_{kind}"] = spread([len(names) for names in each])
        found[f"jaccard_{kind}"] = spread([jaccard(one, other) for one, other in combinations(each, 2)])
        found[f"recovered_{kind}"] = spread([share(own, getattr(other, kind)) for other in others])
    overlap = found["jaccard_edges"]["median"]
    says = f"circuits of two of {len(met)} seeds share {100 * overlap:.0f} % of their edges (median), {HOW}"
    return found | {"tests": [check("stable", None, overlap, None, says)]}


def items(parts: Mapping[str, Any]) -> Names:
    """Nodes or edges as comparable names."""
    return {
        (key, *map(str, row if isinstance(row, list) else [row]))
        for key, rows in parts.items()
        for row in rows.tolist()
    }


def jaccard(one: Names, other: Names) -> float:
    """Shared ÷ all; 1 for two empty sets."""
    return len(one & other) / len(one | other) if one | other else 1.0


def share(own: Names, other: Names) -> float:
    return len(own & other) / len(own) if own else 1.0


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": median(values), "least": min(values), "most": max(values)}
