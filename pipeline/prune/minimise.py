"""Take away nodes and single edges as long as the target loss holds, until no single one can go.

The paper leaves removable nodes behind (§4: a researcher-day of manual clean-up per circuit) and prunes no
edges. Here what costs least goes first, in nats an edge: a *trail* of ever smaller circuits, from which the smallest
that meets each target of the loss-size curve is taken. At the main target single removals go on until a whole round
takes none. What remains is 1-minimal: the *certificate* has what loss a circuit has to answer for (``Evaluation.loss``)
after each single removal, all of them above the target. A node goes with its edges; with tied q and k, two nodes are
one item. A circuit that is too large to try every edge of is left as it is, without a certificate.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.circuit.graph import Item, Parts, dead_ends, ends, together
from pipeline.prune.discretise import Candidate, smallest_that
from pipeline.prune.evaluator import Evaluation, Evaluator
from pipeline.rows import Certificate

Worth = Callable[[Parts], dict[Item, float]]  # a circuit → what each item is estimated to be worth, in nats
Price = Callable[[Candidate], "RemovalCosts"]
FEW = 4000  # edges, up to which items are tried one by one
GROUP = 0.25  # of all items, tried together at first
LEAST = 0.01  # nats that the first price shares out among all edges, where the target leaves less
FACTOR = 1.5  # of one price over the one before
DEAR = 1.3  # times the price, above which an item is not tried before the price has risen


@dataclass
class RemovalCosts:
    """What single removals have cost, as last tried."""

    losses: dict[Item, float] = field(default_factory=dict)  # without the item
    rises: dict[Item, float] = field(default_factory=dict)  # what that was more, in nats
    per_edge: dict[Item, float] = field(default_factory=dict)  # the same, in nats an edge

    @classmethod
    def estimated(cls, parts: Parts, worths: dict[Item, float]) -> RemovalCosts:
        """What each item of a circuit is worth, where nothing has been tried."""
        n_edges: Counter[Any] = Counter(end for edge in parts.list_edges() for end in ends(edge))
        return cls({}, worths, {item: worths[item] / max(1, n_edges.get(item, 1)) for item in worths})


class Minimiser:
    """One circuit, judged again and again with less of it; what is left may not lose more than ``target``."""

    def __init__(self, evaluator: Evaluator, parts: Parts, target: float, tie_qk: bool) -> None:
        self.evaluator, self.target, self.tie_qk, self.costs = evaluator, target, tie_qk, RemovalCosts()
        self.estimated: Parts | None = None  # the circuit that the estimates are of
        self.estimates = RemovalCosts()
        self.bends: dict[Item, float] = {}  # what single removals cost more than was estimated, as last tried
        self.parts, self.evaluation = parts, evaluator(parts.nodes, parts.edges, target)

    @property
    def slack(self) -> float:
        """What the loss may still rise, in nats."""
        return max(0.0, self.target - self.evaluation.loss)

    @property
    def candidate(self) -> Candidate:
        return Candidate.of(self.parts.nodes, self.parts.edges, self.evaluation)

    def priced(self, cost: Price) -> Minimiser:
        """Itself, with estimated prices of what it is now; what was more when it was tried will be more again."""
        if self.estimated is not self.parts:
            self.estimated, self.estimates = self.parts, cost(self.candidate)
            rises = {item: rise + self.bends.get(item, 0.0) for item, rise in self.estimates.rises.items()}
            self.costs = RemovalCosts(self.costs.losses, rises, dict(self.estimates.per_edge))
        return self

    def sweep(self, items: list[Item], group: int, cost: float = math.inf) -> list[Parts]:
        """The circuits that come of taking away items at the price, in nats an edge; the first ``group`` together.

        Where several cannot go, fewer are tried.
        """
        at, removal_path = 0, []
        while at < len(items):
            some = items[at : at + group]
            if self.drop(some, cost):
                removal_path.append(self.parts)
                at, group = at + len(some), 2 * group
            elif len(some) > 1:
                group = max(1, len(some) // 4)
            else:
                at += len(some)
        return removal_path

    def drop(self, items: list[Item], cost: float = math.inf) -> bool:
        """Take the items away if the target loss holds without them, and if they are not worth more than the price."""
        less, evaluation = self.without(items)
        rise, n_edges = evaluation.loss - self.evaluation.loss, max(1, self.parts.n_edges - less.n_edges)
        if len(items) == 1:
            self.costs.losses[items[0]], self.costs.rises[items[0]] = evaluation.loss, rise
            self.costs.per_edge[items[0]] = rise / n_edges
            self.bends[items[0]] = rise - self.estimates.rises.get(items[0], rise)
        if evaluation.loss > self.target or rise > cost * n_edges:
            return False
        self.parts, self.evaluation = less, evaluation
        return True

    def without(self, items: list[Item]) -> tuple[Parts, Evaluation]:
        """The circuit without some items and the edges that end in them, judged."""
        less, halves = self.parts.without(other for item in items for other in together(item, self.tie_qk))
        if not halves:  # all of it had gone with other items
            return self.parts, self.evaluation
        return less, self.evaluator.changed(self.evaluation, halves, less.nodes, less.edges, self.target)


class RemovalPath:
    """Circuits ever smaller and of ever more loss, from one that does better than it has to down to one that is bad.

    Taken by some of the pairs, for speed: ``smallest`` asks the judge of all pairs.
    """

    def __init__(
        self, evaluator: Evaluator, few: Evaluator, start: Candidate, worst: float, worth: Worth, tie_qk: bool
    ) -> None:
        """``few`` judges what may go, while its loss is at most ``worst``."""
        self.evaluator, self.seen = evaluator, dict[int, Candidate]()
        self.circuits = [Parts(start.nodes, start.edges)]
        found = Minimiser(few, self.circuits[0], worst, tie_qk)
        if found.parts.n_edges > FEW:
            return
        cost = max(worst - found.evaluation.loss, LEAST) / max(1, found.parts.n_edges) / 8
        while cost < FACTOR * found.slack:  # an edge that is worth more cannot go
            self.circuits += price_sweep(found, worth, cost)
            cost *= FACTOR

    def smallest(self, target: float) -> Candidate | None:
        """The smallest circuit of the trail that meets the target, as bisection finds it; None where none does."""
        last = len(self.circuits) - 1
        back = smallest_that(lambda back: self.at(last - back).loss <= target, start=1, most=last)
        return None if back is None else self.at(last - back)

    def at(self, place: int) -> Candidate:
        """The circuit at a place of the trail, judged by all pairs."""
        if place not in self.seen:
            parts = self.circuits[place]
            self.seen[place] = Candidate.of(
                parts.nodes, parts.edges, self.evaluator(parts.nodes, parts.edges, math.inf)
            )
        return self.seen[place]


def minimal(
    evaluator: Evaluator,
    candidate: Candidate,
    target: float,
    tie_qk: bool,
    cost: Price = lambda candidate: RemovalCosts(),
) -> tuple[Candidate, Certificate | None]:
    """The circuit without all that can go by itself, and its certificate; itself and None where it is too large.

    Single nodes and edges go, the cheapest first, in rounds, until none can go from what is left; ``cost`` estimates
    what each costs. The certificate: ``loss``, ``target_loss``, and ``nodes`` and ``edges`` with the loss after each
    single removal, in the circuit's order.
    """
    if candidate.n_edges > FEW:
        return candidate, None
    found = Minimiser(evaluator, Parts(candidate.nodes, candidate.edges), target, tie_qk)
    found.drop(list(dead_ends(found.parts)))
    refused: set[Item] = set()  # since something went: their losses still hold
    while items := may_go(found, refused) or may_go(found.priced(cost), refused) or untried(found, refused):
        for item in items:
            if item in found.parts and found.drop([item]):
                refused.clear()
            else:
                refused.add(item)
    return found.candidate, certificate(found)


def price_sweep(found: Minimiser, worth: Worth, cost: float) -> list[Parts]:
    """The circuits that come of taking away what costs at most a price; dead ends first, all together."""
    if dead := dead_ends(found.parts):
        found.drop(list(dead), cost)
    items = affordable(found, worth(found.parts), cost)
    return found.sweep(items, max(1, int(GROUP * len(items))), cost)


def affordable(found: Minimiser, worths: dict[Item, float], cost: float) -> list[Item]:
    """Nodes, then edges, that may go at a price, the cheapest first; where nothing is known, their worth counts."""
    every = found.parts.list_items()
    costs = RemovalCosts.estimated(found.parts, {item: worths.get(item, 0.0) for item in every}).per_edge
    costs |= {item: cost for item, cost in found.costs.per_edge.items() if item in costs}
    rises, most = found.costs.rises, DEAR * found.slack
    some = (item for item in every if costs[item] <= DEAR * cost and rises.get(item, 0.0) <= most)
    return sorted(some, key=lambda item: (len(item), costs[item], item))


def may_go(found: Minimiser, refused: set[Item]) -> list[Item]:
    """The items that can go by what they were worth when they were tried or priced, the cheapest first."""
    rises, per_edge = found.costs.rises, found.costs.per_edge
    items = (item for item in found.parts.list_items() if rises.get(item, math.inf) <= found.slack)
    return sorted((item for item in items if item not in refused), key=lambda item: (per_edge[item], item))


def untried(found: Minimiser, refused: set[Item]) -> list[Item]:
    """The items that were not refused, those first that come nearest to where they can go."""
    rises = found.costs.rises
    return sorted(set(found.parts.list_items()) - refused, key=lambda item: (rises.get(item, 0.0), item))


def certificate(found: Minimiser) -> Certificate:
    """The losses that single removals had, each since the last one that was taken."""
    losses = found.costs.losses
    return {
        "target_loss": found.target,
        "loss": found.evaluation.loss,
        "nodes": {key: [losses[key, i] for i in indices.tolist()] for key, indices in found.parts.nodes.items()},
        "edges": {key: [losses[key, s, t] for s, t in pairs.tolist()] for key, pairs in found.parts.edges.items()},
    }
