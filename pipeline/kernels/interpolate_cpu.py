"""The backward pass of x → m·x + (1 − m)·a on a CPU: gradients of x and of m, each read and written once."""

from __future__ import annotations

from typing import Any

import numba

ROWS = 256  # a mask's gradient is summed over blocks of this many rows, whatever the number of threads


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def interpolate_backward(
    start: int, stop: int, n_parts: int, g: Any, x: Any, mask: Any, ablated_to: Any, dx: Any, parts: Any
) -> None:
    n_rows, width = x.shape[1], x.shape[2]
    for share in range(start, stop):
        c, part = share // n_parts, share % n_parts
        total, m = parts[c, part], mask[c]
        for r in range(part * ROWS, min((part + 1) * ROWS, n_rows)):
            gr, xr, out, value = g[c, r], x[c, r], dx[c, r], ablated_to[r % len(ablated_to)]
            for i in range(width):
                total[i] += gr[i] * (xr[i] - value[i])
                out[i] = gr[i] * m[i]
