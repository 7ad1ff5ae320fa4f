"""Is every part of a circuit needed: Shi et al.'s test (arXiv 2410.13032, §3), of nodes as well as of edges.

δ of a node or edge: the mean over pairs of how far the margin moves (|logits|, uncalibrated) when it is taken away; of
several ablations that the circuit was made for, under that where it moves most. It is compared with δ of random
additions: a random edge of the complement is added to the circuit, with a path through it from a read of the residual
stream to a write, and taken away again. Null hypothesis for each node or edge: it matters more than an addition with
probability at least ``QUANTILE``. Rejected, it is shown not to be needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import binom, false_discovery_control
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.graph import Edge, Item, Node, Subgraph, by_key, ends, half_of, leads, reads, sites_of, together
from pipeline.circuit.random_circuits import Complement, picked
from pipeline.prune.evaluator import Executor, Run, over_draws
from pipeline.validate.circuit_under_test import CircuitUnderTest, margins
from pipeline.validate.limits import QUANTILE

N_REFERENCES = 100  # random additions of each kind, as in Shi et al.; p of a part that matters less than all: 1e-100
MAX_TESTED = 200  # edges, and nodes, that are tested; of more, as many at random
LARGE_CIRCUIT = 1000  # edges, from which circuits are not minimised, and a run takes long
MAX_OF_LARGE = 25  # nodes, edges, and additions of each kind, of a circuit so large

Addition = tuple[Item, list[Item]]  # a node or edge, and all that is added with it


def minimality(tested: CircuitUnderTest) -> dict[str, Any]:
    """``p``, Bonferroni-corrected over all nodes and edges tested, and for ``nodes`` and ``edges`` what was found.

    ``p`` None: nothing to test. Each kind: ``n``, ``n_tested``, ``parts`` (name, ``delta`` in logits, ``p`` and
    ``p_needed``, both uncorrected), ``references`` (δ of the additions), ``n_not_needed`` (those shown not to be:
    Bonferroni at ``alpha``), ``n_not_shown_needed`` (the burden of proof turned round: those that Benjamini–Hochberg at
    ``alpha`` does not find to matter more than additions do).
    """
    knockouts = Knockouts(tested)
    parts, additions = knockouts.whole.parts, knockouts.additions
    of_nodes = knockouts.kind(parts.list_nodes(), additions.node)
    kinds = {"nodes": of_nodes, "edges": knockouts.kind(parts.list_edges(), additions.edge)}
    n = sum(len(found["parts"]) for found in kinds.values())
    p = [part["p"] for found in kinds.values() for part in found["parts"]]
    for found in kinds.values():
        correct(found, n, tested.config.alpha)
    return {"p": min(1.0, n * min(p)) if p else None, "quantile": QUANTILE, "n_pairs": tested.few.n_pairs} | kinds


def correct(found: dict[str, Any], n: int, alpha: float) -> None:
    """Count the nodes, or edges, that are not needed; ``n`` nodes and edges were tested in all."""
    parts = found["parts"]
    needed = false_discovery_control([part["p_needed"] for part in parts]) if parts else []
    found["n_not_needed"] = sum(n * part["p"] <= alpha for part in parts)
    found["n_not_shown_needed"] = sum(bool(p > alpha) for p in needed)


@dataclass(frozen=True)
class Ran:
    """A circuit that has been run: its nodes and edges, all that the next run can take over, and the margins, mean over
    an ablation's draws."""

    parts: Subgraph
    run: Run
    margins: Float[Tensor, "ablation pair"]


class Knockouts:
    """Runs a circuit without single nodes or edges and with random additions; only the half layers that changed are
    computed again."""

    def __init__(self, tested: CircuitUnderTest) -> None:
        self.tested, self.ablations = tested, asked_under(tested.circuit)
        self.executor = Executor.of(tested.few, tested.model.on_cpu(), self.ablations)
        parts = Subgraph(tested.circuit.nodes, tested.circuit.edges)
        self.generator = tested.generator("minimality")
        self.whole = self.ran(parts, self.executor.ready(parts), 0)
        self.additions = Additions(tested.complement, self.generator)
        large = parts.n_edges > LARGE_CIRCUIT
        self.max_tested, self.n_references = (MAX_OF_LARGE,) * 2 if large else (MAX_TESTED, N_REFERENCES)

    def ran(self, parts: Subgraph, run: Run, first: int) -> Ran:
        """The circuit from the ``first`` half layer on; ``run`` has what is before it."""
        return Ran(parts, run, over_draws(margins(self.executor.answers(run, first)), self.ablations))

    def changed(self, before: Ran, parts: Subgraph, halves: set[int]) -> Ran:
        """A circuit that differs from an earlier one in some half layers."""
        if not halves:
            return before
        return self.ran(parts, self.executor.ready(parts, before.run, halves), min(halves))

    def delta(self, whole: Ran, item: Item) -> float:
        """How far a node or edge moves the margin of a pair, in logits; a node goes with its edges."""
        less, halves = whole.parts.without([item])
        return float((self.changed(whole, less, halves).margins - whole.margins).abs().mean(1).max())

    def kind(self, items: Sequence[Any], addition: Callable[[Any], Addition | None]) -> dict[str, Any]:
        """The items tested and the references; ``addition``: for an item, one of the same site or kind to add."""
        if not items:
            return {"n": 0, "n_tested": 0, "parts": [], "references": []}
        chosen = picked(torch.arange(len(items)), self.max_tested, self.generator).sort().values
        likes = torch.randint(len(items), (self.n_references,), generator=self.generator)
        drawn = [addition(items[i]) for i in likes.tolist()]
        references = torch.tensor([self.reference(*found) for found in drawn if found])
        parts = [self.part(items[i], references) for i in chosen.tolist()] if len(references) else []
        return {"n": len(items), "n_tested": len(parts), "parts": parts, "references": references.tolist()}

    def reference(self, item: Item, path: Sequence[Item]) -> float:
        """δ of an item that was added together with a path through it."""
        more = plus(self.whole.parts, path)
        return self.delta(self.changed(self.whole, more, {half_of(part[0]) for part in path}), item)

    def part(self, item: Item, references: Float[Tensor, " n"]) -> dict[str, Any]:
        """``p``: of so few references under δ, where at least QUANTILE are; ``p_needed``: of δ among references."""
        delta = self.delta(self.whole, item)
        n, under = len(references), int((references < delta).sum())
        name = ".".join(map(str, item)) if len(item) == 2 else f"{item[0]}:{item[1]}->{item[2]}"
        needed = (1 + n - under) / (1 + n)
        return {"name": name, "delta": delta, "p": float(binom.cdf(under, n, QUANTILE)), "p_needed": needed}


def asked_under(circuit: Circuit) -> tuple[AblationValues, ...]:
    """A circuit's ablations; the mean as well where all of them take values from the pair's prompts, which show nothing
    of a part that both prompts have in common."""
    own = circuit.all_ablations
    return own if any(not each.kind.varies for each in own) else (*own, AblationValues.at_means(circuit.means))


class Additions:
    """Random nodes and edges of a circuit's complement, each with all that it takes to matter to the circuit."""

    def __init__(self, complement: Complement, generator: torch.Generator) -> None:
        self.complement, self.generator = complement, generator
        self.inside = set(Subgraph(complement.circuit.nodes, complement.circuit.edges).list_items())
        self.outside = {key: mask == 0 for key, mask in complement.circuit.node_masks().items()}

    def edge(self, like: Edge) -> Addition | None:
        """An edge of the same kind as one of the circuit's, and the path added with it; None where there is none."""
        edge = self.pick(like[0], self.complement.edges[like[0]])
        return edge and (edge, self.path(edge))

    def node(self, like: Node) -> Addition | None:
        """A node of the same site as one of the circuit's that some edge of the model ends in, and its path."""
        edge = self.pick_ending(like[0], self.outside[like[0]])
        return edge and (ends(edge)[sites_of(edge[0]).index(like[0])], self.path(edge))

    def path(self, edge: Edge) -> list[Item]:
        """All that is to be added for an edge to be on a path from a read to a write."""
        path: list[Item] = [edge]
        for end, forward in zip(ends(edge), (False, True), strict=True):
            self.extend(path, end, forward)
        return [item for item in path if item not in self.inside]

    def extend(self, path: list[Item], node: Node, forward: bool) -> None:
        """Go on from a node to a write or back to a read by random edges; a query takes its key along, and so on."""
        if node in path:
            return
        path.append(node)
        for other in together(node, tie_qk=True)[1:]:
            self.extend(path, (other[0], other[1]), forward=False)
        if node in self.inside or (leads(node) if forward else reads(node)):
            return
        end = 0 if forward else 1
        here = torch.arange(len(self.outside[node[0]])) == node[1]
        if edge := self.pick_ending(node[0], here, (end,)):
            path.append(edge)
            self.extend(path, ends(edge)[1 - end], forward)

    def pick_ending(self, site: str, nodes: Bool[Tensor, " node"], which: Sequence[int] = (0, 1)) -> Edge | None:
        """A random edge, of a random kind, with one of some nodes of a site as its source (0) or its target (1)."""
        pools = [
            (key, pairs[nodes[pairs[:, end]]])
            for key, pairs in self.complement.edges.items()
            for end in which
            if sites_of(key)[end] == site
        ]
        pools = [(key, pairs) for key, pairs in pools if len(pairs)]
        return self.pick(*pools[self.below(len(pools))]) if pools else None

    def pick(self, key: str, pairs: Int[Tensor, "n 2"]) -> Edge | None:
        """A random one of some edges of a kind; None where there is none."""
        return (key, *pairs[self.below(len(pairs))].tolist()) if len(pairs) else None

    def below(self, n: int) -> int:
        return int(torch.randint(n, (1,), generator=self.generator))


def plus(parts: Subgraph, items: Sequence[Item]) -> Subgraph:
    """A circuit with some nodes and edges more, that it does not have; sorted as a ``Circuit``'s."""
    merged: dict[str, dict[str, Tensor]] = {"nodes": dict(parts.nodes), "edges": dict(parts.edges)}
    for key, rows in by_key(items).items():
        kind = merged["edges" if "->" in key else "nodes"]
        kind[key] = torch.cat([kind[key], rows]).unique(dim=0) if key in kind else rows.unique(dim=0)
    return Subgraph(merged["nodes"], merged["edges"])
