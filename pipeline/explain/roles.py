"""The role of each node of a circuit in its flow, by rule: from its edges, its head's looks, its values.

A node that reads the residual stream *embeds* or *passes on*; a query or a key *detects*; a value and what is written
from it is *copied* from one place or *averaged*; a neuron *thresholds*, *inverts* or *detects*; a write that nothing in
the circuit reads any more *pushes* an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.graph import Node, Subgraph, ends
from pipeline.circuit.heads import kept_heads
from pipeline.circuit.interventions import edge_weights
from pipeline.explain.channels import Channels
from pipeline.explain.task_labels import TaskStatement
from pipeline.explain.task_places import AFTER, TaskPlace
from pipeline.explain.task_values import Head, Look, TaskValues
from pipeline.explain.task_words import TaskWords
from pipeline.explain.words import grouped, heads_in_words, percent, spoken
from pipeline.model.transformer import Transformer
from pipeline.sites import Site, node_name, site_key, split_site_key

ONE_PLACE = 0.5  # share of a head's look, or of what it brings, from which one place is told
NO_LOOK = 1e-9  # weight on all tokens, below which a head looks nowhere
NEARLY_ALL = 0.9  # of the larger mean, from which a write is as far from 0 on both sides; of all that a head brings
NEARLY_ZERO = 0.1  # of the larger mean, below which a neuron is off
MOST_NAMED = 2  # sources, and heads, that a role names


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
        """How far an edge moves its target: by the standard deviation of what it brings, of a value channel of what its
        head looks at."""
        values = self.values.nodes.get(node_name(*source))  # of a large circuit, not of all nodes
        if values is None:
            return 0.0
        if split_site_key(source[0])[1] is Site.ATTN_V:
            values = (self.values.looks[self.head(source)].weights * values).sum(1)
        return abs(weight) * float(values.std())

    @cached_property
    def channels(self) -> Channels:
        return Channels(Subgraph(self.circuit.nodes, self.circuit.edges).list_nodes())

    def __call__(self, node: Node, statement: TaskStatement | None) -> str:
        site = split_site_key(node[0])[1]
        if site.reads_residual:
            return self._of_read(node)
        if site is Site.ATTN_Q:
            return f"detects, as query of head {spoken(self.head(node))}"
        if site is Site.ATTN_K:
            return f"detects, as key of head {spoken(self.head(node))}{self._pull(node, statement)}"
        if site is Site.ATTN_V:
            return self.flow([self.head(node)])
        if site is Site.MLP_NEURON:
            return self._of_neuron(node, statement)
        return ", ".join(part for part in (self._brought(node), self._of_write(node)) if part)

    def head(self, node: Node) -> Head:
        return split_site_key(node[0])[0], node[1] // self.model.config.d_head

    def _pull(self, key: Node, statement: TaskStatement | None) -> str:
        """Whether a key draws its head there where it is far from 0, by the sign of its product with the query."""
        if statement is None:
            return ""
        query = site_key(split_site_key(key[0])[0], Site.ATTN_Q)
        asked = self.values.nodes.get(node_name(query, key[1]))
        if asked is None:
            mean = float(self.circuit.constant_ablation.first[query][key[1]])
        else:
            at = self.values.looks[self.head(key)].query
            mean = float(asked.gather(1, at[:, None]).mean())
        return ": draws attention" if mean * statement.means[statement.larger] > 0 else ": repels attention"

    def flow(self, heads: Sequence[Head]) -> str:
        """``copies from `("` to the end (head 0.8)``; heads of several ways one after the other."""
        ways = grouped(heads, self.way)
        return ", ".join(f"{way}{self.mostly(some[0])} ({heads_in_words(some)})" for way, some in ways.items())

    def way(self, head: Head) -> str:
        """``copies from `("` to the end``."""
        look, found = self.values.looks[head], self.looked_at(head)
        if found is None:
            return f"averages{self._whereto(look, 'at')} over the prompt"
        return self._from(*found, look)

    def looked_at(self, head: Head) -> tuple[TaskPlace, int | None] | None:
        """The place that most of a head's look is on, or nearly all that it brings is from, and the side whose prompts
        it is so for (None: both); None where it is no one place."""
        return self._looked_at[head]

    @cached_property
    def _looked_at(self) -> Mapping[Head, tuple[TaskPlace, int | None] | None]:
        return {head: self._place_of(head) for head in self.values.looks}

    def _place_of(self, head: Head) -> tuple[TaskPlace, int | None] | None:
        found = self._most(self.places, self.values.looks[head], ONE_PLACE)
        if found is not None and found[0].name != AFTER:
            return found
        return self._most(self._sources_of(head), self._brings[head], NEARLY_ALL) or found

    def _most(self, places: Sequence[TaskPlace], look: Look, least: float) -> tuple[TaskPlace, int | None] | None:
        """The place with the largest share of a look, of at least so much, and its side (None: both)."""
        shares = [[self._share(look, place, side) for side in (0, 1)] for place in places]
        n = max(range(len(shares)), key=lambda i: max(shares[i]))
        if max(shares[n]) < least:
            return None
        return places[n], None if min(shares[n]) >= least else shares[n].index(max(shares[n]))

    def _sources_of(self, head: Head) -> list[TaskPlace]:
        """Places that a head may bring something from: those with a name, and the token that it brings most from."""
        tokens = self.values.batch.tokens
        best = int(torch.bincount(tokens.flatten(), weights=self._brings[head].weights.double().flatten()).argmax())
        return [place for place in self.places if place.name != AFTER] + [TaskPlace("at", tokens == best, (best,))]

    def mostly(self, head: Head) -> str:
        """``, 85 % of what it brings from `,```: of a head that averages, the place that most of that is from."""
        found = self.looked_at(head)
        if found is not None and found[0].name != AFTER:
            return ""
        brings = self._brings[head]
        most = self._most(self._sources_of(head), brings, ONE_PLACE)
        if most is None:
            return ""
        share = max(self._share(brings, most[0], side) for side in (0, 1))
        return f", {percent(share)} of what it brings from {self.words.place(*most, flow=True)}"

    @cached_property
    def _brings(self) -> Mapping[Head, Look]:
        """What each head brings from each token: its weight there times the magnitudes of its kept values."""
        found = {}
        for head, look in self.values.looks.items():
            kept = kept_heads(self.circuit, head[0], self.model.config.d_head)[head[1]]["v"]
            values = (self.values.nodes.get(node_name(site_key(head[0], Site.ATTN_V), index)) for index in kept)
            large = sum(value.abs() for value in values if value is not None)
            found[head] = Look(look.weights * large, look.query)
        return found

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
        """The way by which a write came to its place: through the heads that move it most, or from neurons."""
        into = self.sources.get(node, [])
        if not into:
            return "is constant"
        if split_site_key(into[0][0][0])[1] is Site.ATTN_V:
            heads = dict.fromkeys(self.head(source) for source, _ in into)
            return self.flow(list(heads)[:MOST_NAMED])
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
        means, slopes = ([float(x[side].mean()) for side in self.words.sides] for x in self._at_end(node_name(*node)))
        side = int(abs(means[1]) > abs(means[0]))
        right = means[side] * slopes[side] > 0  # the right answer's logit rises
        both = means[0] * means[1] > 0 and abs(means[1 - side]) >= NEARLY_ALL * abs(means[side])
        return self.words.answers[side if right else 1 - side], None if both else side

    def pushes(self, name: str) -> list[float]:
        """How far a write pushes the right answer at the end, to first order, in logits: the mean on each side."""
        values, slopes = self._at_end(name)
        return [float((values * slopes)[side].mean()) for side in self.words.sides]

    def _at_end(self, name: str) -> Iterator[Float[Tensor, " prompt"]]:
        """A node's values at the end of the prompts, and the slopes of the answer by them."""
        rows = torch.arange(len(self.values.batch.last))
        return (of[name][rows, self.values.batch.last] for of in (self.values.nodes, self.values.slopes))

    def _of_neuron(self, node: Node, statement: TaskStatement | None) -> str:
        into = self.sources.get(node, [])
        if not into:
            return "is constant"
        source, weight = into[0]
        low, high = sorted(map(abs, statement.means)) if statement else (1.0, 1.0)
        name = named([node_name(*source)])
        if low <= NEARLY_ZERO * high:
            return f"thresholds {name}" if weight > 0 else f"fires where {name} is low"
        return f"{'inverts' if weight < 0 else 'detects'} {name}"


def named(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
