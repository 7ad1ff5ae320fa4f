"""The places of a circuit's nodes in its picture: rows are sites in forward order, columns are residual channels.

A layered layout (Sugiyama's, of the library grandalf). A residual channel is one vertical line through all rows, so the
picture is folded along the residual stream: one rank has the channels, the other has the neurons and the heads, each
head as a whole, and the library orders both ranks for few crossings. Neurons and heads then
stand as near as their widths allow to the mean of their channels (isotonic regression).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
from grandalf.graphs import Edge, Vertex, graph_core
from grandalf.layouts import SugiyamaLayout, VertexViewer
from networkx.utils import reverse_cuthill_mckee_ordering

from pipeline.circuit import Circuit
from pipeline.circuit.graph import Node, Subgraph, ends, reads
from pipeline.sites import Site, site_key, split_site_key

HEADS, NEURONS = "q · k · v", "neurons"  # labels of two kinds of row
ROWS = (
    ("attention in", (Site.ATTN_IN,)),
    (HEADS, (Site.ATTN_Q, Site.ATTN_K, Site.ATTN_V)),
    ("attention out", (Site.ATTN_OUT,)),
    ("MLP in", (Site.MLP_IN,)),
    (NEURONS, (Site.MLP_NEURON,)),
    ("MLP out", (Site.MLP_OUT,)),
)
ROW_HEIGHT = 68
LAYER_GAP = 26  # more between the rows of two layers
COLUMN_WIDTH = 30  # of one node, where the picture may grow
MIN_WIDTH, MAX_WIDTH = 420, 1800  # between the first and the last column
LEFT, RIGHT, TOP, BOTTOM = 120, 84, 130, 144  # the ends' tokens stand above and below, words right of their nodes
BESIDE_HEAD = 0.7  # room on both sides of a head together, in columns
ROUNDS = (2, 8)  # of the library's ordering
EDGES_TO_ORDER = 10_000  # rounds × edges: a dense circuit takes seconds a round, and has nothing to gain from a second

GroupId = tuple[int, str, int]  # layer, "head" or "neuron", number
VertexName = int | GroupId  # a residual channel, or a group that reads and writes channels
Spot = tuple[float, float]
Start = Callable[[nx.Graph], Iterable[int]]

# The library's sweeps start from the order of the indices, and from an order of small bandwidth, in which neighbours
# are near each other (reverse Cuthill–McKee).
STARTS: tuple[Start, ...] = (sorted, reverse_cuthill_mckee_ordering)


@dataclass(frozen=True)
class HeadBox:
    """The part of a row in which one head's channels stand."""

    layer: int
    head: int
    left: float
    right: float
    y: int


@dataclass(frozen=True)
class LayoutRow:
    """A row that has nodes."""

    layer: int
    label: str
    y: int


@dataclass(frozen=True)
class GraphLayout:
    """Coordinates in pixels, y downwards: the forward pass goes upwards."""

    width: int
    height: int
    rows: tuple[LayoutRow, ...]
    spots: Mapping[Node, Spot]  # in forward order
    channels: Mapping[int, float]  # residual channel → x
    heads: tuple[HeadBox, ...]
    pitch: float  # least distance between nodes of a row


@dataclass(frozen=True)
class DrawnCircuit:
    """A circuit as its picture has it: ``rows`` of (layer, label, nodes), the first of the forward pass first.

    ``members``: group (a head, or one neuron) → its nodes, a head's in the order q, k, v; ``links``: node of a group →
    the residual channels that it reads and writes; ``channels``: those that have a node, ascending.
    """

    rows: list[tuple[int, str, list[Node]]]
    members: dict[GroupId, list[Node]]
    links: Mapping[Node, list[int]]
    channels: list[int]

    @classmethod
    def of(cls, circuit: Circuit, d_head: int) -> DrawnCircuit:
        rows = list(_rows(circuit))
        members: dict[GroupId, list[Node]] = defaultdict(list)
        channels = set()
        for layer, label, nodes in rows:
            for key, index in nodes:
                if label == HEADS:
                    members[layer, "head", index // d_head].append((key, index))
                elif label == NEURONS:
                    members[layer, "neuron", index].append((key, index))
                else:
                    channels.add(index)
        return cls(rows, dict(members), _links(circuit), sorted(channels))

    def mean_x(self, nodes: Sequence[Node], x_of: Mapping[int, float], otherwise: float) -> float:
        """The mean place of all channels that the nodes read and write; ``otherwise`` for none."""
        near = [x_of[channel] for node in nodes for channel in self.links.get(node, ())]
        return sum(near) / len(near) if near else otherwise


def lay_out(circuit: Circuit, d_head: int) -> GraphLayout:
    """A place for every node of the circuit, equal for equal circuits. ``d_head``: channels of one head.

    The library's sweeps end in a local optimum, so there are several tries; the one with the fewest crossings is kept.
    """
    parts = DrawnCircuit.of(circuit, d_head)
    tries = (_lay_out(parts, start, rounds) for start in STARTS for rounds in ROUNDS)
    return min(tries, key=lambda found: count_crossings(circuit, found))


def _lay_out(parts: DrawnCircuit, start: Start, most_rounds: int) -> GraphLayout:
    channels, groups = order_ranks(parts, start, most_rounds)
    inner, pitch = _room(parts)
    x_of = dict(zip(channels, np.linspace(LEFT, LEFT + inner, len(channels) + 2)[1:-1].tolist(), strict=True))
    placed: dict[Node, float] = {}
    for layer, kind in {(layer, kind): None for layer, kind, _ in groups}:
        row = [group for group in groups if group[:2] == (layer, kind)]
        placed |= _place_row(parts, row, x_of, (LEFT, LEFT + inner), pitch)
    return _assemble(parts, x_of, placed, inner, pitch)


def edge_ends(circuit: Circuit) -> list[tuple[Node, Node]]:
    """Source and target of every edge, in the circuit's order."""
    return [ends(edge) for edge in Subgraph(circuit.nodes, circuit.edges).list_edges()]


def count_crossings(circuit: Circuit, layout: GraphLayout) -> int:
    """Pairs of edges between the same two rows that cross."""
    gaps: dict[tuple[float, float], list[Spot]] = defaultdict(list)  # heights of two rows → x at either end
    for source, target in edge_ends(circuit):
        (x, y), (to_x, to_y) = layout.spots[source], layout.spots[target]
        gaps[y, to_y].append((x, to_x))
    n = 0
    for lines in gaps.values():
        seen: list[float] = []
        for _, x in sorted(lines):
            n += len(seen) - bisect_right(seen, x)
            insort(seen, x)
    return n


def _assemble(
    parts: DrawnCircuit, x_of: Mapping[int, float], placed: Mapping[Node, float], inner: int, pitch: float
) -> GraphLayout:
    """The layout from the x of everything: rows from the bottom to the top, boxes around heads."""
    rows = parts.rows
    n_gaps = max(rows[-1][0] - rows[0][0], 0) if rows else 0
    height = TOP + BOTTOM + ROW_HEIGHT * max(len(rows) - 1, 0) + LAYER_GAP * n_gaps
    spots: dict[Node, Spot] = {}
    labels = []
    for rank, (layer, label, nodes) in enumerate(rows):
        y = height - BOTTOM - ROW_HEIGHT * rank - LAYER_GAP * (layer - rows[0][0])
        labels.append(LayoutRow(layer, label, y))
        spots |= {(key, index): (placed.get((key, index), x_of.get(index, 0.0)), y) for key, index in nodes}
    boxes = tuple(_boxes(parts, spots, pitch))
    return GraphLayout(LEFT + inner + RIGHT, height, tuple(labels), spots, x_of, boxes, pitch)


def _boxes(parts: DrawnCircuit, spots: Mapping[Node, Spot], pitch: float) -> Iterator[HeadBox]:
    margin = pitch * 0.5
    for (layer, kind, number), nodes in sorted(parts.members.items()):
        if kind == "head":
            xs = [spots[node][0] for node in nodes]
            yield HeadBox(layer, number, min(xs) - margin, max(xs) + margin, int(spots[nodes[0]][1]))


def _rows(circuit: Circuit) -> Iterator[tuple[int, str, list[Node]]]:
    """Rows that have nodes, first of the forward pass first."""
    n_layer = 1 + max((split_site_key(key)[0] for key in circuit.nodes), default=-1)
    for layer in range(n_layer):
        for label, sites in ROWS:
            keys = [site_key(layer, site) for site in sites]
            nodes = [(key, int(index)) for key in keys if key in circuit.nodes for index in circuit.nodes[key]]
            if nodes:
                yield layer, label, nodes


def _links(circuit: Circuit) -> dict[Node, list[int]]:
    """Node of a head or neuron → the residual channels that it reads and writes."""
    near: dict[Node, list[int]] = defaultdict(list)
    for source, target in edge_ends(circuit):
        inner, channel = (target, source) if reads(source) else (source, target)
        near[inner].append(channel[1])
    return near


def order_ranks(parts: DrawnCircuit, start: Start, most_rounds: int) -> tuple[list[int], list[GroupId]]:
    """Residual channels and groups, each from left to right, with few crossings of the lines between them.

    Connected parts stand side by side, the largest first; channels and groups without an edge come last.
    """
    names: list[VertexName] = [*parts.channels, *parts.members]
    number = {name: n for n, name in enumerate(names)}  # integers, so that the order of sets is always the same
    graph = nx.Graph()
    graph.add_nodes_from(range(len(names)))
    for group, nodes in parts.members.items():
        graph.add_edges_from(
            (number[channel], number[group]) for node in nodes for channel in parts.links.get(node, ())
        )
    rounds = min(max(EDGES_TO_ORDER // max(graph.number_of_edges(), 1), 1), most_rounds)
    connected = sorted(nx.connected_components(graph), key=lambda part: (-len(part), min(part)))
    order = [
        names[n] for part in connected for n in _order_part(graph.subgraph(part), len(parts.channels), start, rounds)
    ]
    return [name for name in order if isinstance(name, int)], [name for name in order if not isinstance(name, int)]


def _order_part(part: nx.Graph, n_channels: int, start: Start, rounds: int) -> list[int]:
    """Numbers of one connected part, channels (those below ``n_channels``) first, in the library's order."""
    if part.number_of_edges() == 0:
        return sorted(part)
    layout = _layered(part, [n for n in start(part) if n < n_channels])
    for _ in range(rounds):
        for _ in layout.ordering_step():
            pass
    return [vertex.data for rank in layout.layers for vertex in rank]


def _layered(part: nx.Graph, channels: Sequence[int]) -> SugiyamaLayout:
    """The library's layout of a connected part before its first sweep: channels below, in the given order."""
    vertices = {n: Vertex(n) for n in sorted(part)}
    for vertex in vertices.values():
        vertex.view = VertexViewer()
    edges = [Edge(vertices[low], vertices[high]) for low, high in sorted(tuple(sorted(ends)) for ends in part.edges)]
    # Not grandalf's Graph: it goes through sets of vertices, whose order changes from one run to the next.
    layout = SugiyamaLayout(graph_core(list(vertices.values()), edges))
    layout.init_all(roots=[vertices[n] for n in channels], inverted_edges=[])
    return layout


def _room(parts: DrawnCircuit) -> tuple[int, float]:
    """Width between the margins, and the least distance between nodes: as the widest row needs, within limits."""
    heads: dict[int, int] = defaultdict(int)
    for layer, kind, _ in parts.members:
        heads[layer] += kind == "head"
    needs = [len(nodes) + (BESIDE_HEAD * heads[layer] if label == HEADS else 0) for layer, label, nodes in parts.rows]
    columns = max([*needs, len(parts.channels) + 1, 1])
    inner = min(max(round(columns * COLUMN_WIDTH), MIN_WIDTH), MAX_WIDTH)
    return inner, min(COLUMN_WIDTH, inner / columns)


def _place_row(
    parts: DrawnCircuit, row: Sequence[GroupId], x_of: Mapping[int, float], bounds: tuple[float, float], pitch: float
) -> dict[Node, float]:
    """Node → x for the heads or the neurons of one layer, near their channels and in the library's order."""
    low, high = bounds
    inside = {group: _order_members(parts, group, x_of) for group in row}
    sizes = [(len(inside[group]) + BESIDE_HEAD * (group[1] == "head")) * pitch for group in row]
    wishes = [parts.mean_x(inside[group], x_of, (low + high) / 2) for group in row]
    places: dict[Node, float] = {}
    for group, middle in zip(row, spread(wishes, sizes, low, high), strict=True):
        first = middle - pitch * (len(inside[group]) - 1) / 2
        places |= {node: first + rank * pitch for rank, node in enumerate(inside[group])}
    return places


def _order_members(parts: DrawnCircuit, group: GroupId, x_of: Mapping[int, float]) -> list[Node]:
    """Nodes of one head: q, k, v beside each other, each by the mean of its channels."""
    nodes = parts.members[group]
    sites = list(dict.fromkeys(key for key, _ in nodes))
    return sorted(nodes, key=lambda node: (sites.index(node[0]), parts.mean_x([node], x_of, 0), node[1]))


def spread(wished: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Middles of intervals of given sizes, in the given order, without overlap, within low and high, and as near as
    possible (least squares) to those wished. Sizes that are together too large for the room shrink alike.

    Isotonic regression by pooling adjacent violators, on wishes from which the least distances are subtracted.
    """
    fit = min(1.0, (high - low) / (sum(sizes) or 1.0))
    offsets = [fit * (sum(sizes[:rank]) + size / 2) for rank, size in enumerate(sizes)]
    pools: list[tuple[float, int]] = []  # mean, how many
    for wish, offset in zip(wished, offsets, strict=True):
        pools.append((wish - offset, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (mean, n), (other, more) = pools[-2:]
            pools[-2:] = [((mean * n + other * more) / (n + more), n + more)]
    ceiling = high - fit * sum(sizes)
    flat = [min(max(mean, low), max(ceiling, low)) for mean, n in pools for _ in range(n)]
    return [place + offset for place, offset in zip(flat, offsets, strict=True)]
