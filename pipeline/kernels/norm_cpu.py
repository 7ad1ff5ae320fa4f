"""RMSNorm of rows on a CPU, forward and backward, in one pass each."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from pipeline.kernels.simd import EPS

ROWS = 256  # the gain's gradient is summed over blocks of this many rows, whatever the number of threads


# The sums over a row may be taken in any order: that is what lets them be vectors.
@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def normalise(start: int, stop: int, x: Any, gain: Any, y: Any, inverse: Any) -> None:
    width = x.shape[1]
    for r in range(start, stop):
        total = np.float32(0)
        for i in range(width):
            total += x[r, i] * x[r, i]
        scale = np.float32(1 / np.sqrt(total / width + EPS))
        inverse[r] = scale
        for i in range(width):
            y[r, i] = x[r, i] * scale * gain[i]


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def normalise_backward(start: int, stop: int, x: Any, gain: Any, inverse: Any, g: Any, dx: Any, parts: Any) -> None:
    width = x.shape[1]
    for r in range(start, stop):
        total = np.float32(0)
        for i in range(width):
            total += g[r, i] * gain[i] * x[r, i]
        scale = inverse[r]
        mean = np.float32(total * scale * scale * scale / width)
        part = parts[r // ROWS]
        for i in range(width):
            part[i] += g[r, i] * x[r, i] * scale
            dx[r, i] = g[r, i] * gain[i] * scale - x[r, i] * mean
