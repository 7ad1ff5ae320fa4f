"""Where the nodes of a circuit go in its picture: rows are sites in forward order, columns are residual channels.

A layered layout (Sugiyama's, of the library grandalf). A residual channel is one vertical line through all rows, so the
picture is folded along the residual stream for it: one rank holds the channels, the other all that reads and writes
them (neurons, and each head as a whole), and the library orders both ranks for few crossings. Neurons and heads then
stand as near as their widths allow to the mean of their channels (isotonic regression).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import networkx as nx
import numpy as np
from grandalf.graphs import Edge, Graph, Vertex
from grandalf.layouts import SugiyamaLayout, VertexViewer
from networkx.utils import reverse_cuthill_mckee_ordering

from pipeline.circuit import Circuit
from pipeline.sites import Site, split_edge_key, split_site_key

RESIDUAL_SITES = (Site.ATTN_IN, Site.ATTN_OUT, Site.MLP_IN, Site.MLP_OUT)
HEAD_SITES = (Site.ATTN_Q, Site.ATTN_K, Site.ATTN_V)
ROWS = (
    ("attention in", (Site.ATTN_IN,)),
    ("q · k · v", HEAD_SITES),
    ("attention out", (Site.ATTN_OUT,)),
    ("MLP in", (Site.MLP_IN,)),
    ("neurons", (Site.MLP_NEURON,)),
    ("MLP out", (Site.MLP_OUT,)),
)
ROW_HEIGHT = 68
LAYER_GAP = 26  # more between the rows of two layers
COLUMN_WIDTH = 30  # of one node, where the picture may grow
MIN_WIDTH, MAX_WIDTH = 420, 1800  # between the first and the last column
LEFT, RIGHT, TOP, BOTTOM = 120, 28, 130, 136  # the ends' tokens stand above and below
BESIDE_HEAD = 0.7  # room on both sides of a head together, in columns
MOST_ROUNDS = 8  # of the library's ordering
EDGES_TO_ORDER = 10_000  # rounds × edges: a dense circuit takes seconds a round, and has nothing to gain from a second

NodeId = tuple[str, int]  # site key, index
GroupId = tuple[int, str, int]  # layer, "head" or "neuron", number
Spot = tuple[float, float]


@dataclass(frozen=True)
class HeadBox:
    """The part of a row in which one head's channels stand."""

    layer: int
    head: int
    left: float
    right: float
    y: int


@dataclass(frozen=True)
class Row:
    """A row that has nodes."""

    layer: int
    label: str
    y: int


@dataclass(frozen=True)
class Layout:
    """Coordinates in pixels, y downwards: the forward pass goes upwards."""

    width: int
    height: int
    rows: tuple[Row, ...]
    spots: Mapping[NodeId, Spot]  # in forward order
    channels: Mapping[int, float]  # residual channel → x
    heads: tuple[HeadBox, ...]
    pitch: float  # least distance between nodes of a row


def lay_out(circuit: Circuit, d_head: int) -> Layout:
    """A place for every node of the circuit, equal for equal circuits. ``d_head``: channels of one head."""
    links = _links(circuit, d_head)
    members = _members(circuit, d_head)
    channels, groups = order_ranks(links, members, _channels(circuit))
    rows = _rows(circuit)
    inner, pitch = _room(rows, members, len(channels))
    x_of = dict(zip(channels, np.linspace(LEFT, LEFT + inner, len(channels) + 2)[1:-1].tolist(), strict=True))
    placed: dict[NodeId, float] = {}
    for layer, kind in {(layer, kind): None for layer, kind, _ in groups}:
        row = [group for group in groups if group[:2] == (layer, kind)]
        placed |= _place_row(row, members, links, x_of, (LEFT, LEFT + inner), pitch)
    return _assemble(circuit, rows, x_of, placed, inner, pitch, d_head)


def _assemble(
    circuit: Circuit,
    rows: Sequence[tuple[int, str, list[NodeId]]],
    x_of: Mapping[int, float],
    placed: Mapping[NodeId, float],
    inner: int,
    pitch: float,
    d_head: int,
) -> Layout:
    """The layout from the x of everything: rows from the bottom to the top, boxes around heads."""
    n_gaps = max(rows[-1][0] - rows[0][0], 0) if rows else 0
    height = TOP + BOTTOM + ROW_HEIGHT * max(len(rows) - 1, 0) + LAYER_GAP * n_gaps
    spots: dict[NodeId, Spot] = {}
    labels = []
    for rank, (layer, label, nodes) in enumerate(rows):
        y = height - BOTTOM - ROW_HEIGHT * rank - LAYER_GAP * (layer - rows[0][0])
        labels.append(Row(layer, label, y))
        spots |= {(key, index): (placed.get((key, index), x_of.get(index, 0.0)), y) for key, index in nodes}
    boxes = tuple(_boxes(_members(circuit, d_head), spots, pitch))
    return Layout(LEFT + inner + RIGHT, height, tuple(labels), spots, x_of, boxes, pitch)


def _boxes(members: Mapping[GroupId, list[NodeId]], spots: Mapping[NodeId, Spot], pitch: float) -> Iterable[HeadBox]:
    margin = pitch * 0.5
    for (layer, kind, number), nodes in sorted(members.items()):
        if kind == "head":
            xs = [spots[node][0] for node in nodes]
            yield HeadBox(layer, number, min(xs) - margin, max(xs) + margin, int(spots[nodes[0]][1]))


def _rows(circuit: Circuit) -> list[tuple[int, str, list[NodeId]]]:
    """Rows that have nodes, first of the forward pass first."""
    n_layer = 1 + max((split_site_key(key)[0] for key in circuit.nodes), default=-1)
    rows = []
    for layer in range(n_layer):
        for label, sites in ROWS:
            keys = [f"{layer}.{site.value}" for site in sites]
            nodes = [(key, int(index)) for key in keys if key in circuit.nodes for index in circuit.nodes[key]]
            if nodes:
                rows.append((layer, label, nodes))
    return rows


def _channels(circuit: Circuit) -> list[int]:
    """Residual channels that have a node, ascending."""
    residual = (nodes for key, nodes in circuit.nodes.items() if split_site_key(key)[1] in RESIDUAL_SITES)
    return sorted({int(index) for nodes in residual for index in nodes})


def _group(key: str, index: int, d_head: int) -> GroupId:
    """What a node moves with: its head, or a neuron by itself."""
    layer, site = split_site_key(key)
    return (layer, "head", index // d_head) if site in HEAD_SITES else (layer, "neuron", index)


def _members(circuit: Circuit, d_head: int) -> dict[GroupId, list[NodeId]]:
    """Group → its nodes, a head's in the order q, k, v."""
    members: dict[GroupId, list[NodeId]] = defaultdict(list)
    for _, _, nodes in _rows(circuit):
        for key, index in nodes:
            if split_site_key(key)[1] not in RESIDUAL_SITES:
                members[_group(key, index, d_head)].append((key, index))
    return dict(members)


def _links(circuit: Circuit, d_head: int) -> dict[NodeId, list[int]]:
    """Node of a head or neuron → the residual channels that it reads and writes."""
    near: dict[NodeId, list[int]] = defaultdict(list)
    for key, ends in circuit.edges.items():
        layer, kind = split_edge_key(key)
        for source, target in ends.tolist():
            if kind.source in RESIDUAL_SITES:
                near[f"{layer}.{kind.target.value}", target].append(source)
            else:
                near[f"{layer}.{kind.source.value}", source].append(target)
    return near


def order_ranks(
    links: Mapping[NodeId, Sequence[int]], members: Mapping[GroupId, Sequence[NodeId]], channels: Sequence[int]
) -> tuple[list[int], list[GroupId]]:
    """Residual channels and groups, each from left to right, with few crossings of the lines between them.

    Connected parts stand side by side, the largest first; what has no edge comes last.
    """
    names: list[int | GroupId] = [*channels, *members]
    vertices = {name: _vertex(name) for name in names}
    pairs = {(channel, group) for group, nodes in members.items() for node in nodes for channel in links.get(node, ())}
    edges = [Edge(vertices[channel], vertices[group]) for channel, group in sorted(pairs)]
    graph = Graph(list(vertices.values()), edges, directed=True)
    rounds = min(max(EDGES_TO_ORDER // max(len(edges), 1), 1), MOST_ROUNDS)
    order = [name for part in sorted(graph.C, key=lambda part: -part.order()) for name in _order_part(part, rounds)]
    return [name for name in order if isinstance(name, int)], [name for name in order if not isinstance(name, int)]


def _vertex(name: int | GroupId) -> Vertex:
    vertex = Vertex(name)
    vertex.view = VertexViewer()
    return vertex


def _order_part(part: Any, rounds: int) -> list[int | GroupId]:
    """Names of one connected part of the graph, in the best order that the library comes to for its two ranks.

    The sweeps end in a local optimum, so they start twice: from the order of the indices, and from an order of small
    bandwidth, in which neighbours are near each other (reverse Cuthill–McKee).
    """
    found: list[tuple[int, list[int | GroupId]]] = []
    for start in (list(part.sV), _narrow_order(part)):
        layout = SugiyamaLayout(part)
        roots = [vertex for vertex in start if isinstance(vertex.data, int)]
        layout.init_all(roots=roots or start, inverted_edges=[])
        for _ in range(rounds):
            for _ in layout.ordering_step():
                pass
            ranks = [[vertex.data for vertex in rank] for rank in layout.layers]
            found.append((count_crossings(ranks[0], ranks[-1], part), [*chain(*ranks)]))
    return min(found, key=lambda each: each[0])[1]


def _narrow_order(part: Any) -> list[Any]:
    vertices = list(part.sV)
    number = {vertex: n for n, vertex in enumerate(vertices)}
    graph = nx.Graph((number[edge.v[0]], number[edge.v[1]]) for edge in part.sE)
    graph.add_nodes_from(range(len(vertices)))
    return [vertices[n] for n in reverse_cuthill_mckee_ordering(graph)]


def count_crossings(lower: Sequence[Any], upper: Sequence[Any], part: Any) -> int:
    """Crossings of the straight lines between two ranks, given as names in their order."""
    place = {name: rank for order in (lower, upper) for rank, name in enumerate(order)}
    lines = sorted((place[edge.v[0].data], place[edge.v[1].data]) for edge in part.sE)
    seen: list[int] = []
    n = 0
    for _, end in lines:
        n += len(seen) - bisect_right(seen, end)
        insort(seen, end)
    return n


def _room(
    rows: Sequence[tuple[int, str, list[NodeId]]], members: Mapping[GroupId, Sequence[NodeId]], n_channels: int
) -> tuple[int, float]:
    """Width between the margins, and the least distance between nodes: what the widest row needs, within limits."""
    heads: dict[int, int] = defaultdict(int)
    for layer, kind, _ in members:
        heads[layer] += kind == "head"
    needs = [len(nodes) + (BESIDE_HEAD * heads[layer] if label == "q · k · v" else 0) for layer, label, nodes in rows]
    columns = max([*needs, n_channels + 1, 1])
    inner = min(max(round(columns * COLUMN_WIDTH), MIN_WIDTH), MAX_WIDTH)
    return inner, min(COLUMN_WIDTH, inner / columns)


def _place_row(
    row: Sequence[GroupId],
    members: Mapping[GroupId, Sequence[NodeId]],
    links: Mapping[NodeId, Sequence[int]],
    x_of: Mapping[int, float],
    bounds: tuple[float, float],
    pitch: float,
) -> dict[NodeId, float]:
    """Node → x for the heads or the neurons of one layer, near their channels and in the library's order."""
    low, high = bounds
    inside = {group: _order_members(members[group], links, x_of) for group in row}
    sizes = [(len(inside[group]) + BESIDE_HEAD * (group[1] == "head")) * pitch for group in row]
    wishes = [_wish([x for node in inside[group] for x in _near(node, links, x_of)], (low + high) / 2) for group in row]
    places: dict[NodeId, float] = {}
    for group, middle in zip(row, spread(wishes, sizes, low, high), strict=True):
        first = middle - pitch * (len(inside[group]) - 1) / 2
        places |= {node: first + rank * pitch for rank, node in enumerate(inside[group])}
    return places


def _near(node: NodeId, links: Mapping[NodeId, Sequence[int]], x_of: Mapping[int, float]) -> list[float]:
    return [x_of[channel] for channel in links.get(node, ())]


def _wish(near: Sequence[float], otherwise: float) -> float:
    return sum(near) / len(near) if near else otherwise


def _order_members(
    nodes: Sequence[NodeId], links: Mapping[NodeId, Sequence[int]], x_of: Mapping[int, float]
) -> list[NodeId]:
    """Nodes of one head: q, k, v beside each other, each by the mean of its channels."""
    sites = list(dict.fromkeys(key for key, _ in nodes))
    return sorted(nodes, key=lambda node: (sites.index(node[0]), _wish(_near(node, links, x_of), 0), node[1]))


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
