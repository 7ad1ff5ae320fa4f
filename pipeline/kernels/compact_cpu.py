"""Kernels of the compact executor: reads of a few nodes from the residual stream, and their fate in AbsTopK.

Both decide as ``abs_topk`` does over the whole site, ties to the lower index, without computing the whole site for
every token.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from pipeline.kernels.simd import BITS, TILE, add_rows, exp2_differences
from pipeline.kernels.threshold import magnitudes, threshold

COUNTED = 2  # wanted entries up to which each is ranked by itself; above, the threshold of the whole site is sought
FEW = 64  # live nodes up to which each is ranked among its competitors; above, likewise


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def read_rows(
    start: int, stop: int, token: Any, position: Any, tables: Any, stream: Any, beside: Any, norm: Any, site: Any,
    out: Any,
) -> None:  # fmt: skip
    """The norm, then AbsTopK, of rows of the residual stream, at a few channels.

    A row is ``tables[0][token] + tables[1][position] + constant``, plus ``delta`` in some columns. ``beside``: a table
    of channels that are read beside the stream, whose norm has been taken, and the place of each row in it. ``norm``:
    gain, bias, whether the mean is taken off, epsilon. ``site``: k, and the channels that are wanted.
    """
    constant, columns, delta = stream
    table, place_of = beside
    gain, bias, centred, eps = norm
    k, wanted = site
    width, n_beside = len(constant), table.shape[1]
    row = np.empty(width + n_beside, np.float32)
    magnitude, last = np.empty(width + n_beside, np.int32), np.int64(0)
    for r in range(start, stop):
        embedding, place = tables[0][token[r]], tables[1][position[r]]
        for i in range(width):
            row[i] = embedding[i] + place[i] + constant[i]
        for j in range(len(columns)):
            row[columns[j]] += delta[r, j]
        if centred:
            mean = np.float32(0)
            for i in range(width):
                mean += row[i]
            mean = np.float32(mean / width)
            for i in range(width):
                row[i] -= mean
        total = np.float32(0)
        for i in range(width):
            total += row[i] * row[i]
        scale = np.float32(1 / np.sqrt(total / width + eps))
        for i in range(width):
            row[i] = row[i] * scale * gain[i] + bias[i]
        for i in range(n_beside):
            row[width + i] = table[place_of[r], i]
        for j in range(len(wanted)):
            out[r, j] = row[wanted[j]]
        if k < width + n_beside:
            last = _keep(row, k, wanted, out[r], magnitude, last)


@numba.njit(nogil=True, cache=True)
def _keep(row: Any, k: int, wanted: Any, out: Any, magnitude: Any, guess: Any) -> Any:
    """Zero in ``out`` the wanted entries of a row that are not among its k largest magnitudes."""
    top = magnitudes(row.view(np.int32), magnitude)
    if len(wanted) > COUNTED:
        guess, n = threshold(magnitude, k, top, guess)
    for j in range(len(wanted)):
        i = wanted[j]
        if len(wanted) <= COUNTED:
            larger, equal = _competitors(magnitude, magnitude[i])
            kept = larger + equal <= k or (larger < k and larger + _place(magnitude, i) < k)
        else:
            kept = magnitude[i] > guess or magnitude[i] == 0  # of zeros, as a sparse site has many, it is all one
            if magnitude[i] == guess and not kept:
                kept = n == k or _place(magnitude, i) < k - n + _equal(magnitude, i)
        if not kept:
            out[j] = np.float32(0)
    return guess


@numba.njit(nogil=True, cache=True)
def _competitors(magnitude: Any, value: Any) -> tuple[Any, Any]:
    """How many entries are larger, and how many equal."""
    larger, equal = np.int32(0), np.int32(0)
    for other in magnitude:
        larger = np.int32(larger + np.int32(other > value))
        equal = np.int32(equal + np.int32(other == value))
    return larger, equal


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
def compete(start: int, stop: int, values: Any, nodes: Any, competitors: Any, k: int) -> None:
    """Zero, in place, the values [row, node] that AbsTopK would zero among all of a site.

    ``nodes`` are their indices, ascending; ``competitors`` the site's other nodes, which are constant: magnitudes,
    ascending, the indices that belong to them, and the whole site's values with zeros at ``nodes``.
    """
    if values.shape[1] <= FEW:
        _compete_few(start, stop, values, nodes, competitors[0], competitors[1], k)
        return
    site = competitors[2].copy()
    magnitude, guess = np.empty(len(site), np.int32), np.int64(0)
    for r in range(start, stop):
        for j in range(len(nodes)):
            site[nodes[j]] = values[r, j]
        guess = _keep(site, k, nodes, values[r], magnitude, guess)


@numba.njit(nogil=True, cache=True)
def compete_rows(start: int, stop: int, values: Any, nodes: Any, background: Any, near: Any, k: int) -> None:
    """The same where the site's other nodes differ by row: ``background`` [row, site].

    ``near`` [row, 2·FEW]: the background's magnitudes of ranks k − FEW … k + FEW − 1, the largest's being 0; infinite
    where there is no such rank before them, −1 behind. For more than FEW nodes, or if not known, it has no columns.
    """
    if near.shape[1]:
        _compete_near(start, stop, values, nodes, background, near, k)
        return
    width, guess = background.shape[1], np.int64(0)
    site, magnitude = np.empty(width, np.float32), np.empty(width, np.int32)
    for r in range(start, stop):
        site[:] = background[r]
        for j in range(len(nodes)):
            site[nodes[j]] = values[r, j]
        guess = _keep(site, k, nodes, values[r], magnitude, guess)


@numba.njit(nogil=True, cache=True)
def _compete_near(start: int, stop: int, values: Any, nodes: Any, background: Any, near: Any, k: int) -> None:
    """Live nodes replace as many entries of the background, so that ranks move by at most their number."""
    n_live = len(nodes)
    magnitude = np.empty(n_live, values.dtype)
    for r in range(start, stop):
        surely_kept, surely_not = near[r, FEW - n_live], near[r, FEW + n_live - 1]
        for j in range(n_live):
            magnitude[j] = abs(values[r, j])
        for j in range(n_live):
            if magnitude[j] > surely_kept:
                continue
            if magnitude[j] < surely_not or _before(background[r], nodes, magnitude, j) >= k:
                values[r, j] = 0


@numba.njit(nogil=True, cache=True)
def _before(background: Any, nodes: Any, magnitude: Any, j: int) -> Any:
    """How many come before the j-th live node where all live nodes replace their entries of a row."""
    own, n, ties = magnitude[j], np.int32(0), np.int32(0)
    for other in background:
        n = np.int32(n + np.int32(abs(other) > own))
    for i in range(nodes[j]):
        ties = np.int32(ties + np.int32(abs(background[i]) == own))
    before = n + ties
    for i in range(len(nodes)):
        was = abs(background[nodes[i]])
        before -= was > own or (was == own and i < j)
        before += magnitude[i] > own or (magnitude[i] == own and i < j)
    return before


@numba.njit(nogil=True, cache=True)
def _compete_few(start: int, stop: int, values: Any, nodes: Any, constants: Any, indices: Any, k: int) -> None:
    n_live, n_competitors = values.shape[1], len(constants)
    surely_kept = _ranked(constants, k - n_live)  # larger than this: too few are before it, even if all live ones are
    surely_not = _ranked(constants, k - 1)
    magnitude = np.empty(n_live, values.dtype)
    for r in range(start, stop):
        for j in range(n_live):
            magnitude[j] = abs(values[r, j])
        for j in range(n_live):
            if magnitude[j] > surely_kept:
                continue
            if magnitude[j] < surely_not:
                values[r, j] = 0
                continue
            above = np.searchsorted(constants, magnitude[j], side="right")
            before = n_competitors - above  # how many come before it; those equal to it, if their index is lower
            while above > 0 and constants[above - 1] == magnitude[j]:
                above -= 1
                before += indices[above] < nodes[j]
            for i in range(n_live if before < k else 0):
                before += magnitude[i] > magnitude[j] or (magnitude[i] == magnitude[j] and i < j)
            if before >= k:
                values[r, j] = 0


@numba.njit(nogil=True, cache=True)
def _ranked(ascending: Any, rank: int) -> Any:
    """The magnitude of a rank, the largest's being 0; infinite where there is no such rank before them, −1 behind."""
    if rank < 0:
        return np.float32(np.inf)
    return ascending[len(ascending) - 1 - rank] if rank < len(ascending) else np.float32(-1)


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def write_rows(
    start: int, stop: int, position: Any, by_position: Any, attention_mass: Any, by_head: Any, nodes: Any, k: int,
    every: bool, out: Any,
) -> None:  # fmt: skip
    """Add to ``out`` [row, node] the output of ablated value channels, then zero as AbsTopK would over the whole site.

    That is ``by_position[position]`` plus each varying head's ``attention_mass`` times its output for a mass of 1.
    Without ``every``, both are given for the nodes alone, and AbsTopK is off.
    """
    width = by_position.shape[1]
    site, magnitude, guess = np.empty(width, np.float32), np.empty(width, np.int32), np.int64(0)
    for r in range(start, stop):
        constant = by_position[position[r]]
        for i in range(width):
            site[i] = constant[i]
        for h in range(attention_mass.shape[1]):
            m, written = attention_mass[r, h], by_head[h]
            for i in range(width):
                site[i] += m * written[i]
        for j in range(len(nodes)):
            i = nodes[j] if every else j
            out[r, j] += site[i]
            site[i] = out[r, j]
        if every:
            guess = _keep(site, k, nodes, out[r], magnitude, guess)


@numba.njit(nogil=True, cache=True)
def spread_rows(x: Any, chosen: Any, into: Any, ablated_to: Any, scale: float, out: Any) -> None:
    """Rows of ``ablated_to``, whose columns ``into`` are the columns ``chosen`` of ``x``, times a scale."""
    factor = np.float32(scale)
    for r in range(len(out)):
        out[r] = ablated_to
        for j in range(len(chosen)):
            out[r, into[j]] = x[r, chosen[j]] * factor


@numba.njit(nogil=True, cache=True)
def mix_heads(
    start: int, stop: int, layout: Any, last: bool, scores: Any, pairs: Any, sink: Any, v: Any, of_head: Any, todo: Any,
    mixed: Any, attention_mass: Any,
) -> None:  # fmt: skip
    """Attention of a range of prompts: ``mixed`` [query, value channel] and each head's ``attention_mass``.

    ``layout``: prompts' rows, and the positions from which on, and up to which, they are a prompt's own. ``last``: each
    prompt has one query, at its end; else every row is one, that its own prompt takes care of. ``scores``: what query
    [query, head] and key [row, head] add to a head's scores, each by itself. ``pairs``: for heads where both are live,
    their place among those (else −1), and their full queries and keys. ``of_head``: where a head's channels of v begin.
    ``todo``: the heads.
    """
    for p in range(start, stop):
        rows = layout[0][p, : layout[2][p]]
        first_own = len(rows) - 1 if last else layout[1][p]
        for h in todo:
            low, high = of_head[h], of_head[h + 1]
            if pairs[0][h] < 0:
                _mix_prefix(p, rows, first_own, h, last, scores, sink[h], v, low, high, mixed, attention_mass)
            else:
                _mix_pairs(p, rows, first_own, h, last, scores, pairs, sink[h], v, low, high, mixed, attention_mass)


@numba.njit(nogil=True, cache=True)
def _mix_prefix(
    p: int, rows: Any, first_own: int, h: int, last: bool, scores: Any, sink: Any, v: Any, low: int, high: int,
    mixed: Any, attention_mass: Any,
) -> None:  # fmt: skip
    """A head whose scores are a query's part plus a key's part: one pass over the keys serves all queries."""
    sums = np.zeros(high - low)
    total, most = 0.0, -np.inf
    for place in range(len(rows)):
        row = rows[place]
        key = np.float64(scores[1][row, h])
        if key > most:
            shrink = np.exp(most - key)
            total *= shrink
            for c in range(high - low):
                sums[c] *= shrink
            most = key
        weight = np.exp(key - most)
        total += weight
        for c in range(high - low):
            sums[c] += weight * v[row, low + c]
        if place < first_own:
            continue
        query = p if last else row
        share = 1 / (total + np.exp(sink - most - scores[0][query, h]))
        attention_mass[query, h] = total * share
        for c in range(high - low):
            mixed[query, low + c] = sums[c] * share


@numba.njit(nogil=True, cache=True, fastmath=False)
def _powers(scores: Any, n: int, top: Any) -> None:
    """Powers of two of n scores less the largest; apart, since it does not bear sums in another order."""
    for j in range(0, n, TILE):
        exp2_differences(scores, j, top)


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nnan", "nsz"})
def _mix_pairs(
    p: int, rows: Any, first_own: int, h: int, last: bool, scores: Any, pairs: Any, sink: Any, v: Any,
    low: int, high: int, mixed: Any, attention_mass: Any,
) -> None:  # fmt: skip
    """A head whose queries and keys are both live: the keys side by side, scores in bits."""
    q, k, at = pairs[1], pairs[2], pairs[0][h]
    n, width = len(rows), -(-len(rows) // TILE) * TILE
    keys, values = np.zeros((q.shape[2], width), np.float32), np.zeros((high - low, width), np.float32)
    for j in range(n):
        for c in range(len(keys)):
            keys[c, j] = k[rows[j], at, c]
        for c in range(len(values)):
            values[c, j] = v[rows[j], low + c]
    weight, top = np.empty(width, np.float32), np.empty(TILE, np.float32)
    flat, every, own_query = keys.reshape(-1), np.arange(len(keys)).astype(np.int32), np.empty(len(keys), np.float32)
    for place in range(first_own, n):
        query = p if last else rows[place]
        for c in range(len(keys)):
            own_query[c] = q[query, at, c] * BITS
        weight[:] = 0
        for j in range(0, place + 1, TILE):
            add_rows(weight, j, flat, width, j, every, 0, own_query, 0, len(keys))
        most = np.float32(sink * BITS)
        for j in range(place + 1):
            most = max(most, weight[j])
        top[:] = most
        _powers(weight, place + 1, top)
        real = np.float32(0)
        for j in range(place + 1):
            real += weight[j]
        share = np.float32(1) / (np.float32(2) ** (np.float32(sink * BITS) - most) + real)
        attention_mass[query, h] = real * share
        for c in range(len(values)):
            value, channel = np.float32(0), values[c]
            for j in range(place + 1):
                value += weight[j] * channel[j]
            mixed[query, low + c] = value * share
