"""Gradients of some weights of a matrix, the backward set: Gᵀ X at their places and nowhere else.

A tile of TILE tokens is transposed, so that the values of a channel lie side by side; what a weight gets from the tile
is the product of its two channels. A channel of G without a nonzero in the tile, as AbsTopK leaves many, costs nothing.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.kernels.simd import TILE, dot_rows, nonzero_bits
from pipeline.kernels.sparse import CsrRows, transpose, widen
from pipeline.kernels.threads import in_shares

PART = 8 * TILE  # tokens that one thread sums over, whatever the number of threads


def add_gradients(g: Float[Tensor, "n out"], x: Float[Tensor, "n in"], places: CsrRows) -> Float[Tensor, " out"]:
    """Add to the values of ``places`` what Gᵀ X [out, in] has there. Returns the column sums of G.

    Both are float32, or both bfloat16; sums are in float32, their order the same for any number of threads.
    """
    bits, shift = (torch.int32, 0) if x.dtype == torch.float32 else (torch.int16, 16)
    gradients, values = (rows.detach().contiguous().view(bits).numpy() for rows in (g, x))
    n_parts = -(-len(gradients) // PART)
    parts, totals = (np.zeros((n_parts, n), np.float32) for n in (len(places.column), g.shape[1]))

    def work(first: int, last: int) -> None:
        _add_parts(gradients, values, np.int32(shift), first, last, places.start, places.column, parts, totals)

    in_shares(work, n_parts)
    for part in parts:
        places.value[:] += part
    return torch.from_numpy(totals.sum(0))


@numba.njit(nogil=True, cache=True)
def _add_parts(
    g: Any, x: Any, shift: Any, first: int, last: int, start: Any, column: Any, parts: Any, totals: Any
) -> None:
    """Fill the sums over PART tokens each, ``first`` to ``last``; rows are bit patterns, to be shifted to float32's."""
    to, by = np.empty(g.shape[1] * TILE, np.float32), np.empty(x.shape[1] * TILE, np.float32)
    wide_g, wide_x = np.zeros((TILE, g.shape[1]), np.float32), np.zeros((TILE, x.shape[1]), np.float32)
    for p in range(first, last):
        for t in range(p * PART, min((p + 1) * PART, len(g)), TILE):
            _channels(g, t, shift, wide_g, to)
            _channels(x, t, shift, wide_x, by)
            _add_tile(to, by, start, column, parts[p], totals[p])


@numba.njit(nogil=True, cache=True)
def _channels(rows: Any, t: int, shift: Any, wide: Any, out: Any) -> None:
    """The TILE tokens of ``rows`` [token, channel] from ``t`` as ``out`` [channel, token], zero after the last one."""
    n = min(TILE, len(rows) - t)
    bits = wide.view(np.int32)
    widen(rows[t : t + n].reshape(-1), shift, bits[:n].reshape(-1))
    bits[n:] = 0
    transpose(wide, TILE, 0, rows.shape[1], out)


@numba.njit(nogil=True, cache=True)
def _add_tile(to: Any, by: Any, start: Any, column: Any, out: Any, total: Any) -> None:
    ones = np.ones(TILE, np.float32)
    for i in range(len(start) - 1):
        if nonzero_bits(to, i * TILE) != 0:
            total[i] += dot_rows(to, i * TILE, ones, 0)
            for e in range(start[i], start[i + 1]):
                out[e] += dot_rows(to, i * TILE, by, column[e] * TILE)


@numba.njit(nogil=True, cache=True)
def fill_scores(weight: Any, mean: Any, square: Any, eps: Any, out: Any) -> None:
    """``out`` = how far Adam's moments would move each weight, |mean| / (√square + eps), and ∞ where it is not zero."""
    for i in range(len(out)):
        score = np.abs(mean[i]) / (np.sqrt(square[i]) + eps)
        out[i] = score if weight[i] == 0 else np.float32(np.inf)
