"""The projection's numba kernel: one matrix, in place, exactly, without a sort (§2 and §8)."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from pipeline.kernels.simd import TILE, bits_at_least, lowest_bit
from pipeline.kernels.threshold import magnitudes, threshold

BELOW = 1 << 20  # how far under the last threshold, in bits, about an eighth, the search for what stays begins
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


@numba.njit(nogil=True, cache=True)
def keep_few(weight: Any, budget: int, keep_alive: int, by_column: bool, guess: int, place: Any) -> tuple[int, int]:
    """What ``keep_largest`` does, in one pass that looks for those that may stay, a little below the last threshold.

    Returns the threshold and how many stay; their places in the flattened matrix are then in ``place``, in order. Where
    ``place`` is too short or the threshold has moved too far: -1 for their number, and nothing is changed.
    """
    flat, n_lines = weight.reshape(-1), weight.shape[1] if by_column else len(weight)
    n = _find(flat, max(0, guess - BELOW), place)
    if n < budget:
        return guess, -1
    magnitude, found = np.empty(len(place), np.int32), n
    top = _magnitudes_at(flat, place, n, magnitude)
    limit, reached = threshold(magnitude[:n], budget, top, guess)
    if keep_alive > 0:
        line = _lines(place[:n], weight.shape[1], by_column)
        surely = limit + 1 if reached > budget else limit
        if _counts(line, magnitude[:n], surely, n_lines).min() < keep_alive:
            few = _counts(line, magnitude[:n], 0, n_lines) < keep_alive
            if n + few.sum() * keep_alive > len(place):
                return guess, -1
            n = _add_lines(weight, few, keep_alive, by_column, guess - BELOW, place, n)
            _magnitudes_at(flat, place, n, magnitude)
            line = _lines(place[:n], weight.shape[1], by_column)
            for _ in range(keep_alive):
                _force_lines(magnitude[:n], line, n_lines)
            limit, reached = threshold(magnitude[:n], budget, ALIVE, limit)
            if limit >= ALIVE:
                return guess, -1
    return limit, _keep_places(flat, magnitude, limit, reached - budget, place, found, n)


@numba.njit(nogil=True, cache=True)
def _find(flat: Any, bound: int, place: Any) -> int:
    """The places of the magnitudes that reach ``bound``. Returns their number, or -1 where there are too many."""
    n, whole = 0, len(flat) // TILE * TILE
    for at in range(0, whole, TILE):
        if n + TILE > len(place):
            return -1
        bits = bits_at_least(flat, at, bound)
        while bits != 0:
            place[n] = at + lowest_bit(bits)
            bits &= bits - 1
            n += 1
    return n if whole == len(flat) else -1


@numba.njit(nogil=True, cache=True)
def _magnitudes_at(flat: Any, place: Any, n: int, out: Any) -> Any:
    """Write the bit patterns of the magnitudes at ``n`` places; the largest of them."""
    top = np.int32(0)
    for i in range(n):
        out[i] = flat[place[i]] & np.int32(0x7FFFFFFF)
        top = max(top, out[i])
    return top


@numba.njit(nogil=True, cache=True)
def _lines(place: Any, width: int, by_column: bool) -> Any:
    """The row, or the column, of every place."""
    out = np.empty(len(place), np.int32)
    for i in range(len(place)):
        out[i] = place[i] % width if by_column else place[i] // width
    return out


@numba.njit(nogil=True, cache=True)
def _counts(line: Any, magnitude: Any, limit: Any, n_lines: int) -> Any:
    """How many magnitudes of every line reach ``limit``."""
    out = np.zeros(n_lines, np.int32)
    for i in range(len(line)):
        out[line[i]] += magnitude[i] >= limit
    return out


@numba.njit(nogil=True, cache=True)
def _add_lines(weight: Any, few: Any, keep_alive: int, by_column: bool, bound: int, place: Any, n: int) -> int:
    """Add the places of the ``keep_alive`` largest of ``few`` lines, but for those from ``bound`` up, which are in."""
    width = weight.shape[1]
    best = np.full((len(few), keep_alive), -1, np.int32)
    where = np.full((len(few), keep_alive), -1, np.int64)
    for r in range(len(weight)):
        if by_column or few[r]:
            for c in range(width):
                line = c if by_column else r
                if few[line]:
                    _insert(weight[r, c] & np.int32(0x7FFFFFFF), r * width + c, best[line], where[line])
    for line in range(len(few)):
        for j in range(keep_alive):
            if where[line, j] >= 0 and best[line, j] < bound:
                place[n] = where[line, j]
                n += 1
    return n


@numba.njit(nogil=True, cache=True)
def _insert(magnitude: Any, at: int, best: Any, where: Any) -> None:
    """Keep the largest, in order; the first of equal ones."""
    j = len(best)
    while j > 0 and magnitude > best[j - 1]:
        j -= 1
        if j + 1 < len(best):
            best[j + 1], where[j + 1] = best[j], where[j]
        best[j], where[j] = magnitude, at


@numba.njit(nogil=True, cache=True)
def _keep_places(flat: Any, magnitude: Any, limit: Any, surplus: int, place: Any, found: int, n: int) -> int:
    """Zero all but the places whose magnitude reaches ``limit``; of those at it, the last ``surplus`` go."""
    i = found
    while surplus > 0:
        i -= 1
        if magnitude[i] == limit:
            magnitude[i] = -1
            surplus -= 1
    kept = 0
    for i in range(n):
        if magnitude[i] >= limit:
            place[kept] = place[i]
            kept += 1
    if n > found:
        place[:kept] = np.sort(place[:kept])
    value = np.empty(kept, np.int32)
    for i in range(kept):
        value[i] = flat[place[i]]
    flat[:] = 0
    for i in range(kept):
        flat[place[i]] = value[i]
    return kept
