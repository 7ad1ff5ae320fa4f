"""AbsTopK of rows on a CPU, and its mask as one bit an entry."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from pipeline.kernels.simd import TILE, keep_by_bits, nonzero_bits
from pipeline.kernels.threshold import magnitudes, threshold


@numba.njit(nogil=True, cache=True)
def pack_bits(keep: Any, first: int, last: int, words: Any) -> None:
    for w in range(first, last):
        if (w + 1) * TILE <= len(keep):
            words[w] = nonzero_bits(keep, w * TILE)
        else:
            words[w] = 0
            for i in range(w * TILE, len(keep)):
                words[w] |= np.int64(keep[i]) << (i - w * TILE)


@numba.njit(nogil=True, cache=True)
def mask_by_bits(values: Any, words: Any, first: int, last: int, out: Any) -> None:
    for w in range(first, last):
        if (w + 1) * TILE <= len(values):
            keep_by_bits(values, w * TILE, words[w], out)
        else:
            for i in range(w * TILE, len(values)):
                out[i] = values[i] if words[w] >> (i - w * TILE) & 1 else 0


@numba.njit(nogil=True, cache=True)
def select_rows(rows: Any, k: int, infinity: int, kept: Any, keep: Any) -> int:
    """Select from rows of bit patterns. Returns the first row that holds NaN, or -1."""
    kind, width = rows.dtype.type, rows.shape[1]
    magnitude, row = np.empty(width, rows.dtype), np.empty(width, rows.dtype)
    limit = np.int64(0)
    for r in range(rows.shape[0]):
        top = magnitudes(rows[r], magnitude)
        if top > infinity:
            return r
        limit, n = threshold(magnitude, k, top, limit)
        bound = kind(limit)
        for i in range(width):  # in place, rows and kept are one, and a loop over one memory is not vectorised
            row[i] = rows[r, i]
        for i in range(width):
            kept[r, i] = row[i] & kind(-kind(magnitude[i] >= bound))
        for i in range(width):
            keep[r, i] = magnitude[i] >= bound
        i = width
        while n > k:  # too many equal to the threshold: the last ones go
            i -= 1
            if magnitude[i] == bound:
                kept[r, i], keep[r, i] = 0, 0
                n -= 1
    return -1
