"""The numba kernels of cross-entropy: one pass over each row of logits for its total, one for its gradient."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from pipeline.kernels.simd import BITS, TILE, exp2_differences, raise_to

ZERO = np.float32(0)


@numba.njit(nogil=True, cache=True)
def fill_log_totals(first: int, last: int, logits: Any, out: Any) -> None:
    """``out[r]`` = log of the sum of exp over row r of ``logits``, ``first`` ≤ r < ``last``. NaN stays NaN."""
    width = logits.shape[1]
    whole = width // TILE * TILE
    part, zero = np.zeros(TILE, np.float32), np.zeros(TILE, np.float32)
    top, total = np.zeros(TILE, np.float32), np.zeros(TILE, np.float32)
    for r in range(first, last):
        row = logits[r]
        top[:], total[:] = -np.inf, 0
        for c in range(0, whole, TILE):
            raise_to(top, row, c)
        largest = top.max()
        for c in range(whole, width):
            largest = max(largest, row[c])
        for c in range(0, whole, TILE):
            _exp_differences(row, c, largest, part, zero)
            for i in range(TILE):
                total[i] += part[i] + (row[c + i] if row[c + i] != row[c + i] else ZERO)  # the powers lose NaN
        rest = np.float32(0)
        for c in range(whole, width):
            rest += np.exp(row[c] - largest)
        out[r] = largest + np.log(total.sum() + rest)


@numba.njit(nogil=True, cache=True)
def fill_gradient(first: int, last: int, logits: Any, targets: Any, log_total: Any, out: Any, scale: float) -> None:
    """``out`` = ``scale`` · (softmax − 1 at the target) for those rows; NaN where the row's total is not finite."""
    width = logits.shape[1]
    whole = width // TILE * TILE
    part, zero = np.zeros(TILE, np.float32), np.zeros(TILE, np.float32)
    for r in range(first, last):
        factor = np.float32(scale) + (log_total[r] - log_total[r])  # 0, or NaN, which the powers lose
        for c in range(0, whole, TILE):
            _exp_differences(logits[r], c, log_total[r], part, zero)
            for i in range(TILE):
                out[r, c + i] = part[i] * factor
        for c in range(whole, width):
            out[r, c] = np.exp(logits[r, c] - log_total[r]) * factor
        out[r, targets[r]] -= factor


@numba.njit(nogil=True, cache=True)
def _exp_differences(row: Any, c: int, less: Any, part: Any, zero: Any) -> None:
    """``part`` = exp(``row[c:][:TILE]`` − ``less``), by powers of two; 0 where that is not a number."""
    for i in range(TILE):
        part[i] = (row[c + i] - less) * BITS
    exp2_differences(part, 0, zero)
