"""The k-th largest magnitude without a sort: a search among bit patterns (§8).

A magnitude's bit pattern, read as an integer, orders like the magnitude. The search counts how many numbers reach a
guess and narrows the guess by interpolation between counts, every third time by bisection, so that it also ends quickly
where interpolation would crawl. It ends as soon as exactly k numbers reach the guess.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def magnitudes(values: Any, out: Any) -> Any:
    """Write the bit patterns ``values`` (a flat array of a signed integer type) without sign; the largest of them."""
    kind = values.dtype.type
    without_sign = kind(np.iinfo(values.dtype).max)
    top = kind(0)
    for i in range(len(values)):
        out[i] = values[i] & without_sign
        top = max(top, out[i])
    return top


@numba.njit(nogil=True, cache=True)
def _at_least(magnitude: Any, guess: Any) -> Any:
    kind = magnitude.dtype.type
    n = kind(0)
    for i in range(len(magnitude)):
        n = kind(n + kind(magnitude[i] >= guess))
    return n


@numba.njit(nogil=True, cache=True)
def threshold(magnitude: Any, k: int, top: Any, guess: Any) -> tuple[Any, Any]:
    """The k-th largest of ``magnitude``, or any number that exactly k of them reach, and how many reach it.

    ``top`` is the largest. The search starts at ``guess``, wherever that is.
    """
    kind = magnitude.dtype.type
    low: Any = np.int64(0)
    high, n_low, n_high = np.int64(top) + 1, len(magnitude), 0
    rounds = 0
    while high - low > 1:
        if rounds > 0 or guess <= low or guess >= high:
            guess = low + (high - low) * (n_low - k) // (n_low - n_high)
            if rounds % 3 == 2:
                guess = (low + high) // 2
            guess = min(max(guess, low + 1), high - 1)
        rounds += 1
        n: Any = np.int64(_at_least(magnitude, kind(guess)))
        if n == k:
            return guess, n
        if n > k:
            low, n_low = guess, n
        else:
            high, n_high = guess, n
    return low, n_low
