"""Which nodes of a circuit meet on a channel of the residual stream: its writers and its later readers."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.circuit.graph import Node, half_of, reads
from pipeline.sites import split_site_key


class Channels:
    """The nodes of a circuit by the residual channel that they read or write."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._reading: dict[int, list[Node]] = {}
        self._writing: dict[int, list[Node]] = {}
        for node in sorted(nodes):
            for on, ends in ((self._reading, reads(node)), (self._writing, writes(node))):
                if ends:
                    on.setdefault(node[1], []).append(node)

    def writers(self, node: Node) -> list[Node]:
        """Those that write to the channel that a node reads before it does; none: it reads tokens alone."""
        return [other for other in self._writing.get(node[1], ()) if half_of(other[0]) < half_of(node[0])]

    def readers(self, node: Node) -> list[Node]:
        """Those that read the channel that a node writes after it does."""
        return [other for other in self._reading.get(node[1], ()) if half_of(other[0]) > half_of(node[0])]


def writes(node: Node) -> bool:
    """Whether a node writes into the residual stream."""
    return split_site_key(node[0])[1].writes_residual
