"""The choice of the weights that stay, in numpy: what the kernels have to equal, entry by entry."""

from __future__ import annotations

import numpy as np

FORCED = np.float32(np.inf)  # as which a keep-alive weight counts


def largest(weight: np.ndarray, budget: int, keep_alive: int, alive_axis: int | None) -> np.ndarray:
    """A bool mask of exactly ``budget`` entries, the largest, after each line has its keep-alive ones."""
    magnitude = np.abs(weight)
    keep = _top(magnitude, budget)
    if alive_axis is None or keep.sum(axis=1 - alive_axis).min() >= keep_alive:
        return keep
    lines = magnitude if alive_axis == 0 else magnitude.T
    best = np.argsort(-lines, axis=1, kind="stable")[:, :keep_alive]
    np.put_along_axis(lines, best, FORCED, axis=1)  # writes through to ``magnitude``
    return _top(magnitude, budget)


def _top(magnitude: np.ndarray, budget: int) -> np.ndarray:
    """A bool mask of the ``budget`` largest entries, ties to the lower index."""
    flat = magnitude.ravel()
    threshold = np.partition(flat, flat.size - budget)[flat.size - budget]
    keep = flat >= threshold
    surplus = int(np.count_nonzero(keep)) - budget
    if surplus:
        keep[np.flatnonzero(flat == threshold)[-surplus:]] = False
    return keep.reshape(magnitude.shape)
