"""A circuit in a few kilobytes, for a card of the gallery: its picture made small, its nodes as dots."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.drawing import edge_curve, node_kinds, sign_of, strengths
from pipeline.report.picture import Picture
from pipeline.report.templating import render

WIDTH, HEIGHT, MARGIN = 240, 120, 8  # pixels
MOST_EDGES = 90  # the strongest of a larger circuit
STRONG = 0.5  # share of the largest weight of its kind from which an edge is drawn thick


def thumbnail(picture: Picture, *, label: str) -> str:
    """An SVG element of a picture without words: nodes as dots in the colour of their kind, edges by sign and strength.

    A circuit of more than MOST_EDGES edges shows its strongest ones and the nodes at their ends. ``label``: for those
    who hear the page.
    """
    places, edges, strength = _places(picture), picture["edges"], strengths(picture)
    shown = sorted(range(len(strength)), key=strength.__getitem__)[-MOST_EDGES:]  # the strongest last
    lines: dict[str, str] = {}
    for edge in shown:
        look = f"{sign_of(edges['weight'][edge])} {'strong' if strength[edge] >= STRONG else 'faint'}"
        path = edge_curve(*places[edges["source"][edge]], *places[edges["target"][edge]])
        lines[look] = lines.get(look, "") + path
    ends = {edges[end][edge] for edge in shown for end in ("source", "target")}
    every = len(shown) == len(edges["weight"])
    dots: dict[str, str] = {}
    for node, kind in enumerate(node_kinds(picture)):
        if every or node in ends:
            dots[kind] = dots.get(kind, "") + "M{} {}h0".format(*places[node])
    shapes = {"lines": sorted(lines.items()), "dots": sorted(dots.items()), "label": label}
    return render("thumbnail.svg.j2", width=WIDTH, height=HEIGHT, shapes=shapes)


def _places(picture: Picture) -> list[tuple[int, int]]:
    """Of every node x and y, in whole pixels, such that the circuit fills the drawing."""
    nodes = picture["nodes"]
    return list(zip(_fitted(nodes["x"], WIDTH), _fitted(nodes["y"], HEIGHT), strict=True))


def _fitted(values: Sequence[int], size: int) -> list[int]:
    """The values moved and scaled to lie between the margins of a ``size``; equal ones in its middle."""
    low, high = min(values), max(values)
    if low == high:
        return [size // 2] * len(values)
    return [round(MARGIN + (value - low) / (high - low) * (size - 2 * MARGIN)) for value in values]
