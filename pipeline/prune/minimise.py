"""Take away nodes, then single edges, as long as the target loss holds, until no single one can go.

The paper leaves removable nodes behind (METHOD §4: a researcher-day of manual clean-up per circuit) and prunes no
edges. Here items are tried in the order of what they are estimated to be worth, several at a time while that succeeds,
one by one where it does not. What remains is 1-minimal: the *certificate* has the loss after each single removal, all
of them above the target. A node goes with its edges; with tied q and k, two nodes are one item.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pipeline.prune.discretise import Sketch
from pipeline.prune.judge import Edges, Judge, Nodes, Verdict
from pipeline.sites import Site, site_key, split_edge_key, split_site_key

Node = tuple[str, int]  # site key, index
Edge = tuple[str, int, int]  # edge key, source, target
# A circuit's nodes and edges → what each item is estimated to be worth, in nats.
Worth = Callable[[Nodes, Edges], dict[Node | Edge, float]]
GROUP = 0.25  # of all items, tried together at first
SHARE = 0.25  # of the pairs
LEVELS = 6  # of prices, each twice the one before
DEAR = 3.0  # times the price, above which an item is not tried again before the price has risen
ATTENTION = (Site.ATTN_IN, Site.ATTN_Q, Site.ATTN_K, Site.ATTN_V, Site.ATTN_OUT)


@dataclass
class State:
    """A circuit as sets, with the verdict on it."""

    nodes: set[Node]
    edges: set[Edge]
    verdict: Verdict | None = None
    losses: dict[Node | Edge, float] = field(default_factory=dict)  # after each single removal, as last tried
    prices: dict[Node | Edge, float] = field(default_factory=dict)  # the rise that it was, in nats an edge


class Minimiser:
    """One circuit, judged again and again with less of it."""

    def __init__(self, judge: Judge, sketch: Sketch, target: float, tie_qk: bool) -> None:
        self.judge, self.target, self.tie_qk = judge, target, tie_qk
        nodes = {(key, i) for key, indices in sketch.nodes.items() for i in indices.tolist()}
        edges = {(key, s, t) for key, pairs in sketch.edges.items() for s, t in pairs.tolist()}
        self.state = State(nodes, edges)
        self.state.verdict = judge(*as_tensors(self.state))

    def sweep(self, items: list[Node | Edge], group: int, price: float) -> int:
        """How many of the items could go at the price, in nats an edge: each is tried, the first ``group`` together."""
        at, gone = 0, 0
        while at < len(items):
            some = items[at : at + group]
            removed = self.drop(some, price)
            if removed:
                gone, at, group = gone + len(some), at + len(some), 2 * group
            elif len(some) > 1:
                group = max(1, len(some) // 4)
            else:
                at += 1
        return gone

    def drop(self, items: list[Node | Edge], price: float = math.inf) -> bool:
        """Take the items away if the target loss holds without them, and if they are not worth more than the price."""
        assert self.state.verdict is not None
        less = self.without(items)
        assert less.verdict is not None
        rise = less.verdict.loss - self.state.verdict.loss
        n_edges = len(self.state.edges) - len(less.edges)
        if len(items) == 1:
            self.state.losses[items[0]] = less.verdict.loss
            self.state.prices[items[0]] = rise / max(1, n_edges)
        if less.verdict.loss > self.target or rise > price * max(1, n_edges):
            return False
        self.state = less
        return True

    def without(self, items: list[Node | Edge]) -> State:
        """The circuit without some items and the edges that end in them, judged."""
        nodes = {node for item in items if len(item) == 2 for node in self.together(item)}
        edges = {item for item in items if len(item) == 3}
        if nodes:
            edges |= {edge for edge in self.state.edges if not nodes.isdisjoint(ends(edge))}
        less = State(
            self.state.nodes - nodes, self.state.edges - edges, losses=self.state.losses, prices=self.state.prices
        )
        halves = {half_of(item[0]) for item in (nodes & self.state.nodes) | (edges & self.state.edges)}
        if not halves:  # all of it had gone with other items
            less.verdict = self.state.verdict
            return less
        assert self.state.verdict is not None
        less.verdict = self.judge.changed(self.state.verdict, halves, *as_tensors(less, halves))
        return less

    def together(self, node: Any) -> set[Node]:
        """The nodes that go with a node: itself, and with tied masks the key of a query or the query of a key."""
        layer, site = split_site_key(node[0])
        other = {Site.ATTN_Q: Site.ATTN_K, Site.ATTN_K: Site.ATTN_Q}.get(site) if self.tie_qk else None
        return {node} if other is None else {node, (site_key(layer, other), node[1])} & self.state.nodes

    def sketch(self) -> Sketch:
        assert self.state.verdict is not None
        return Sketch.of(*as_tensors(self.state), self.state.verdict)


def minimise(
    judge: Judge, sketch: Sketch, target: float, worth: Worth, tie_qk: bool, to_the_end: bool = True
) -> tuple[Sketch, dict[str, Any] | None]:
    """What is left of a circuit that meets the target, and its certificate.

    What costs least goes first (``cheapest_first``). Then, ``to_the_end``, single nodes and edges until a whole round
    takes none: only then is the circuit 1-minimal. The certificate: ``loss``, ``target_loss``, and ``nodes`` and
    ``edges`` with the loss after each single removal, in the circuit's order.
    """
    sketch = cheapest_first(judge, sketch, target, worth, tie_qk)
    if not to_the_end:
        return sketch, None
    found = Minimiser(judge, sketch, target, tie_qk)
    while sum(found.drop([item]) for item in in_order(found)):
        pass
    return found.sketch(), certificate(found)


def cheapest_first(judge: Judge, sketch: Sketch, target: float, worth: Worth, tie_qk: bool) -> Sketch:
    """What is left when all is gone that costs little, in nats an edge: at first very little, then more and more.

    So what is missed least goes before the loss that may be added is used up. Tried on some of the pairs, for speed, as
    long as all pairs agree with what has gone at each price; from there on, on all of them.
    """
    found = Minimiser(judge.smaller(SHARE), sketch, target, tie_qk)
    for price in prices(found):
        if price_sweep(found, worth, price) and found.judge is not judge:
            verdict = judge(*as_tensors(found.state))
            if verdict.loss <= target:
                sketch = Sketch.of(*as_tensors(found.state), verdict)
            else:
                found = Minimiser(judge, sketch, target, tie_qk)
                price_sweep(found, worth, price)
    return found.sketch() if found.judge is judge else sketch


def price_sweep(found: Minimiser, worth: Worth, price: float) -> int:
    """How many items have gone at a price; dead ends first, all together."""
    if dead := dead_ends(found.state):
        found.drop(list(dead), price)
    items = affordable(found, worth(*as_tensors(found.state)), price)
    return found.sweep(items, max(1, int(GROUP * len(items))), price)


def prices(found: Minimiser) -> list[float]:
    """What an edge may cost, in nats, in each sweep: half of an even share in the first, anything in the last."""
    assert found.state.verdict is not None
    even = max(found.target - found.state.verdict.loss, 0.01) / max(1, len(found.state.edges))
    return [even * 2.0**level for level in range(-1, LEVELS - 1)] + [math.inf]


def affordable(found: Minimiser, worths: dict[Node | Edge, float], price: float) -> list[Node | Edge]:
    """Nodes, then edges, that may go at a price, the least worth an edge first; not those that were far dearer."""
    state, n_edges = found.state, Counter(end for edge in found.state.edges for end in ends(edge))

    def an_edge(item: Any) -> float:
        return state.prices.get(item, worths.get(item, 0.0) / max(1, n_edges.get(item, 1)))

    every: list[Node | Edge] = [*state.nodes, *state.edges]
    items = [item for item in every if state.prices.get(item, 0.0) <= DEAR * price]
    return sorted(items, key=lambda item: (len(item), an_edge(item), item))


def in_order(found: Minimiser) -> Iterator[Node | Edge]:
    """Every item that is still there, those first that were least missed when they were tried before."""
    losses = dict(found.state.losses)
    every: list[Node | Edge] = [*found.state.nodes, *found.state.edges]
    for item in sorted(every, key=lambda item: (losses.get(item, 0.0), item)):
        if item in found.state.nodes or item in found.state.edges:
            yield item


def dead_ends(state: State) -> set[Node]:
    """Nodes without a path from input to output.

    Reads of the residual stream are inputs and writes to it are outputs. Query and key channels lead to all of their
    layer's writes.
    """
    nodes, edges = set(state.nodes), set(state.edges)
    while True:
        sources, targets = {ends(edge)[0] for edge in edges}, {ends(edge)[1] for edge in edges}
        dead = {node for node in nodes if not ((reads(node) or node in targets) and (leads(node) or node in sources))}
        if not dead:
            return state.nodes - nodes
        nodes -= dead
        edges = {edge for edge in edges if dead.isdisjoint(ends(edge))}


def reads(node: Node) -> bool:
    """Whether a node reads the residual stream."""
    return split_site_key(node[0])[1] in (Site.ATTN_IN, Site.MLP_IN)


def leads(node: Node) -> bool:
    """Whether a node has its effect without an edge."""
    return split_site_key(node[0])[1] in (Site.ATTN_Q, Site.ATTN_K, Site.ATTN_OUT, Site.MLP_OUT)


def ends(edge: Any) -> tuple[Node, Node]:
    """Source and target of an edge."""
    source, target = sites_of(edge[0])
    return (source, edge[1]), (target, edge[2])


@cache
def sites_of(key: str) -> tuple[str, str]:
    """Site keys of an edge key's sources and targets."""
    layer, kind = split_edge_key(key)
    return site_key(layer, kind.source), site_key(layer, kind.target)


@cache
def half_of(key: str) -> int:
    """Which half layer a site or an edge key belongs to: attention of layer 0, its MLP, attention of layer 1, …"""
    layer, site = split_site_key(sites_of(key)[0] if "->" in key else key)
    return 2 * layer + (site not in ATTENTION)


def as_tensors(state: State, halves: Container[int] | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Nodes and edges as ``Circuit`` holds them, in a fixed order; with ``halves``, only those of these half layers."""
    nodes: dict[str, list[int]] = {}
    edges: dict[str, list[tuple[int, int]]] = {}
    for key, index in sorted(node for node in state.nodes if halves is None or half_of(node[0]) in halves):
        nodes.setdefault(key, []).append(index)
    for key, source, target in sorted(edge for edge in state.edges if halves is None or half_of(edge[0]) in halves):
        edges.setdefault(key, []).append((source, target))
    return {k: torch.tensor(v) for k, v in nodes.items()}, {k: torch.tensor(v) for k, v in edges.items()}


def certificate(found: Minimiser) -> dict[str, Any]:
    """The losses that the last round, which took nothing, has measured."""
    nodes, edges = as_tensors(found.state)
    losses = found.state.losses
    assert found.state.verdict is not None
    return {
        "target_loss": found.target,
        "loss": found.state.verdict.loss,
        "nodes": {key: [losses[key, i] for i in indices.tolist()] for key, indices in nodes.items()},
        "edges": {key: [losses[key, s, t] for s, t in pairs.tolist()] for key, pairs in edges.items()},
    }
