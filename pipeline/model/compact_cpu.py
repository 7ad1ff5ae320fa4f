"""Kernels of the compact executor: what a few nodes read of the residual stream, and whether AbsTopK lets them pass.

Both decide as ``abs_topk`` does over the whole site, ties to the lower index, without computing the whole site for
every token.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from pipeline.model.norm import EPS
from pipeline.model.threshold import magnitudes, threshold


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def read_rows(start: int, stop: int, token: Any, position: Any, tables: Any, stream: Any, site: Any, out: Any) -> None:
    """RMSNorm, then AbsTopK, of rows of the residual stream, at a few channels.

    A row is ``tables[0][token] + tables[1][position] + constant``, plus ``delta`` in some columns. ``site``: the norm's
    gain, k, and the channels that are wanted.
    """
    constant, columns, delta = stream
    gain, k, wanted = site
    width = len(constant)
    row = np.empty(width, np.float32)
    magnitude, last = np.empty(width, np.int32), np.int64(0)
    for r in range(start, stop):
        embedding, place = tables[0][token[r]], tables[1][position[r]]
        for i in range(width):
            row[i] = embedding[i] + place[i] + constant[i]
        for j in range(len(columns)):
            row[columns[j]] += delta[r, j]
        total = np.float32(0)
        for i in range(width):
            total += row[i] * row[i]
        scale = np.float32(1 / np.sqrt(total / width + EPS))
        for i in range(width):
            row[i] = row[i] * scale * gain[i]
        if k >= width:
            for j in range(len(wanted)):
                out[r, j] = row[wanted[j]]
            continue
        top = magnitudes(row.view(np.int32), magnitude)
        last, n = threshold(magnitude, k, top, last)
        for j in range(len(wanted)):
            i = wanted[j]
            kept = magnitude[i] > last or (magnitude[i] == last and _place(magnitude, i) < k - n + _equal(magnitude, i))
            out[r, j] = row[i] if kept else np.float32(0)


@numba.njit(nogil=True, cache=True)
def _equal(magnitude: Any, i: int) -> int:
    n = 0
    for other in magnitude:
        n += other == magnitude[i]
    return n


@numba.njit(nogil=True, cache=True)
def _place(magnitude: Any, i: int) -> int:
    """How many entries before the i-th are equal to it."""
    n = 0
    for j in range(i):
        n += magnitude[j] == magnitude[i]
    return n


@numba.njit(nogil=True, cache=True)
def compete(start: int, stop: int, values: Any, nodes: Any, rivals: Any, k: int) -> None:
    """Zero, in place, the values [row, node] that AbsTopK would zero among all of a site.

    ``nodes`` are their indices, ascending; ``rivals`` the site's other nodes, which are constant: magnitudes,
    ascending, and the indices that belong to them.
    """
    constants, indices = rivals
    n_live, n_rivals = values.shape[1], len(constants)
    magnitude = np.empty(n_live, values.dtype)
    for r in range(start, stop):
        for j in range(n_live):
            magnitude[j] = abs(values[r, j])
        for j in range(n_live):
            above = np.searchsorted(constants, magnitude[j], side="right")
            before = n_rivals - above  # how many come before it; those equal to it, if their index is lower
            while above > 0 and constants[above - 1] == magnitude[j]:
                above -= 1
                before += indices[above] < nodes[j]
            if before + n_live - 1 < k:
                continue
            for i in range(n_live):
                before += magnitude[i] > magnitude[j] or (magnitude[i] == magnitude[j] and i < j)
            if before >= k:
                values[r, j] = 0
