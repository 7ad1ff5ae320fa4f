"""Names of the frontier cover neither marks nor each other, and stay inside the chart."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest

from pipeline.report.charts import FRONTIER_SIZE, _pixels, frontier
from pipeline.report.name_places import LETTER, LINE, name_places

SIZE = (520, 380)
SUMMARY = Path(__file__).parents[2] / "results" / "summary.json"


def boxes(names, points, places):
    shift = {"left": 0.0, "center": 0.5, "right": 1.0}
    for name, (x, y), place in zip(names, points, places, strict=True):
        left, middle = x + place["dx"] - shift[place["align"]] * LETTER * len(name), y + place["dy"]
        yield left, middle - LINE / 2, left + LETTER * len(name), middle + LINE / 2


def apart(a, b) -> bool:
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_a_name_alone_stands_to_the_upper_right() -> None:
    assert name_places(["a"], [(100, 100)], SIZE) == [{"align": "left", "dx": 14, "dy": -9}]


def test_a_name_at_the_right_edge_stands_to_the_left() -> None:
    assert name_places(["sparse_d512_quarter_l0"], [(500, 100)], SIZE)[0]["align"] == "right"


@pytest.mark.parametrize("gap", [(6, 2), (12, 12), (14, -8), (0, 15), (40, 0)])
def test_marks_that_touch_have_names_apart(gap: tuple[float, float]) -> None:
    names, points = ["dense_d64", "dense_d64_again"], [(250, 100), (250 + gap[0], 100 + gap[1])]
    own = list(boxes(names, points, name_places(names, points, SIZE)))
    assert apart(*own)
    assert all(apart(box, (x - 5, y - 5, x + 5, y + 5)) for box in own for x, y in points)


def test_names_of_the_committed_frontier_are_apart() -> None:
    rows = frontier(json.loads(SUMMARY.read_text(encoding="utf-8")))["data"]["values"]
    names = [row.get("name") or row["seeds"] for row in rows]
    assert sum("seeds" in name for name in names) == 2
    own = list(boxes(names, _pixels(rows), rows))
    assert all(apart(a, b) for a, b in combinations(own, 2))
    assert all(0 <= box[0] and box[2] <= FRONTIER_SIZE[0] for box in own)
