"""The numba kernels of causal attention: some heads of some sequences, TILE queries side by side (see attention.py).

Arrays are [batch, pos, width] with heads side by side in width, [batch, head, pos] for what a head has one number of.
A tile holds one row of TILE queries per key (scores) or channel (q, outputs, gradients).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from pipeline.model.simd import BLOCK, TILE, add_rows, exp_differences, transpose_block
from pipeline.model.sparse import nonzeros_of_tile

NEVER = np.float32(-1e30)  # the score of a key that a query does not see


@numba.njit(nogil=True, cache=True)
def forward_heads(
    first: int, last: int, q: Any, k: Any, v: Any, sink: Any, mixed: Any, mass: Any, log_total: Any
) -> None:
    """Fill ``mixed``, ``mass`` and ``log_total`` for the heads ``first … last`` of all, counted sequence by sequence."""
    n_head, n_pos, d_head = len(sink), q.shape[1], q.shape[2] // len(sink)
    padded = -(-n_pos // TILE) * TILE
    values, queries = np.zeros(d_head * padded, np.float32), np.empty(d_head * TILE, np.float32)
    scores, out = np.empty(padded * TILE, np.float32), np.empty(d_head * TILE, np.float32)
    top, total, held = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    every, token, scale = np.arange(d_head).astype(np.int32), np.empty(TILE, np.int32), np.empty(TILE, np.float32)
    for head in range(first, last):
        b, h = head // n_head, head % n_head
        at = h * d_head
        _by_channel(v[b], 0, n_pos, at, d_head, np.float32(1), values, padded)
        for t in range(0, n_pos, TILE):
            n = min(TILE, n_pos - t)
            _by_channel(q[b], t, n, at, d_head, np.float32(d_head**-0.5), queries, TILE)
            _scores(k[b], t + n, at, d_head, queries, every, scores)
            _hide_later(scores, t, n, NEVER)
            held[:], top[:] = sink[h], sink[h]
            for s in range(t + n):
                for i in range(TILE):
                    top[i] = max(top[i], scores[s * TILE + i])
            exp_differences(held, 0, top)
            total[:] = held
            for s in range(t + n):
                exp_differences(scores, s * TILE, top)
            _hide_later(scores, t, n, np.float32(0))
            for s in range(t + n):
                for i in range(TILE):
                    total[i] += scores[s * TILE + i]
            out[:] = 0
            for c in range(d_head):
                _add_keys(out, c, scores, values, padded, t, token, scale)
            for i in range(n):
                mass[b, h, t + i] = 1 - held[i] / total[i]
                log_total[b, h, t + i] = top[i] + np.log(total[i])
                for c in range(d_head):
                    mixed[b, t + i, at + c] = out[c * TILE + i] / total[i]


@numba.njit(nogil=True, cache=True)
def backward_heads(
    first: int, last: int, q: Any, k: Any, v: Any, mixed: Any, mass: Any, log_total: Any,
    g: Any, g_mass: Any, dq: Any, dk: Any, dv: Any, dsink: Any,
) -> None:  # fmt: skip
    """Fill ``dq``, ``dk``, ``dv`` and ``dsink`` [batch, head] from the gradients ``g`` of mixed and ``g_mass`` of mass."""
    n_head, n_pos, d_head = mass.shape[1], q.shape[1], q.shape[2] // mass.shape[1]
    padded = -(-n_pos // TILE) * TILE
    root = np.float32(d_head**-0.5)
    keys, queries = np.zeros(d_head * padded, np.float32), np.empty(d_head * TILE, np.float32)
    gradients, out = np.empty(d_head * TILE, np.float32), np.empty(d_head * TILE, np.float32)
    weights, changes = np.zeros(padded * TILE, np.float32), np.zeros(padded * TILE, np.float32)
    to_keys, to_values = np.empty(d_head * padded, np.float32), np.empty(d_head * padded, np.float32)
    turned = np.empty(TILE * TILE, np.float32)
    shift, delta = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    every, token, scale = np.arange(d_head).astype(np.int32), np.empty(TILE, np.int32), np.empty(TILE, np.float32)
    for head in range(first, last):
        b, h = head // n_head, head % n_head
        at = h * d_head
        _by_channel(k[b], 0, n_pos, at, d_head, root, keys, padded)
        to_keys[:], to_values[:], dsink[b, h] = 0, 0, 0
        for t in range(0, n_pos, TILE):
            n = min(TILE, n_pos - t)
            _by_channel(q[b], t, n, at, d_head, root, queries, TILE)
            _by_channel(g[b], t, n, at, d_head, np.float32(1), gradients, TILE)
            shift[:], delta[:] = 0, 0
            for i in range(n):
                shift[i] = log_total[b, h, t + i]
                delta[i] = g_mass[b, h, t + i] * (mass[b, h, t + i] - 1)
                for c in range(d_head):
                    delta[i] += g[b, t + i, at + c] * mixed[b, t + i, at + c]
                dsink[b, h] -= (1 - mass[b, h, t + i]) * (delta[i] + g_mass[b, h, t + i])
            _scores(k[b], t + n, at, d_head, queries, every, weights)
            for s in range(t + n):
                exp_differences(weights, s * TILE, shift)
            _hide_later(weights, t, n, np.float32(0))
            _scores(v[b], t + n, at, d_head, gradients, every, changes)
            for s in range(t + n):
                for i in range(TILE):
                    changes[s * TILE + i] = weights[s * TILE + i] * (changes[s * TILE + i] - delta[i])
            out[:] = 0
            for c in range(d_head):
                _add_keys(out, c, changes, keys, padded, t, token, scale)
            for i in range(n):
                for c in range(d_head):
                    dq[b, t + i, at + c] = out[c * TILE + i]
            for s in range(0, t + n, TILE):
                _turn(weights, s, turned)
                _add_queries(to_values, s, turned, gradients, d_head, padded, token, scale)
                _turn(changes, s, turned)
                _add_queries(to_keys, s, turned, queries, d_head, padded, token, scale)
        for s in range(n_pos):
            for c in range(d_head):
                dk[b, s, at + c], dv[b, s, at + c] = to_keys[c * padded + s], to_values[c * padded + s]


@numba.njit(nogil=True, cache=True)
def _by_channel(rows: Any, t: int, n: int, at: int, d_head: int, factor: Any, out: Any, stride: int) -> None:
    """The head's channels of ``n`` tokens from ``t``, times ``factor``, one row of ``stride`` numbers each."""
    for i in range(n):
        for c in range(d_head):
            out[c * stride + i] = rows[t + i, at + c] * factor
    for c in range(d_head):
        out[c * stride + n : (c + 1) * stride] = 0


@numba.njit(nogil=True, cache=True)
def _scores(rows: Any, n: int, at: int, d_head: int, queries: Any, every: Any, out: Any) -> None:
    """The dot product of each of the first ``n`` tokens' channels with every query of the tile."""
    out[: n * TILE] = 0
    for s in range(n):
        add_rows(out, s * TILE, queries, TILE, 0, every, rows[s, at : at + d_head], 0, d_head)


@numba.njit(nogil=True, cache=True)
def _hide_later(scores: Any, t: int, n: int, value: Any) -> None:
    """Set what the queries, from ``t`` on, have for tokens after them."""
    for i in range(1, n):
        scores[(t + i) * TILE : (t + i) * TILE + i] = value


@numba.njit(nogil=True, cache=True)
def _add_keys(out: Any, c: int, tile: Any, channels: Any, stride: int, t: int, token: Any, scale: Any) -> None:
    """Add to row ``c`` of ``out`` the tile's rows, each times its token's number in channel ``c``."""
    for s in range(0, t + TILE, TILE):
        n = nonzeros_of_tile(channels, c * stride + s, s, token, scale)
        add_rows(out, c * TILE, tile, TILE, 0, token, scale, 0, n)


@numba.njit(nogil=True, cache=True)
def _turn(tile: Any, s: int, out: Any) -> None:
    """The TILE rows of ``tile`` from ``s`` on, a row for each query instead of each token."""
    for i in range(0, TILE, BLOCK):
        for j in range(0, TILE, BLOCK):
            transpose_block(tile, (s + i) * TILE + j, TILE, out, j * TILE + i, TILE)


@numba.njit(nogil=True, cache=True)
def _add_queries(to: Any, s: int, turned: Any, channels: Any, d_head: int, stride: int, token: Any, scale: Any) -> None:
    """Add to the tokens from ``s`` on, channel by channel, the rows of all queries, each times its number there."""
    for c in range(d_head):
        n = nonzeros_of_tile(channels, c * TILE, 0, token, scale)
        add_rows(to, c * stride + s, turned, TILE, 0, token, scale, 0, n)
