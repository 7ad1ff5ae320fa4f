"""Where names stand beside the marks of a chart, so that none covers a mark or another name.

Vega-Lite puts every text of a layer on the same side of its mark; here each name gets the side that is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Point = tuple[float, float]  # pixels from the chart's upper left corner
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
NameSpot = tuple[str, float, float]  # text's alignment, and its offset from the mark's middle in pixels

# In the order in which they are preferred.
SPOTS: Sequence[NameSpot] = (
    ("left", 14, -9),
    ("right", -14, 11),
    ("left", 15, 0),
    ("right", -15, 0),
    ("left", 14, 11),
    ("right", -14, -9),
    ("center", 0, -19),
    ("center", 0, 19),
)
LETTER, LINE = 6.2, 13.0  # pixels of a letter and of a line of text 11 px high
MARK = 11.0  # half the side of the largest mark
ROUNDS = 8
PREFERENCE = 1.0  # square pixels of overlap that a spot later in the list costs


def name_places(names: Sequence[str], at: Sequence[Point], size: Point) -> list[dict[str, Any]]:
    """For each name beside the mark ``at`` a point: {"align", "dx", "dy"}, as Vega's text marks take them.

    Each name in turn takes the spot where it covers least, the others as they stand, until none moves. ``size``: the
    chart's width and height in pixels; a name outside of it counts as covering.
    """
    marks = [(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in at]
    chosen = [0] * len(names)
    for _ in range(ROUNDS):
        before = list(chosen)
        for i, (name, point) in enumerate(zip(names, at, strict=True)):
            others = [_box(names[j], at[j], SPOTS[chosen[j]]) for j in range(len(names)) if j != i]
            costs = [
                _covered(_box(name, point, spot), [*marks, *others], size) + n * PREFERENCE
                for n, spot in enumerate(SPOTS)
            ]
            chosen[i] = costs.index(min(costs))
        if chosen == before:
            break
    return [dict(zip(("align", "dx", "dy"), SPOTS[n], strict=True)) for n in chosen]


def _box(name: str, point: Point, spot: NameSpot) -> Box:
    """The rectangle that a name takes at a spot beside ``point``."""
    align, dx, dy = spot
    width = LETTER * len(name)
    left = point[0] + dx - {"left": 0.0, "center": width / 2, "right": width}[align]
    top = point[1] + dy - LINE / 2
    return left, top, left + width, top + LINE


def _covered(box: Box, others: Sequence[Box], size: Point) -> float:
    """Square pixels of ``box`` that lie on others or outside the chart, where they count three times."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    inside = _overlap(box, (0.0, 0.0, *size))
    return sum(_overlap(box, other) for other in others) + 3 * (area - inside)


def _overlap(a: Box, b: Box) -> float:
    """Square pixels that two rectangles share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)
