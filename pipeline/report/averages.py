"""Many circuits in a few numbers: medians and spreads; geometric means of edge counts and of their ratios (§5).

A circuit without edges (a task that the bigram table does alone) counts as one edge, so that the mean exists.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import torch

from pipeline.stats import group_interval


def log_edges(count: float) -> float:
    """Logarithm of an edge count, of 1 for none."""
    return math.log(max(count, 1))


def geometric_mean_edges(edges: Iterable[float]) -> float | None:
    """Geometric mean of edge counts, null for none."""
    return mean_ratio([log_edges(count) for count in edges])


def mean_ratio(logs: Sequence[float]) -> float | None:
    """Geometric mean of ratios given as logarithms, null for none."""
    return math.exp(math.fsum(logs) / len(logs)) if logs else None


def ratio_interval(logs: Sequence[tuple[str, float]], n_bootstrap: int, rng_seed: int) -> list[float] | None:
    """95 % percentile bootstrap over tasks of the geometric mean of ratios, given as (task, logarithm of a ratio).

    A task brings all its ratios along; null for fewer than two tasks.
    """
    tasks = sorted({task for task, _ in logs})
    if len(tasks) < 2:
        return None
    groups = [[log for task, log in logs if task == wanted] for wanted in tasks]
    ends = group_interval(groups, n_bootstrap, torch.Generator().manual_seed(rng_seed))
    return [math.exp(end) for end in ends]


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
