"""Is every part of a circuit needed: Shi et al.'s test (arXiv 2410.13032, §3), of nodes as well as of edges.

δ of a part: the mean over pairs of how far the margin moves (|logits|, uncalibrated) when the part is taken away. It is
compared with δ of parts that are random additions: a random edge of the model is added to the circuit, with what makes
it a path from a read of the residual stream to a write, and taken away again. Null hypothesis for each part: it matters
more than an addition with probability at least ``QUANTILE``. Rejected, the part is shown not to be needed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from scipy.stats import binom, false_discovery_control
from torch import Tensor

from pipeline.circuit.compact import Compact, Trace
from pipeline.circuit.graph import Edge, Item, Node, Parts, by_key, ends, half_of, leads, reads, sites_of
from pipeline.circuit.random_circuits import nonzero_edges
from pipeline.model.layout import PackedPrompts
from pipeline.model.transformer import Transformer
from pipeline.sites import Site, edge_keys, site_key, split_site_key
from pipeline.validate.circuit_under_test import CircuitUnderTest, margins

QUANTILE = 0.9  # q* of Shi et al.
REFERENCES = 100  # random additions of each kind, as in Shi et al.; p of a part that matters less than all: 1e-100
MOST = 200  # edges, and nodes, that are tested; of more, so many at random
LARGE = 4000  # edges, from which a run takes as long as the model's
MOST_OF_LARGE = 25  # parts, and additions, of a circuit so large
TRIES = 50  # draws for an addition that is not in the circuit


def minimality(tested: CircuitUnderTest) -> dict[str, Any]:
    """``p``, Bonferroni-corrected over all parts tested, and for ``nodes`` and ``edges`` what was found of each kind.

    ``p`` None: nothing to test. Each kind: ``n``, ``n_tested``, ``parts`` (name, ``delta`` in logits, ``p`` and
    ``p_needed``, both uncorrected), ``references`` (δ of the additions), ``n_not_needed`` (those shown not to be:
    Bonferroni at ``alpha``), ``n_not_shown_needed`` (the burden of proof turned round: those that Benjamini–Hochberg at
    ``alpha`` does not find to matter more than additions do).
    """
    knockouts = Knockouts(tested)
    kinds = {"nodes": knockouts.nodes(), "edges": knockouts.edges()}
    n = sum(len(found["parts"]) for found in kinds.values())
    p = [part["p"] for found in kinds.values() for part in found["parts"]]
    for found in kinds.values():
        correct(found, n, tested.config.alpha)
    return {"p": min(1.0, n * min(p)) if p else None, "quantile": QUANTILE, "n_pairs": tested.few.n_pairs} | kinds


def correct(found: dict[str, Any], n: int, alpha: float) -> None:
    """Count the parts of a kind that are not needed, of ``n`` parts tested in all."""
    parts = found["parts"]
    needed = false_discovery_control([part["p_needed"] for part in parts]) if parts else []
    found["n_not_needed"] = sum(n * part["p"] <= alpha for part in parts)
    found["n_not_shown_needed"] = sum(bool(p > alpha) for p in needed)


@dataclass(frozen=True)
class Ran:
    """A circuit that has been run: its parts, what the next run can take over, and the margins, mean over draws."""

    parts: Parts
    compacts: Sequence[Compact]
    traces: Sequence[Trace]
    margins: Float[Tensor, " pair"]


class Knockouts:
    """Runs a circuit without single parts and with random additions; only what changed is computed again."""

    def __init__(self, tested: CircuitUnderTest) -> None:
        self.tested, self.batch = tested, tested.few.to(torch.device("cpu"))
        self.prompts = PackedPrompts.of(self.batch.tokens, self.batch.last)
        parts = Parts(tested.circuit.nodes, tested.circuit.edges)
        self.draw = random.Random(int(torch.randint(2**31, (1,), generator=tested.generator("minimality"))))
        compacts = [Compact(frozen, parts.nodes, parts.edges) for frozen in tested.ablator.frozen]
        self.whole = self.run(parts, compacts, [Trace() for _ in compacts], 0)
        self.additions = Additions(tested.ablator.frozen[0].model, parts, self.draw)
        large = parts.n_edges > LARGE
        self.most, self.n_references = (MOST_OF_LARGE, MOST_OF_LARGE) if large else (MOST, REFERENCES)

    def run(self, parts: Parts, compacts: Sequence[Compact], traces: Sequence[Trace], first: int) -> Ran:
        """The circuit from the ``first`` half layer on, whose past is in ``traces``."""
        every = zip(compacts, traces, strict=True)
        answers = [compact.answers(self.prompts, self.batch.answers, trace, first) for compact, trace in every]
        return Ran(parts, compacts, traces, margins(torch.stack(answers).mean(0)))

    def changed(self, before: Ran, parts: Parts, halves: set[int]) -> Ran:
        """A circuit that differs from an earlier one in some half layers."""
        if not halves:
            return before
        compacts = [compact.with_halves(halves, parts.nodes, parts.edges) for compact in before.compacts]
        return self.run(parts, compacts, [trace.prefix(min(halves)) for trace in before.traces], min(halves))

    def delta(self, whole: Ran, item: Item) -> float:
        """How far a part moves the margin of a pair, in logits; a node goes with its edges."""
        less, halves = whole.parts.without([item])
        return float((self.changed(whole, less, halves).margins - whole.margins).abs().mean())

    def nodes(self) -> dict[str, Any]:
        return self.kind(self.whole.parts.list_nodes(), self.additions.node)

    def edges(self) -> dict[str, Any]:
        return self.kind(self.whole.parts.list_edges(), self.additions.edge)

    def kind(self, items: Sequence[Any], addition: Any) -> dict[str, Any]:
        """The parts tested and the references; ``addition(part)``: a part to add, of the same site or kind, or None."""
        tested = items if len(items) <= self.most else self.draw.sample(items, self.most)
        drawn = [addition(self.draw.choice(items)) for _ in range(self.n_references if items else 0)]
        references = torch.tensor([self.reference(found) for found in drawn if found])
        parts = [self.part(item, references) for item in tested] if len(references) else []
        return {"n": len(items), "n_tested": len(parts), "parts": parts, "references": references.tolist()}

    def reference(self, addition: tuple[Item, list[Item]]) -> float:
        """δ of a part that was added together with a path through it."""
        item, path = addition
        more = plus(self.whole.parts, path)
        return self.delta(self.changed(self.whole, more, {half_of(part[0]) for part in path}), item)

    def part(self, item: Item, references: Float[Tensor, " n"]) -> dict[str, Any]:
        """``p``: of so few references under δ, where at least QUANTILE are; ``p_needed``: of δ among references."""
        delta = self.delta(self.whole, item)
        n, under = len(references), int((references < delta).sum())
        name = ".".join(map(str, item)) if len(item) == 2 else f"{item[0]}:{item[1]}->{item[2]}"
        needed = (1 + n - under) / (1 + n)
        return {"name": name, "delta": delta, "p": float(binom.cdf(under, n, QUANTILE)), "p_needed": needed}


class Additions:
    """Random parts of a model that its circuit does not have."""

    def __init__(self, model: Transformer, parts: Parts, draw: random.Random) -> None:
        self.model, self.parts, self.draw = model, parts, draw
        self.inside: set[Item] = set(parts.list_items())
        self.keys = edge_keys(model.config.n_layer)

    @cached_property
    def present(self) -> dict[str, Tensor]:
        """Edge key → all edges of the model [n, 2]."""
        return {key: nonzero_edges(self.model, key) for key in self.keys}

    def edge(self, like: Edge) -> tuple[Item, list[Item]] | None:
        """An edge of the same kind as one of the circuit's, and the path added with it."""
        for _ in range(TRIES):
            edge = self.pick(like[0])
            if edge and edge not in self.inside:
                return edge, self.path(edge)
        return None

    def node(self, like: Node) -> tuple[Item, list[Item]] | None:
        """A node of the same site as one of the circuit's that some edge of the model ends in, and its path."""
        keys = [key for key in self.keys if like[0] in sites_of(key)]
        for _ in range(TRIES):
            edge = self.pick(self.draw.choice(keys))
            if edge and (node := ends(edge)[sites_of(edge[0]).index(like[0])]) not in self.inside:
                return node, self.path(edge)
        return None

    def path(self, edge: Edge) -> list[Item]:
        """What is to be added for an edge to be on a path from a read to a write, that the circuit does not have."""
        path: list[Item] = [edge]
        for end, forward in zip(ends(edge), (False, True), strict=True):
            self.extend(path, end, forward)
        return [item for item in path if item not in self.inside]

    def extend(self, path: list[Item], node: Node, forward: bool) -> None:
        """Go on from a node to a write or back to a read by random edges; a query takes its key along, and so on."""
        if node in path:
            return
        path.append(node)
        layer, site = split_site_key(node[0])
        if site in (Site.ATTN_Q, Site.ATTN_K):
            other = Site.ATTN_K if site is Site.ATTN_Q else Site.ATTN_Q
            self.extend(path, (site_key(layer, other), node[1]), forward=False)
        if node in self.inside or (leads(node) if forward else reads(node)):
            return
        end = 0 if forward else 1
        key = self.draw.choice([key for key in self.keys if sites_of(key)[end] == node[0]])
        if edge := self.pick(key, end, node[1]):
            path.append(edge)
            self.extend(path, ends(edge)[1 - end], forward)

    def pick(self, key: str, end: int | None = None, index: int = 0) -> Edge | None:
        """A random edge of a kind, or one of those that begin (0) or end (1) in a node; None where there is none."""
        rows = self.present[key]
        rows = rows if end is None else rows[rows[:, end] == index]
        return (key, *rows[self.draw.randrange(len(rows))].tolist()) if len(rows) else None


def plus(parts: Parts, items: Sequence[Item]) -> Parts:
    """A circuit with some nodes and edges more, that it does not have; sorted as a ``Circuit``'s."""
    merged: dict[str, dict[str, Tensor]] = {"nodes": dict(parts.nodes), "edges": dict(parts.edges)}
    for key, rows in by_key(items).items():
        kind = merged["edges" if "->" in key else "nodes"]
        kind[key] = torch.cat([kind[key], rows]).unique(dim=0) if key in kind else rows.unique(dim=0)
    return Parts(merged["nodes"], merged["edges"])
