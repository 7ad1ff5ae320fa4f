"""Phases 5 and 6: removal path, 1-minimal. Nodes and single edges are removed as long as the target loss is met.

The paper leaves removable nodes behind (§4: a researcher-day of manual clean-up per circuit) and prunes no edges. Phase
5 removes the cheapest items first, in nats an edge, and so makes a path of ever smaller circuits; the smallest that
meets each target of the loss-size curve is taken from the path. Phase 6 removes single items from the main target's
circuit until no removal meets the target. The circuit is then 1-minimal, and its certificate is the loss
(``Evaluation.loss``) after each single removal, each above the target.

An item is a node, with its edges, or an edge; with tied q and k, two nodes are one item.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.circuit.graph import Item, Subgraph, dead_ends, ends, together
from pipeline.prune import limits
from pipeline.prune.discretise import smallest_that
from pipeline.prune.evaluator import Candidate, Evaluator
from pipeline.prune.problem import PruneProblem
from pipeline.rows import Certificate


class Minimiser:
    """One circuit, from which items are removed as long as its loss is at most ``target``.

    Items' costs are as measured when their removal was last tried alone, or as estimated since.
    """

    def __init__(self, evaluator: Evaluator, circuit: Subgraph, target: float, tie_qk: bool) -> None:
        self.evaluator, self.target, self.tie_qk = evaluator, target, tie_qk
        self.losses: dict[Item, float] = {}  # nats, of the circuit without the item; measured only
        self.rises: dict[Item, float] = {}  # the item's cost: the rise of the loss, in nats
        self.per_edge: dict[Item, float] = {}  # the cost over the number of edges removed with the item
        self.estimates: dict[Item, float] = {}  # costs by attribution alone
        self.estimated_for: Subgraph | None = None  # the circuit that ``estimates`` are of
        self.errors: dict[Item, float] = {}  # measured minus estimated cost, when an item was last tried
        self.circuit = evaluator(circuit, target)

    @property
    def slack(self) -> float:
        """How much the loss may still rise, in nats."""
        return max(0.0, self.target - self.circuit.loss)

    def reestimate(self, attributions: Callable[[Candidate], dict[Item, float]]) -> None:
        """Re-estimate every item's cost for the current circuit, corrected by the error seen when it was last tried."""
        if self.estimated_for is self.circuit:
            return
        self.estimated_for, self.estimates = self.circuit, attributions(self.circuit.candidate)
        self.rises = {item: rise + self.errors.get(item, 0.0) for item, rise in self.estimates.items()}
        self.per_edge = an_edge(self.circuit, self.estimates)

    def sweep(self, items: list[Item], group: int, limit: float) -> list[Subgraph]:
        """The circuits made by removing items that cost at most ``limit`` nats an edge, the first ``group`` together.

        The group grows when it can be removed, and shrinks when it cannot.
        """
        at, path = 0, list[Subgraph]()
        while at < len(items):
            some = items[at : at + group]
            if self.try_remove(some, limit):
                path.append(self.circuit.candidate)
                at, group = at + len(some), 2 * group
            elif len(some) > 1:
                group = max(1, len(some) // 4)
            else:
                at += len(some)
        return path

    def try_remove(self, items: list[Item], limit: float = math.inf) -> bool:
        """Remove the items if the loss then meets the target and rises by at most ``limit`` nats an edge."""
        less, halves = self.circuit.without(other for item in items for other in together(item, self.tie_qk))
        n_edges = max(1, self.circuit.n_edges - less.n_edges)
        worst = min(self.target, self.circuit.loss + limit * n_edges)
        # Without halves, other items took these with them.
        after = self.evaluator.changed(self.circuit, halves, less, worst) if halves else self.circuit
        rise = after.loss - self.circuit.loss
        if len(items) == 1:
            item = items[0]
            self.losses[item], self.rises[item], self.per_edge[item] = after.loss, rise, rise / n_edges
            self.errors[item] = rise - self.estimates.get(item, rise)
        if after.loss > worst:
            return False
        self.circuit = after
        return True


def an_edge(circuit: Subgraph, costs: Mapping[Item, float]) -> dict[Item, float]:
    """Each item's cost over the number of edges removed with it."""
    n_edges: Counter[Any] = Counter(end for edge in circuit.list_edges() for end in ends(edge))
    return {item: cost / max(1, n_edges.get(item, 1)) for item, cost in costs.items()}


class RemovalPath:
    """Phase 5: removal path. Ever smaller circuits of ever larger loss, from one with a loss below its target.

    A share of the pairs decides the path, for speed; ``smallest`` evaluates on all pairs.
    """

    def __init__(self, problem: PruneProblem, start: Candidate, worst: float) -> None:
        """The path ends where the loss would exceed ``worst``, in nats."""
        self.evaluator, self.seen = problem.evaluator, dict[int, Candidate]()
        self.circuits: list[Subgraph] = [start]
        if start.n_edges > limits.MAX_MINIMISED_EDGES:
            return
        found = Minimiser(problem.evaluator.smaller(limits.PATH_SHARE), start, worst, problem.config.tie_qk)
        limit = limits.FIRST_LIMIT * max(worst - found.circuit.loss, limits.MIN_PATH_RISE) / max(1, start.n_edges)
        while limit < limits.LIMIT_FACTOR * found.slack:  # an edge that costs more than the slack cannot be removed
            self.circuits += sweep_at(found, problem, limit)
            limit *= limits.LIMIT_FACTOR

    def smallest(self, target: float) -> Candidate | None:
        """The smallest circuit of the path that meets the target, as bisection finds it; None where none does."""
        last = len(self.circuits) - 1
        back = smallest_that(lambda back: self.at(last - back).loss <= target, start=1, most=last)
        return None if back is None else self.at(last - back)

    def at(self, place: int) -> Candidate:
        """The circuit at a place of the path, evaluated on all pairs."""
        if place not in self.seen:
            self.seen[place] = self.evaluator(self.circuits[place], math.inf).candidate
        return self.seen[place]


def sweep_at(found: Minimiser, problem: PruneProblem, limit: float) -> list[Subgraph]:
    """The circuits made by removing all dead ends together, then items that cost at most ``limit`` nats an edge."""
    if dead := dead_ends(found.circuit):
        found.try_remove(list(dead), limit)
    items = affordable(found, problem.quick_attributions(found.circuit), limit)
    return found.sweep(items, max(1, int(limits.FIRST_GROUP * len(items))), limit)


def affordable(found: Minimiser, attributions: dict[Item, float], limit: float) -> list[Item]:
    """Nodes, then edges, that may cost at most ``limit`` nats an edge, the cheapest first.

    An item that was never tried has the cost of its attribution.
    """
    items = found.circuit.list_items()
    per_edge = an_edge(found.circuit, {item: attributions.get(item, 0.0) for item in items})
    per_edge |= {item: cost for item, cost in found.per_edge.items() if item in per_edge}
    rises, most = found.rises, limits.MAX_LIMIT_RATIO * found.slack
    some = (item for item in items if per_edge[item] <= limits.MAX_LIMIT_RATIO * limit and rises.get(item, 0.0) <= most)
    return sorted(some, key=lambda item: (len(item), per_edge[item], item))


def minimal(problem: PruneProblem, start: Candidate, target: float) -> tuple[Candidate, Certificate | None]:
    """Phase 6: 1-minimal. The circuit after single removals until none meets the target, and its certificate.

    The cheapest item is removed first, by measured or estimated cost; when no cost admits another removal, items are
    tried in order of cost. The certificate: ``loss``, ``target_loss``, and ``nodes`` and ``edges`` with the loss in
    nats after each single removal, in the circuit's order. A circuit too large to try every edge of is returned as it
    is, with None.
    """
    if start.n_edges > limits.MAX_MINIMISED_EDGES:
        return start, None
    found = Minimiser(problem.evaluator, start, target, problem.config.tie_qk)
    found.try_remove(list(dead_ends(found.circuit)))
    refused: set[Item] = set()  # since the last removal, so that their measured losses are of the current circuit
    while items := next_items(found, problem, refused):
        for item in items:
            if item in found.circuit and found.try_remove([item]):
                refused.clear()
            else:
                refused.add(item)
    return found.circuit.candidate, certificate(found)


def next_items(found: Minimiser, problem: PruneProblem, refused: set[Item]) -> list[Item]:
    """The items to try next: those whose cost is within the slack, else by a new estimate, else all not refused."""
    if items := within_slack(found, refused):
        return items
    found.reestimate(problem.attributions)
    left = set(found.circuit.list_items()) - refused
    return within_slack(found, refused) or sorted(left, key=lambda item: (found.rises.get(item, 0.0), item))


def within_slack(found: Minimiser, refused: set[Item]) -> list[Item]:
    """The items, but for refused ones, whose known cost the slack allows, the cheapest an edge first."""
    items = (item for item in found.circuit.list_items() if found.rises.get(item, math.inf) <= found.slack)
    return sorted((item for item in items if item not in refused), key=lambda item: (found.per_edge[item], item))


def certificate(found: Minimiser) -> Certificate:
    """The losses in nats after each single removal, all measured since the last item was removed."""
    losses, circuit = found.losses, found.circuit
    return {
        "target_loss": found.target,
        "loss": found.circuit.loss,
        "nodes": {key: [losses[key, i] for i in indices.tolist()] for key, indices in circuit.nodes.items()},
        "edges": {key: [losses[key, s, t] for s, t in pairs.tolist()] for key, pairs in circuit.edges.items()},
    }
