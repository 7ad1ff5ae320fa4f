"""The paths that decide a circuit's answer, by rule: from the embedding to the answer, the widest first.

A path begins at a read that no write of the circuit feeds, and ends with a write to the final residual stream. It goes
along edges, from a query or a key to the writes that its head's values make, and from a write to later reads of its
residual channel. Each step is as wide as its effect towards the right answer is large (``pipeline.explain.carried``);
one from a write to a read as the smaller of both; a path as its narrowest step. Then its width is taken from each of
its steps, and the next widest follows. A path goes only through nodes that the story of the circuit names, so that
the drawing shows what the sentences say.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pipeline.circuit import Circuit
from pipeline.circuit.graph import Node, Subgraph, ends, reads
from pipeline.explain.carried import ByKey, Carried
from pipeline.explain.channels import Channels, writes
from pipeline.sites import SITES, Site, node_name, split_site_key

MOST_PATHS = 6
LEAST_SHARE = 0.25  # of the widest path's width, for another one to be told
ANSWER: Node = ("answer", 0)  # where all paths end

PathStep = tuple[Node, Node]


def deciding_paths(
    circuit: Circuit, found: Carried, d_head: int, within: Collection[str] | None = None
) -> list[list[str]]:
    """Names of the nodes of each path, in forward order, all of them ``within`` those (None: any); none where no step
    moves the answer the right way."""
    width, paths, first = steps(circuit, found, d_head), list[list[str]](), 0.0
    if within is not None:
        width = {step: w for step, w in width.items() if all(n == ANSWER or node_name(*n) in within for n in step)}
    nodes = Subgraph(circuit.nodes, circuit.edges).list_nodes()
    channels = Channels(nodes)
    starts = {node for node in nodes if reads(node) and not channels.writers(node)}
    while len(paths) < MOST_PATHS:
        path, wide = widest(width, starts)
        first = first or wide
        if wide <= LEAST_SHARE * first:
            break
        for step in zip(path, path[1:], strict=False):
            width[step] -= wide
        paths.append([node_name(*node) for node in path if node != ANSWER])
    return paths


def steps(circuit: Circuit, found: Carried, d_head: int) -> dict[PathStep, float]:
    """Step → width, of all that are wider than 0."""
    parts = Subgraph(circuit.nodes, circuit.edges)
    effect = of_nodes(circuit, found.nodes)
    width = dict[PathStep, float]()
    numbers = (number for key in circuit.edges for number in found.effects[key].tolist())
    for edge, number in zip(parts.list_edges(), numbers, strict=True):
        width[ends(edge)] = number
    width |= {step: effect[step[0]] for step in in_heads(parts, d_head)}
    width |= {step: min(effect[step[0]], effect[step[1]]) for step in along_channels(parts)}
    direct = of_nodes(circuit, found.direct)
    width |= {(node, ANSWER): number for node, number in direct.items()}
    return {step: number for step, number in width.items() if number > 0}


def of_nodes(circuit: Circuit, numbers: ByKey) -> dict[Node, float]:
    """Node → number, at the sites that have numbers."""
    return {
        (key, index): number
        for key, row in numbers.items()
        for index, number in zip(circuit.nodes[key].tolist(), row.tolist(), strict=True)
    }


def in_heads(parts: Subgraph, d_head: int) -> Iterator[PathStep]:
    """From each query and key channel to what its head's values write."""
    written: dict[tuple[int, int], set[Node]] = {}
    for source, target in map(ends, parts.list_edges()):
        layer, site = split_site_key(source[0])
        if site is Site.ATTN_V:
            written.setdefault((layer, source[1] // d_head), set()).add(target)
    for node in parts.list_nodes():
        layer, site = split_site_key(node[0])
        if site.partner is not None:
            yield from ((node, target) for target in sorted(written.get((layer, node[1] // d_head), ())))


def along_channels(parts: Subgraph) -> Iterator[PathStep]:
    """From each write to all later reads of its residual channel."""
    nodes = parts.list_nodes()
    channels = Channels(nodes)
    for node in nodes:
        if writes(node):
            yield from ((node, read) for read in channels.readers(node))


def widest(width: dict[PathStep, float], starts: set[Node]) -> tuple[list[Node], float]:
    """The path from a start to the answer whose narrowest step is widest, and that width; 0 where there is none."""
    best: dict[Node, tuple[float, Node | None]] = {node: (float("inf"), None) for node in starts}
    for (source, target), wide in sorted(width.items(), key=lambda step: _rank(step[0][0])):
        reached = min(best[source][0], wide) if source in best else 0.0
        if reached > best.get(target, (0.0, None))[0]:
            best[target] = reached, source
    if ANSWER not in best:
        return [], 0.0
    path, node = [ANSWER], best[ANSWER][1]
    while node is not None:
        path, node = [*path, node], best[node][1]
    return path[::-1], best[ANSWER][0]


def _rank(node: Node) -> tuple[int, int, int]:
    """The order of the forward pass."""
    layer, site = split_site_key(node[0])
    return layer, SITES.index(site), node[1]
