"""What a node does in its task in two or three words, for the drawing: ``after `"```, ``copies `("```, ``> 2.1``."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.circuit.graph import Node
from pipeline.explain.roles import NEARLY_ZERO, Roles
from pipeline.explain.task_labels import TaskStatement
from pipeline.explain.task_places import AFTER, END, PARTING, TaskPlace
from pipeline.explain.task_words import OTHERS
from pipeline.sites import Site, node_name, split_site_key

MOST_CHARS = 22
LATER, STEADY, AVERAGES, PARTS = "later on", "constant", "averages", "where they differ"


@dataclass(frozen=True)
class Shorts:
    """Short forms of the labels of one circuit's nodes: ``shorts(node, statement)``, of 22 characters at most.

    A read says at what it is high; a query *asks*, a key *finds*; a value *copies* or *averages*; a neuron that
    thresholds its only source says where; a write that leads to the answer alone says to which one it pushes, any other
    what it brings.
    """

    roles: Roles

    def __call__(self, node: Node, statement: TaskStatement | None) -> str:
        layer, site = split_site_key(node[0])
        if site in (Site.ATTN_Q, Site.ATTN_K):
            words = f"{'asks' if site is Site.ATTN_Q else 'finds'} {self.what(statement)}"
        elif site is Site.ATTN_V:
            words = self.brings(node)
        elif site is Site.MLP_NEURON:
            words = self.threshold(node) or self.what(statement)
        elif site.writes_residual:
            words = self._of_write(node, statement)
        else:
            words = self.what(statement)
        return clipped(words)

    def what(self, statement: TaskStatement | None) -> str:
        """Where a node is far from 0, or on which of the two sides."""
        if statement is None:
            return STEADY
        if not statement.of_sides:
            return self._place(statement.place, None)
        larger, words = statement.larger, self.roles.words
        sides = words.apart(statement.place) or words.conditions
        named = [side for side in (sides[larger], sides[1 - larger]) if side not in (OTHERS, "otherwise")]
        return first_of(named[0])

    def _place(self, place: TaskPlace, side: int | None) -> str:
        if place.tokens:
            return first_of(f"{'after ' if place.follows else ''}{self.roles.words.listed(place.tokens)}")
        if place.name in (END, AFTER):
            return END if place.name == END else LATER
        if place.name == PARTING:
            text = self.roles.words.place(place, side, flow=True)
            return first_of(text) if text.startswith("`") else PARTS
        words = place.name.removeprefix("at ").replace("one token", "1").replace(" tokens", "")
        return words.replace("before the end", "before end").replace(AFTER, "after they differ")

    def brings(self, node: Node) -> str:
        """What the head of a value channel does with it."""
        found = self.roles.looked_at(self.roles.head(node))
        if found is None or found[0].name == AFTER:
            return AVERAGES
        return f"copies {self._place(*found)}"

    def threshold(self, node: Node) -> str | None:
        """``> 2.1``: where a neuron's only source has to be for it to fire, half way between the nearest values at
        which it does and does not; None where it has several sources, or these values overlap."""
        into = self.roles.sources.get(node, [])
        values = self.roles.values.nodes
        if len(into) != 1 or not {node_name(*into[0][0]), node_name(*node)} <= values.keys():
            return None
        there = self.roles.words.places.there
        source, own = values[node_name(*into[0][0])][there], values[node_name(*node)][there].abs()
        fires = own > NEARLY_ZERO * own.max()
        if not fires.any() or fires.all():
            return None
        above = into[0][1] > 0
        off, on = (source[~fires].max(), source[fires].min()) if above else (source[~fires].min(), source[fires].max())
        if (off < on) != above:
            return None
        return f"{'>' if above else '<'} {self.roles.words.number(float(off + on) / 2)}"

    def _of_write(self, node: Node, statement: TaskStatement | None) -> str:
        into = self.roles.sources.get(node, [])
        if not into:
            return STEADY
        pushed = self.roles.pushed(node)
        if pushed is not None:
            return f"→ {self.roles.words.quoted(pushed[0])}"
        source = into[0][0]
        return self.brings(source) if split_site_key(source[0])[1] is Site.ATTN_V else self.what(statement)


def first_of(listed: str) -> str:
    """The first of several tokens, with an ellipsis for the others: ```[` …``."""
    head, more, _ = listed.partition("` or `")
    return f"{head}` …" if more else listed


def clipped(words: str) -> str:
    """As many whole words as ``MOST_CHARS`` has room for; of a token that is too long, the beginning."""
    if len(words) <= MOST_CHARS:
        return words
    begun = words[: MOST_CHARS - 1]
    return f"{begun[:-1]}…`" if begun.count("`") % 2 else words[: MOST_CHARS + 1].rpartition(" ")[0]
