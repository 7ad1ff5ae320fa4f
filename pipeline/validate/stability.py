"""Does the search find the same circuit again? Other seeds, the same hyperparameters (METHOD §6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations
from statistics import median
from typing import Any

from pipeline.config import Hyperparameters, PruneConfig
from pipeline.prune.discretise import Ranking
from pipeline.prune.prune import Case
from pipeline.validate.claim import Claim, check
from pipeline.validate.searching import Found, best_of, case_of, one_trial
from pipeline.validate.sections import Section

Items = set[tuple[str, ...]]
WHAT = "after discretisation, before minimisation; noise and batches differ"
OWN = "the circuit's"  # the seed whose search is not done again


def stability(claim: Claim, prune: PruneConfig) -> dict[str, Any]:
    """Circuits of ``seeds`` seeds: sizes, test losses, and how much they overlap.

    The first seed is the one that the circuit was searched for with: the file has the order that this search gave its
    nodes. Every other has its own initial noise and its own order of batches; hyperparameters, pairs and what is held
    are the circuit's. Circuits are compared after discretisation, before minimisation. ``circuits``: a row a seed; the
    rest is of the ``n_met`` that meet the target, and absent for fewer than two. ``n_nodes``, ``n_edges``: median and
    range over seeds; ``jaccard_nodes``, ``jaccard_edges``: over pairs of seeds. ``recovered_nodes``,
    ``recovered_edges``: the share of the circuit's own, minimised, that each other seed's circuit has. No limit: two
    circuits can both be right.
    """
    return stability_section(claim, prune)()


def stability_section(claim: Claim, prune: PruneConfig) -> Section:
    """``stability``, a part a seed."""
    known = claim.circuit.about.get("hyperparameters")
    if claim.config.seeds < 2 or known is None:
        why = "fewer than two seeds are asked for" if known else "the circuit does not say how it was searched for"
        return Section.of(lambda: {"n_seeds": 0, "tests": [untested(why)]})
    case = cache(lambda: case_of(claim, claim.model, claim.batches, prune, claim.seed))
    hyperparameters = Hyperparameters.model_validate(dict(known))
    others = [partial(one_seed, claim, case, hyperparameters, f"stability {i}") for i in range(1, claim.config.seeds)]
    return Section([partial(own_seed, claim, case), *others], lambda found: compared(claim, found))


@dataclass(frozen=True)
class Seed:
    """What the search finds from one seed: its row, and the circuit's parts."""

    row: dict[str, Any]
    nodes: Items
    edges: Items


def own_seed(claim: Claim, case: Callable[[], Case]) -> Seed:
    """The circuit's own search, as its file has it."""
    layout = case().masking.layout
    order = layout.flat(claim.circuit.order) / layout.sizes
    return as_seed(claim, case(), best_of(Ranking(case().judge, layout, order), claim.target), OWN)


def one_seed(claim: Claim, case: Callable[[], Case], hyperparameters: Hyperparameters, purpose: str) -> Seed:
    return as_seed(claim, case(), one_trial(case(), hyperparameters, purpose), purpose)


def as_seed(claim: Claim, case: Case, found: Found, name: str) -> Seed:
    row = {"seed": name} | found.row(claim, case, claim.test)
    return Seed(row, items(found.sketch.nodes), items(found.sketch.edges))


def compared(claim: Claim, found: Sequence[Seed]) -> dict[str, Any]:
    """All circuits; spread of the sizes, and overlaps, of those that meet the target."""
    met = [seed for seed in found if seed.row["met"]]
    return {"n_seeds": len(found), "n_met": len(met), "circuits": [seed.row for seed in found]} | (
        overlapping(claim, met)
        if len(met) > 1
        else {"tests": [untested(f"{len(met)} of {len(found)} seeds find a circuit that meets the target")]}
    )


def overlapping(claim: Claim, met: Sequence[Seed]) -> dict[str, Any]:
    nodes, edges = [one.nodes for one in met], [one.edges for one in met]
    own_nodes, own_edges = items(claim.circuit.nodes), items(claim.circuit.edges)
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


def untested(why: str) -> dict[str, Any]:
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
