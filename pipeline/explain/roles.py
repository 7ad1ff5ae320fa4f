"""The role of each node of a circuit in its flow, by rule: from its edges, its head's looks, its values.

A node that reads the residual stream *embeds* or *passes on*; a query or a key *detects*; a value and what is written
from it is *copied* from one place or *averaged*; a neuron *thresholds*, *inverts* or *detects*; a write that nothing in
the circuit reads any more *pushes* an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from pipeline.circuit import Circuit
from pipeline.circuit.graph import Node, Subgraph, ends
from pipeline.circuit.interventions import edge_weights
from pipeline.explain.channels import Channels
from pipeline.explain.task_labels import TaskStatement
from pipeline.explain.task_places import AFTER, TaskPlace
from pipeline.explain.task_values import Head, Look, TaskValues
from pipeline.explain.task_words import TaskWords
from pipeline.model.transformer import Transformer
from pipeline.sites import Site, node_name, split_site_key

ONE_PLACE = 0.5  # share of a head's look on one place from which it copies
NO_LOOK = 1e-9  # weight on all tokens, below which a head looks nowhere
NEARLY_ALL = 0.9  # of the larger mean, from which a write is as far from 0 on both sides
NEARLY_ZERO = 0.1  # of the larger mean, below which a neuron is off
MOST_NAMED = 2  # sources that a role names


@dataclass(frozen=True)
class Roles:
    """Roles of the nodes of one circuit of a model: ``roles(name, statement)``."""

    circuit: Circuit
    model: Transformer
    values: TaskValues
    words: TaskWords

    @cached_property
    def sources(self) -> dict[Node, list[tuple[Node, float]]]:
        """Node → the nodes of the circuit with an edge to it, and its weight; the most moving first."""
        found: dict[Node, list[tuple[Node, float]]] = {}
        weights = {key: edge_weights(self.model, key) for key in self.circuit.edges}
        for edge in Subgraph(self.circuit.nodes, self.circuit.edges).list_edges():
            source, target = ends(edge)
            found.setdefault(target, []).append((source, float(weights[edge[0]][edge[2], edge[1]])))
        return {node: sorted(into, key=lambda each: -self._spread(*each)) for node, into in found.items()}

    def _spread(self, source: Node, weight: float) -> float:
        values = self.values.nodes.get(node_name(*source))  # of a large circuit, not of all nodes
        return abs(weight) * float(values.std()) if values is not None else 0.0

    @cached_property
    def channels(self) -> Channels:
        return Channels(Subgraph(self.circuit.nodes, self.circuit.edges).list_nodes())

    def __call__(self, node: Node, statement: TaskStatement | None) -> str:
        site = split_site_key(node[0])[1]
        if site.reads_residual:
            return self._of_read(node)
        if site in (Site.ATTN_Q, Site.ATTN_K):
            return f"detects, as {'query' if site is Site.ATTN_Q else 'key'} of head {spoken(self.head(node))}"
        if site is Site.ATTN_V:
            return self.flow(self.head(node))
        if site is Site.MLP_NEURON:
            return self._of_neuron(node, statement)
        return ", ".join(part for part in (self._brought(node), self._of_write(node)) if part)

    def head(self, node: Node) -> Head:
        return split_site_key(node[0])[0], node[1] // self.model.config.d_head

    def flow(self, head: Head) -> str:
        """``copies from `("` to the end (head 0.8)``."""
        return f"{self.way(head)} (head {spoken(head)})"

    def way(self, head: Head) -> str:
        """``copies from `("` to the end``."""
        look, found = self.values.looks[head], self.looked_at(head)
        if found is None:
            return f"averages{self._whereto(look, 'at')} over the prompt"
        return self._from(*found, look)

    def looked_at(self, head: Head) -> tuple[TaskPlace, int | None] | None:
        """The place that most of a head's look is on, and the side whose prompts it is so for (None: both); None where
        it is on no one place."""
        look = self.values.looks[head]
        shares = [[self._share(look, place, side) for side in (0, 1)] for place in self.places]
        n = max(range(len(shares)), key=lambda i: max(shares[i]))
        if max(shares[n]) < ONE_PLACE:
            return None
        return self.places[n], None if min(shares[n]) >= ONE_PLACE else shares[n].index(max(shares[n]))

    def _from(self, place: TaskPlace, side: int | None, look: Look) -> str:
        """The way from one place, where prompts of this side have it (None: of both)."""
        if place.name == AFTER:
            return f"averages{self._whereto(look, 'at')} over everything {AFTER}"
        return f"copies from {self.words.place(place, side, flow=True)}{self._whereto(look, 'to')}"

    @property
    def places(self) -> list[TaskPlace]:
        return self.words.places.named

    def _share(self, look: Look, place: TaskPlace, side: int) -> float:
        """The share of a head's look, its sink aside, that lies on a place: the mean over the prompts of a side."""
        weights, mask = look.weights[self.words.sides[side]], place.mask[self.words.sides[side]]
        return float(((weights * mask).sum(1) / weights.sum(1).clamp(min=NO_LOOK)).mean())

    def _whereto(self, look: Look, how: str) -> str:
        at_end = float((look.query == self.values.batch.last).float().mean())
        return f" {how} the end" if at_end >= ONE_PLACE else ""

    def _of_read(self, node: Node) -> str:
        writers = [node_name(*each) for each in self.channels.writers(node)]
        return f"passes on {named(writers)}" if writers else "embeds"

    def _brought(self, node: Node) -> str:
        """The way by which a write came to its place: through the head that moves it most, or from neurons."""
        into = self.sources.get(node, [])
        if not into:
            return "is constant"
        source = into[0][0]
        if split_site_key(source[0])[1] is Site.ATTN_V:
            return self.flow(self.head(source))
        return f"passes on {named([node_name(*each) for each, _ in into])}"

    def _of_write(self, node: Node) -> str:
        """```pushes `+=` after `""```: which answer a write that leads to the answer alone speaks for, and when."""
        pushed = self.pushed(node)
        if pushed is None:
            return ""
        answer, side = pushed
        if side is None:
            when = "on both prompts"
        elif self.words.after:
            when = self.words.when(side)
        else:
            when = f"where it is {'right' if answer == self.words.answers[side] else 'wrong'}"
        return f"pushes {self.words.quoted(answer)} {when}"

    def pushed(self, node: Node) -> tuple[int, int | None] | None:
        """The answer that a write pushes at the end where it is farther from 0, and the side that it is so on (None: as
        far on both); None where something in the circuit reads it later."""
        if self.channels.readers(node):
            return None
        rows = torch.arange(len(self.values.batch.last))
        values, slopes = (
            of[node_name(*node)][rows, self.values.batch.last] for of in (self.values.nodes, self.values.slopes)
        )
        means = [float(values[side].mean()) for side in self.words.sides]
        side = int(abs(means[1]) > abs(means[0]))
        right = means[side] * float(slopes[self.words.sides[side]].mean()) > 0  # the right answer's logit rises
        both = means[0] * means[1] > 0 and abs(means[1 - side]) >= NEARLY_ALL * abs(means[side])
        return self.words.answers[side if right else 1 - side], None if both else side

    def _of_neuron(self, node: Node, statement: TaskStatement | None) -> str:
        into = self.sources.get(node, [])
        if not into:
            return "is constant"
        source, weight = into[0]
        low, high = sorted(map(abs, statement.means)) if statement else (1.0, 1.0)
        what = "thresholds" if low <= NEARLY_ZERO * high else "inverts" if weight < 0 else "detects"
        inverted = " (inverted)" if weight < 0 and what == "thresholds" else ""
        return f"{what} {named([node_name(*source)])}{inverted}"


def named(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def spoken(head: Head) -> str:
    """``0.8``: layer and number."""
    return f"{head[0]}.{head[1]}"
