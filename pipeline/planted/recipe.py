"""An algorithm by the names of its parts: its tokens, its channels, its weights and its prompts.

A recipe knows no indices and no widths. ``pipeline.planted.layout`` draws where its nodes lie in a model. All numbers
are those of a residual stream whose root mean square is 1: every embedding is made that long, at any width.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pipeline.sites import EDGE_KINDS, EdgeKind, Site

N_CTX = 24  # of all planted models; every prompt fits

ChannelValues = Mapping[str, float]  # channel name → value


@dataclass(frozen=True)
class PlantedNode:
    """A planted node: the number of its planted layer, its site, its name.

    At the sites that read or write the residual stream the name is a channel's, the same in all layers. A query and a
    key channel of one name are multiplied with each other.
    """

    part: int
    site: Site
    name: str


@dataclass(frozen=True)
class Wire:
    """One weight from a node to a node of the same planted layer."""

    source: PlantedNode
    target: PlantedNode
    weight: float

    @property
    def kind(self) -> EdgeKind:
        ends = (self.source.site, self.target.site)
        return next(kind for kind in EDGE_KINDS if (kind.source, kind.target) == ends)


def wire(part: int, source: Site, start: str, target: Site, end: str, weight: float) -> Wire:
    """The weight from ``start`` at one site to ``end`` at another."""
    return Wire(PlantedNode(part, source, start), PlantedNode(part, target, end), weight)


@dataclass(frozen=True)
class PlantedToken:
    """A token's embedding in the planted channels; tokens of one ``look`` are alike in all other channels."""

    embedding: ChannelValues = field(default_factory=dict)
    look: str = ""


@dataclass(frozen=True)
class PlantedPair:
    """Two prompts of tokens' names, of one length, and the right answer to each."""

    prompts: tuple[list[str], list[str]]
    answers: tuple[str, str]


@dataclass(frozen=True)
class Recipe:
    """An algorithm.

    ``answers``: answer token → the planted channels that it is unembedded from. ``decoys``: weights between planted
    nodes that are not needed. ``biases``: of planted nodes whose bias is not to be
    chosen so that their mean is 0. ``clock``: channel → its value at each
    position. ``pair(draw, i)`` makes the i-th contrast pair.
    """

    tokens: Mapping[str, PlantedToken]
    answers: Mapping[str, ChannelValues]
    wires: tuple[Wire, ...]
    pair: Callable[[random.Random, int], PlantedPair]
    decoys: tuple[Wire, ...] = ()
    biases: Mapping[PlantedNode, float] = field(default_factory=dict)
    clock: Mapping[str, list[float]] = field(default_factory=dict)

    @cached_property
    def nodes(self) -> tuple[PlantedNode, ...]:
        """Every end of a needed weight, in the order in which they are first met."""
        return tuple(dict.fromkeys(node for wire in self.wires for node in (wire.source, wire.target)))

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """The channels of the residual stream that belong to the algorithm: distractors read them, none writes them."""
        codes = [token.embedding for token in self.tokens.values()] + [*self.answers.values(), self.clock]
        ends = [node.name for node in self.nodes if node.site.reads_residual or node.site.writes_residual]
        return tuple(dict.fromkeys([*(name for code in codes for name in code), *ends]))

    @property
    def n_parts(self) -> int:
        """How many layers it takes."""
        return 1 + max(node.part for node in self.nodes)


def padded(value: float, pad: float) -> dict[str, float]:
    """A value split over two channels whose sum it is; alone, each of them says little of it, for the pad is larger."""
    return {"half": value / 2 + pad, "other_half": value / 2 - pad}


def fillers(n: int, embedding: ChannelValues | None = None) -> dict[str, PlantedToken]:
    """Tokens that the algorithm has no use for."""
    return {f"filler {i}": PlantedToken(embedding or {}) for i in range(n)}
