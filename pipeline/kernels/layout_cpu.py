"""Numba loops that lay prompts out for a forward pass: which of them begin alike, and where each token's row is."""

from __future__ import annotations

from typing import Any

import numba


@numba.njit(nogil=True, cache=True)
def add_rows_at(g: Any, rows: Any, total: Any) -> None:
    for copy in range(len(g)):
        for i in range(len(rows)):
            into, row = total[copy, rows[i]], g[copy, i]
            for c in range(len(row)):
                into[c] += row[c]


@numba.njit(nogil=True, cache=True)
def number_rows(words: Any, length: Any, order: Any, index: Any, first_own: Any, token: Any, position: Any) -> int:
    """Number the distinct beginnings of prompts, which ``order`` sorts, and fill in all the rest; returns how many."""
    n = 0
    for i in range(len(order)):
        p, before = order[i], order[max(i - 1, 0)]
        most = min(length[p], length[before]) if i > 0 else 0
        at = 0
        while at < most and words[p, at] == words[before, at]:
            index[p, at] = index[before, at]
            at += 1
        first_own[p] = at
        for at in range(first_own[p], length[p]):
            index[p, at], token[n], position[n] = n, words[p, at], at
            n += 1
        index[p, length[p] :] = index[p, length[p] - 1]
    return n


@numba.njit(nogil=True, cache=True)
def branch_sequences(rows: Any, length: Any, index: Any, branch: Any, at: Any) -> int:
    """Lay out the prompts of every sequence one after the other, what they share once; returns the longest's length."""
    per, longest = at.shape[1], 0
    for s in range(len(index)):
        first = per * s
        n = shared = length[first]
        index[s, :n], at[s, 0] = rows[first, :n], n - 1
        if per == 2:
            most, shared = min(n, length[first + 1]), 0
            while shared < most and rows[first, shared] == rows[first + 1, shared]:
                shared += 1
            more = length[first + 1] - shared
            index[s, n : n + more] = rows[first + 1, shared : shared + more]
            at[s, 1] = n + more - 1 if more > 0 else shared - 1
        branch[s, 0], branch[s, 1] = shared, length[first]
        n = max(n, at[s].max() + 1)
        index[s, n:] = index[s, n - 1]
        longest = max(longest, n)
    return longest


@numba.njit(nogil=True, cache=True)
def place_rows(index: Any, at: Any, place: Any) -> None:
    """A place of every row among all positions of all sequences."""
    for s in range(len(index)):
        for i in range(at[s].max() + 1):
            place[index[s, i]] = s * index.shape[1] + i
