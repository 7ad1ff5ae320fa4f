"""Where the nodes of a circuit go in its picture: rows are sites in forward order, columns are residual channels.

A layered layout. Residual channels are vertical lines, ordered by the Fiedler vector of the graph (spectral ordering:
connected channels come to lie side by side). Heads' channels and neurons go as near as a least distance allows to the
mean of the channels they read and write (isotonic regression).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np

from pipeline.circuit import Circuit
from pipeline.sites import Site, split_edge_key, split_site_key

RESIDUAL_SITES = (Site.ATTN_IN, Site.ATTN_OUT, Site.MLP_IN, Site.MLP_OUT)
WRITES = (Site.ATTN_OUT, Site.MLP_OUT)
ROWS = (
    ("attention reads", (Site.ATTN_IN,)),
    ("q · k · v", (Site.ATTN_Q, Site.ATTN_K, Site.ATTN_V)),
    ("attention writes", (Site.ATTN_OUT,)),
    ("MLP reads", (Site.MLP_IN,)),
    ("neurons", (Site.MLP_NEURON,)),
    ("MLP writes", (Site.MLP_OUT,)),
)
ROW_HEIGHT = 64
COLUMN_WIDTH = 30  # of one node, where the picture may grow
MIN_WIDTH, MAX_WIDTH = 420, 1500  # between the first and the last column
LEFT, RIGHT, TOP, BOTTOM = 132, 24, 56, 22

NodeId = tuple[str, int]  # site key, index
Spot = tuple[float, float]


@dataclass(frozen=True)
class Layout:
    """Coordinates in pixels, y downwards: the forward pass goes upwards."""

    width: int
    height: int
    rows: tuple[tuple[str, int], ...]  # label and y of each row that has nodes
    spots: dict[NodeId, Spot]
    channels: dict[int, float]  # residual channel → x
    pitch: float  # least distance between nodes of a row


def lay_out(circuit: Circuit) -> Layout:
    """A place for every node of the circuit, equal for equal circuits."""
    rows = _rows(circuit)
    widest = max((len(nodes) for _, nodes in rows), default=1)
    channels = order_channels(circuit)
    n_columns = max(widest, len(channels), 1)
    inner = min(max(n_columns * COLUMN_WIDTH, MIN_WIDTH), MAX_WIDTH)
    pitch = min(COLUMN_WIDTH, inner / n_columns)
    columns = np.linspace(LEFT, LEFT + inner, max(len(channels), 1) + 2)[1:-1]
    x_of = {channel: float(x) for channel, x in zip(channels, columns, strict=False)}
    height = TOP + BOTTOM + ROW_HEIGHT * max(len(rows), 1)
    spots: dict[NodeId, Spot] = {}
    labels = []
    for rank, (label, nodes) in enumerate(rows):
        y = height - BOTTOM - ROW_HEIGHT * rank - ROW_HEIGHT // 2
        labels.append((label, y))
        spots |= {node: (x, y) for node, x in _row_places(circuit, nodes, x_of, pitch, inner).items()}
    return Layout(LEFT + inner + RIGHT, height, tuple(labels), spots, x_of, pitch)


def _rows(circuit: Circuit) -> list[tuple[str, list[NodeId]]]:
    """Rows that have nodes, first of the forward pass first."""
    n_layer = 1 + max((split_site_key(key)[0] for key in circuit.nodes), default=-1)
    rows = []
    for layer in range(n_layer):
        for name, sites in ROWS:
            keys = [f"{layer}.{site.value}" for site in sites]
            nodes = [(key, int(index)) for key in keys if key in circuit.nodes for index in circuit.nodes[key]]
            if nodes:
                rows.append((f"{layer} {name}", nodes))
    return rows


def order_channels(circuit: Circuit) -> list[int]:
    """The circuit's residual channels, left to right: spectral ordering of channels and what they connect to."""
    graph = nx.Graph()
    number: dict[NodeId, int] = {}  # the vertices are integers, so that the order of sets is the same in every process
    for node in _merged_nodes(circuit):
        number.setdefault(node, len(number))
    graph.add_nodes_from(range(len(number)))
    for source, target in _merged_edges(circuit):
        graph.add_edge(number[source], number[target])
    node_of = list(number)
    order: list[int] = []
    for component in sorted(nx.connected_components(graph), key=lambda part: (-len(part), min(part))):
        order += _fiedler_order(graph.subgraph(component), sorted(component))
    return [node_of[vertex][1] for vertex in order if node_of[vertex][0] == "residual"]


def _fiedler_order(graph: nx.Graph, vertices: list[int]) -> list[int]:
    """Vertices of one connected graph by their entry in the second eigenvector of the normalised Laplacian."""
    if len(vertices) < 3:
        return vertices
    adjacency = nx.to_numpy_array(graph, nodelist=vertices)
    scale = adjacency.sum(0) ** -0.5
    _, vectors = np.linalg.eigh(-scale[:, None] * adjacency * scale)
    fiedler = np.round(vectors[:, 1] * scale, 9)
    if fiedler[np.abs(fiedler).argmax()] < 0:  # an eigenvector's sign is arbitrary
        fiedler = -fiedler
    return [vertices[i] for i in np.argsort(fiedler, kind="stable")]


def _merge(key: str, index: int) -> NodeId:
    """All sites of one residual channel are one vertex."""
    return ("residual", index) if split_site_key(key)[1] in RESIDUAL_SITES else (key, index)


def _merged_nodes(circuit: Circuit) -> list[NodeId]:
    return [_merge(key, int(index)) for key, indices in circuit.nodes.items() for index in indices]


def _merged_edges(circuit: Circuit) -> list[tuple[NodeId, NodeId]]:
    pairs = []
    for key, ends in circuit.edges.items():
        layer, kind = split_edge_key(key)
        source, target = f"{layer}.{kind.source.value}", f"{layer}.{kind.target.value}"
        pairs += [(_merge(source, int(a)), _merge(target, int(b))) for a, b in ends.tolist()]
    return pairs


def _row_places(
    circuit: Circuit, nodes: list[NodeId], x_of: dict[int, float], pitch: float, inner: int
) -> dict[NodeId, float]:
    """Node → x for one row: residual sites on their channel, others near the channels they connect to."""
    if split_site_key(nodes[0][0])[1] in RESIDUAL_SITES:
        return {node: x_of[node[1]] for node in nodes}
    wished = _wishes(circuit, nodes, x_of, LEFT + inner / 2)
    order = sorted(nodes, key=lambda node: (wished[node], node))
    return dict(zip(order, spread([wished[node] for node in order], pitch, LEFT, LEFT + inner), strict=True))


def _wishes(circuit: Circuit, nodes: list[NodeId], x_of: dict[int, float], middle: float) -> dict[NodeId, float]:
    """Mean x of the residual channels that each node reads or writes; the middle where there is none."""
    near: dict[NodeId, list[float]] = defaultdict(list)
    for source, target in _merged_edges(circuit):
        if source[0] == "residual":
            near[target].append(x_of[source[1]])
        else:
            near[source].append(x_of[target[1]])
    return {node: sum(near[node]) / len(near[node]) if near[node] else middle for node in nodes}


def spread(wished: Sequence[float], pitch: float, low: float, high: float) -> list[float]:
    """Places as near as possible (least squares) to ascending wishes, ``pitch`` apart, within low and high.

    Isotonic regression by pooling adjacent violators, on wishes from which the least distances are subtracted.
    """
    pitch = min(pitch, (high - low) / max(len(wished) - 1, 1))
    pools: list[tuple[float, int]] = []  # mean, size
    for rank, wish in enumerate(wished):
        pools.append((wish - rank * pitch, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (mean, size), (other, more) = pools[-2:]
            pools[-2:] = [((mean * size + other * more) / (size + more), size + more)]
    ceiling = high - (len(wished) - 1) * pitch
    flat = [min(max(mean, low), ceiling) for mean, size in pools for _ in range(size)]
    return [place + rank * pitch for rank, place in enumerate(flat)]
