"""A number of many circuits in short: its median, how far it spreads, and over how many circuits."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any


def known(values: Iterable[float | None]) -> list[float]:
    """Those that are not None."""
    return [value for value in values if value is not None]


def middle(values: Iterable[float | None]) -> float | None:
    """The median of those that are known, None for none."""
    found = known(values)
    return median(found) if found else None


def spread(values: Iterable[float | None]) -> dict[str, Any]:
    """``median``, ``low`` and ``high`` of those that are known, ``n`` of them; None for none."""
    found = known(values)
    ends = {"low": min(found, default=None), "high": max(found, default=None)}
    return {"median": middle(found), **ends, "n": len(found)}
