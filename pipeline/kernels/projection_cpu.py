"""The projection's numba kernel: one matrix, in place, exactly, without a sort (§2 and §8)."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from pipeline.kernels.threshold import magnitudes, threshold

ALIVE = np.int32(np.iinfo(np.int32).max)  # the magnitude of an entry that keep-alive forces in


@numba.njit(nogil=True, cache=True)
def keep_largest(weight: Any, budget: int, keep_alive: int, by_column: bool, guess: int) -> int:
    """Zero all but ``budget`` entries of ``weight`` [rows, columns], float32 seen as int32: the largest magnitudes.

    The ``keep_alive`` largest of every row (or column) stay whatever their magnitude. Ties go to the lower index.
    Returns the threshold, to be the ``guess`` next time.
    """
    flat = weight.reshape(-1)
    magnitude = np.empty(len(flat), np.int32)
    top = magnitudes(flat, magnitude)
    limit, n = threshold(magnitude, budget, top, guess)
    if keep_alive > 0:
        lines = magnitude.reshape(weight.shape)
        surely = limit + 1 if n > budget else limit  # ties may still go
        if _fewest(lines, surely, by_column) < keep_alive:
            for _ in range(min(keep_alive, len(lines) if by_column else lines.shape[1])):
                _force_columns(lines) if by_column else _force_rows(lines)
            limit, n = threshold(magnitude, budget, ALIVE, limit)
    _zero_below(flat, magnitude, limit, n, budget)
    return limit


@numba.njit(nogil=True, cache=True)
def keep_largest_of(weights: Any, line: Any, n_lines: int, budget: int, keep_alive: int, guess: int) -> int:
    """The same for some weights of a matrix, in its order, where all others are zero: ``line`` is the row or column of
    each, of which the ``keep_alive`` largest stay."""
    if len(weights) <= budget:
        return guess
    magnitude = np.empty(len(weights), np.int32)
    top = magnitudes(weights, magnitude)
    limit, n = threshold(magnitude, budget, top, guess)
    if keep_alive > 0:
        alive = np.zeros(n_lines, np.int32)
        surely = limit + 1 if n > budget else limit
        for i in range(len(weights)):
            alive[line[i]] += magnitude[i] >= surely
        if alive.min() < keep_alive:
            for _ in range(keep_alive):
                _force_lines(magnitude, line, n_lines)
            limit, n = threshold(magnitude, budget, ALIVE, limit)
    _zero_below(weights, magnitude, limit, n, budget)
    return limit


@numba.njit(nogil=True, cache=True)
def _zero_below(flat: Any, magnitude: Any, limit: Any, n: int, budget: int) -> None:
    """Zero what is below ``limit``, which ``n`` numbers reach, and of those at it the last that exceed the budget."""
    bound = np.int32(limit)
    for i in range(len(flat)):
        flat[i] &= np.int32(-np.int32(magnitude[i] >= bound))
    i = len(flat)
    while n > budget:  # too many equal to the threshold: the last ones go
        i -= 1
        if magnitude[i] == bound:
            flat[i] = 0
            n -= 1


@numba.njit(nogil=True, cache=True)
def _fewest(lines: Any, limit: int, by_column: bool) -> int:
    """The least number of entries that reach ``limit``, over all rows or columns."""
    bound = np.int32(min(int(limit), int(ALIVE)))
    counts = np.zeros(lines.shape[1] if by_column else len(lines), np.int32)
    for r in range(len(lines)):
        if by_column:
            for c in range(lines.shape[1]):
                counts[c] = np.int32(counts[c] + np.int32(lines[r, c] >= bound))
        else:
            n = np.int32(0)
            for c in range(lines.shape[1]):
                n = np.int32(n + np.int32(lines[r, c] >= bound))
            counts[r] = n
    return counts.min()


@numba.njit(nogil=True, cache=True)
def _force_rows(lines: Any) -> None:
    """Mark as alive the largest entry of every row that is not yet."""
    for r in range(len(lines)):
        top = np.int32(-1)
        for c in range(lines.shape[1]):
            top = max(top, lines[r, c] if lines[r, c] < ALIVE else np.int32(-1))
        for c in range(lines.shape[1]):
            if lines[r, c] == top:
                lines[r, c] = ALIVE
                break


@numba.njit(nogil=True, cache=True)
def _force_columns(lines: Any) -> None:
    """Mark as alive the largest entry of every column that is not yet."""
    top = np.full(lines.shape[1], -1, np.int32)
    for r in range(len(lines)):
        for c in range(lines.shape[1]):
            top[c] = max(top[c], lines[r, c] if lines[r, c] < ALIVE else np.int32(-1))
    for r in range(len(lines)):
        for c in range(lines.shape[1]):
            found = lines[r, c] == top[c]
            lines[r, c] = ALIVE if found else lines[r, c]
            top[c] = np.int32(-2) if found else top[c]


@numba.njit(nogil=True, cache=True)
def _force_lines(magnitude: Any, line: Any, n_lines: int) -> None:
    """Mark as alive the first of the largest entries of every line that is not yet."""
    top, place = np.full(n_lines, -1, np.int32), np.full(n_lines, -1, np.int64)
    for i in range(len(magnitude)):
        if magnitude[i] < ALIVE and magnitude[i] > top[line[i]]:
            top[line[i]], place[line[i]] = magnitude[i], i
    for at in place:
        if at >= 0:
            magnitude[at] = ALIVE
