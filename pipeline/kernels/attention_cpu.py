"""The numba kernels of causal attention: some heads of some sequences, TILE queries side by side (see attention.py).

Scores are in bits (log2 e times nats), since powers of two are what a processor makes. Arrays are [batch, pos, width]
with heads side by side in width, [batch, head, pos] for what a head has one number of. A tile holds a row of TILE
queries for each key (scores) or channel (queries, outputs, gradients).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from pipeline.kernels.simd import (
    BITS,
    BLOCK,
    TILE,
    add_rows,
    add_to_rows,
    exp2_differences,
    multiply_differences,
    raise_to,
    transpose_block,
)
from pipeline.kernels.sparse import nonzeros_of_tile

NEVER = np.float32(-1e30)  # the score of a token that a query does not see
ONE, NOTHING = np.float32(1), np.float32(0)


@numba.njit(nogil=True, cache=True)
def forward_heads(
    first: int,
    last: int,
    q: Any,
    k: Any,
    v: Any,
    branch: Any,
    sink: Any,
    mixed: Any,
    attention_mass: Any,
    log_total: Any,
) -> None:
    """Fill ``mixed``, ``attention_mass``, ``log_total`` for heads ``first … last``, counted sequence by sequence.

    ``branch`` [batch, 2]: from its second token on, queries do not see those from the first to the second.
    """
    n_head, n_pos, d_head = len(sink), q.shape[1], q.shape[2] // len(sink)
    padded = -(-n_pos // TILE) * TILE
    channels, queries = np.zeros(d_head * padded, np.float32), np.empty(d_head * TILE, np.float32)
    scores, out = np.empty(padded * TILE, np.float32), np.empty(d_head * TILE, np.float32)
    top, total, ablated_to = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    every, ones = np.arange(padded).astype(np.int32), np.ones(padded, np.float32)
    key, key_value, before_key = _empty_lists(d_head, padded)
    token, value, before = _empty_lists(d_head, padded)
    for head in range(first, last):
        b, h = head // n_head, head % n_head
        at = h * d_head
        _by_channel(k[b], 0, n_pos, at, d_head, ONE, channels, padded)
        _list(channels, padded, key, key_value, before_key)
        _by_channel(v[b], 0, n_pos, at, d_head, ONE, channels, padded)
        _list(channels, padded, token, value, before)
        for t in range(0, n_pos, TILE):
            n = min(TILE, n_pos - t)
            _by_channel(q[b], t, n, at, d_head, BITS * np.float32(d_head**-0.5), queries, TILE)
            _scores(k[b], t, n, at, queries, every, key, key_value, before_key, scores)
            _hide(scores, t, n, branch[b], NEVER)  # whose power of two is 0
            ablated_to[:], top[:] = sink[h] * BITS, sink[h] * BITS
            for s in range(t + n):
                raise_to(top, scores, s * TILE)
            for s in range(t + n):
                exp2_differences(scores, s * TILE, top)
            exp2_differences(ablated_to, 0, top)
            total[:], out[:] = ablated_to, 0
            add_rows(total, 0, scores, TILE, 0, every, 0, ones, 0, t + n)
            _add_keys(out, scores, t, token, value, before)
            for i in range(n):
                attention_mass[b, h, t + i] = 1 - ablated_to[i] / total[i]
                log_total[b, h, t + i] = top[i] + np.log2(total[i])
            for i in range(TILE):
                total[i] = 1 / total[i]
            _by_token(out, TILE, total, mixed[b], t, n, at, d_head)


@numba.njit(nogil=True, cache=True)
def backward_heads(
    first: int, last: int, q: Any, k: Any, v: Any, branch: Any, mixed: Any, attention_mass: Any, log_total: Any,
    g: Any, g_attention_mass: Any, dq: Any, dk: Any, dv: Any, dsink: Any,
) -> None:  # fmt: skip
    """Fill ``dq``, ``dk``, ``dv`` and ``dsink`` [batch, head] from the gradients ``g`` and ``g_attention_mass``."""
    n_head, n_pos, d_head = attention_mass.shape[1], q.shape[1], q.shape[2] // attention_mass.shape[1]
    padded, root = -(-n_pos // TILE) * TILE, np.float32(d_head**-0.5)
    keys, queries = np.zeros(d_head * padded, np.float32), np.empty(d_head * TILE, np.float32)
    gradients, out = np.empty(d_head * TILE, np.float32), np.empty(d_head * TILE, np.float32)
    weights, changes = np.zeros(padded * TILE, np.float32), np.zeros(padded * TILE, np.float32)
    to_keys, to_values = np.empty(d_head * padded, np.float32), np.empty(d_head * padded, np.float32)
    turned = np.empty(TILE * TILE, np.float32)
    ones, per_bit = np.ones(TILE, np.float32), np.full(TILE, 1 / BITS, np.float32)
    shift, delta, every = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.arange(d_head).astype(np.int32)
    key, key_value, before_key = _empty_lists(d_head, padded)
    token, value, before = _empty_lists(d_head, padded)
    query, query_value, before_query = _empty_lists(d_head, TILE)
    scaled = np.zeros(d_head * padded, np.float32)
    for head in range(first, last):
        b, h = head // n_head, head % n_head
        at = h * d_head
        _by_channel(v[b], 0, n_pos, at, d_head, ONE, keys, padded)
        _list(keys, padded, token, value, before)
        _by_channel(k[b], 0, n_pos, at, d_head, ONE, keys, padded)
        _list(keys, padded, key, key_value, before_key)
        to_keys[:], to_values[:], dsink[b, h] = 0, 0, 0
        for i in range(len(scaled)):
            scaled[i] = key_value[i] * root
        for t in range(0, n_pos, TILE):
            n = min(TILE, n_pos - t)
            _by_channel(q[b], t, n, at, d_head, BITS * root, queries, TILE)
            _by_channel(g[b], t, n, at, d_head, ONE, gradients, TILE)
            _by_channel(mixed[b], t, n, at, d_head, ONE, out, TILE)
            shift[:], delta[:] = 0, 0
            for c in range(d_head):
                for i in range(TILE):
                    delta[i] += gradients[c * TILE + i] * out[c * TILE + i]
            for i in range(n):
                shift[i] = log_total[b, h, t + i]
                delta[i] += g_attention_mass[b, h, t + i] * (attention_mass[b, h, t + i] - 1)
                dsink[b, h] -= (1 - attention_mass[b, h, t + i]) * (delta[i] + g_attention_mass[b, h, t + i])
            _scores(k[b], t, n, at, queries, every, key, key_value, before_key, weights)
            _scores(v[b], t, n, at, gradients, every, token, value, before, changes)
            for s in range(t + n):
                exp2_differences(weights, s * TILE, shift)
            _hide(weights, t, n, branch[b], NOTHING)
            for s in range(t + n):
                multiply_differences(changes, s * TILE, delta, weights)
            out[:] = 0
            _add_keys(out, changes, t, key, scaled, before_key)
            _by_token(out, TILE, ones, dq[b], t, n, at, d_head)
            _list(gradients, TILE, query, query_value, before_query)
            for s in range(0, t + n, TILE):
                _turn(weights, s, turned)
                _add_queries(to_values, s, turned, query, query_value, before_query, padded)
            _list(queries, TILE, query, query_value, before_query)
            for s in range(0, t + n, TILE):
                _turn(changes, s, turned)
                _add_queries(to_keys, s, turned, query, query_value, before_query, padded)
        for s in range(0, n_pos, TILE):
            n = min(TILE, n_pos - s)
            _by_token(to_keys[s:], padded, per_bit, dk[b], s, n, at, d_head)
            _by_token(to_values[s:], padded, ones, dv[b], s, n, at, d_head)


@numba.njit(nogil=True, cache=True)
def _by_channel(rows: Any, t: int, n: int, at: int, d_head: int, factor: Any, out: Any, stride: int) -> None:
    """The head's channels of ``n`` tokens from ``t``, times ``factor``, in one row of ``stride`` numbers each."""
    width, flat = rows.shape[1], rows.reshape(-1)
    whole, channels = n // BLOCK * BLOCK, d_head // BLOCK * BLOCK
    for i in range(0, whole, BLOCK):
        for c in range(0, channels, BLOCK):
            transpose_block(flat, (t + i) * width + at + c, width, out, c * stride + i, stride)
    for c in range(d_head):
        for i in range(whole if c < channels else 0, n):
            out[c * stride + i] = rows[t + i, at + c]
        out[c * stride + n : (c + 1) * stride] = 0
        if factor != ONE:
            for i in range(n):
                out[c * stride + i] *= factor


@numba.njit(nogil=True, cache=True)
def _by_token(tile: Any, stride: int, factor: Any, rows: Any, t: int, n: int, at: int, d_head: int) -> None:
    """Write the channels in ``tile``, each token's times its ``factor``, to the head's place in ``n`` rows from ``t``.

    The tile is overwritten.
    """
    width, flat = rows.shape[1], rows.reshape(-1)
    whole, channels = n // BLOCK * BLOCK, d_head // BLOCK * BLOCK
    for c in range(d_head):
        for i in range(n):
            tile[c * stride + i] *= factor[i]
    for i in range(0, whole, BLOCK):
        for c in range(0, channels, BLOCK):
            transpose_block(tile, c * stride + i, stride, flat, (t + i) * width + at + c, width)
    for c in range(d_head):
        for i in range(whole if c < channels else 0, n):
            rows[t + i, at + c] = tile[c * stride + i]


@numba.njit(nogil=True, cache=True)
def _empty_lists(d_head: int, n: int) -> tuple[Any, Any, Any]:
    """Room for what ``_list`` writes of ``n`` tokens."""
    return np.zeros(d_head * n, np.int32), np.zeros(d_head * n, np.float32), np.zeros((d_head, n // TILE + 1), np.int32)


@numba.njit(nogil=True, cache=True)
def _list(channels: Any, n: int, token: Any, value: Any, before: Any) -> None:
    """The tokens with a nonzero in ``channels`` [channel, n], those of channel c from ``c * n`` on, with its value.

    ``before[c, s]`` of them come before tile s.
    """
    for c in range(len(before)):
        found, at = 0, c * n
        for s in range(0, n, TILE):
            before[c, s // TILE] = found
            found += nonzeros_of_tile(channels, at + s, s, token[at + found :], value[at + found :])
        before[c, n // TILE] = found


@numba.njit(nogil=True, cache=True)
def _scores(
    rows: Any, t: int, n: int, at: int, queries: Any, every: Any, token: Any, value: Any, before: Any, out: Any
) -> None:
    """The dot product of the channels of each token before ``t + n`` with every query of the tile.

    Through the nonzeros where most are zero: to the same bits, since the channels are added in the same order.
    """
    d_head, tile, padded = len(before), t // TILE + 1, len(token) // len(before)
    out[: (t + n) * TILE] = 0
    if 2 * before[:, tile].sum() < d_head * (t + n):
        for c in range(d_head):
            add_to_rows(out, queries, c * TILE, token, c * padded, value, c * padded, before[c, tile])
        return
    flat = rows.reshape(-1)
    for s in range(t + n):
        add_rows(out, s * TILE, queries, TILE, 0, every, 0, flat, s * rows.shape[1] + at, d_head)


@numba.njit(nogil=True, cache=True)
def _hide(scores: Any, t: int, n: int, branch: Any, value: Any) -> None:
    """Set what the queries, from ``t`` on, have for tokens after them, and for those of the other branch."""
    for s in range(1, n):
        for i in range(s):
            scores[(t + s) * TILE + i] = value
    for s in range(branch[0], min(branch[1], t + n)):
        for i in range(max(0, branch[1] - t), n):
            scores[s * TILE + i] = value


@numba.njit(nogil=True, cache=True)
def _add_keys(out: Any, tile: Any, t: int, token: Any, value: Any, before: Any) -> None:
    """Add to each channel's row of ``out`` the tile's rows, each times its token's number in the channel."""
    padded = len(token) // len(before)
    for c in range(len(before)):
        add_rows(out, c * TILE, tile, TILE, 0, token, c * padded, value, c * padded, before[c, t // TILE + 1])


@numba.njit(nogil=True, cache=True)
def _turn(tile: Any, s: int, out: Any) -> None:
    """The TILE rows of ``tile`` from ``s`` on, a row for each query instead of each token."""
    for i in range(0, TILE, BLOCK):
        for j in range(0, TILE, BLOCK):
            transpose_block(tile, (s + i) * TILE + j, TILE, out, j * TILE + i, TILE)


@numba.njit(nogil=True, cache=True)
def _add_queries(to: Any, s: int, turned: Any, query: Any, value: Any, before: Any, stride: int) -> None:
    """Add to the tokens from ``s`` on, channel by channel, the rows of all queries, each times its number there."""
    for c in range(len(before)):
        add_rows(to, c * stride + s, turned, TILE, 0, query, c * TILE, value, c * TILE, before[c, 1])
