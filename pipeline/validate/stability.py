"""Does the search find the same circuit again? Other seeds, the same hyperparameters (METHOD §6)."""

from __future__ import annotations

from itertools import combinations
from statistics import median
from typing import Any

from pipeline.config import PruneConfig
from pipeline.prune.prune import make_case
from pipeline.validate.claim import Claim, check
from pipeline.validate.searching import Found, by_seeds

Items = set[tuple[str, ...]]


def stability(claim: Claim, prune: PruneConfig) -> dict[str, Any]:
    """Circuits after discretisation of ``seeds`` seeds: sizes, test losses, and how much they overlap.

    ``jaccard_nodes``, ``jaccard_edges``: median and range over pairs of seeds. ``recovered_nodes``,
    ``recovered_edges``: the share of the circuit's own that each seed's circuit has. No limit: two circuits can both
    be right.
    """
    known = claim.circuit.about.get("hyperparameters")
    if claim.config.seeds < 2 or known is None:
        why = "fewer than two seeds are asked for" if known else "the circuit does not say how it was searched for"
        return {"n_seeds": 0, "tests": [check("stable", None, None, None, why)]}
    case = make_case(claim.model, claim.circuit.outside, claim.batches, prune, claim.seed)
    found = by_seeds(case, known, claim.config.seeds)
    rows = [one.row(case, claim.test) for one in found]
    nodes, edges = [nodes_of(one) for one in found], [edges_of(one) for one in found]
    own_nodes, own_edges = items(claim.circuit.nodes), items(claim.circuit.edges)
    overlaps = spread([jaccard(a, b) for a, b in combinations(edges, 2)])
    says = f"two seeds' circuits share {100 * overlaps['median']:.0f} % of their edges (median)"
    return {
        "n_seeds": len(found),
        "n_met": sum(one.met for one in found),
        "circuits": rows,
        "n_edges": spread([row["n_edges"] for row in rows]),
        "jaccard_nodes": spread([jaccard(a, b) for a, b in combinations(nodes, 2)]),
        "jaccard_edges": overlaps,
        "recovered_nodes": spread([share(own_nodes, other) for other in nodes]),
        "recovered_edges": spread([share(own_edges, other) for other in edges]),
        "tests": [check("stable", None, overlaps["median"], None, says)],
    }


def nodes_of(found: Found) -> Items:
    return items(found.sketch.nodes)


def edges_of(found: Found) -> Items:
    return items(found.sketch.edges)


def items(parts: Any) -> Items:
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
