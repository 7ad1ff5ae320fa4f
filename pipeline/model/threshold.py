"""The k-th largest magnitude without a sort: a search among bit patterns (METHOD §8).

A magnitude's bit pattern, read as an integer, orders like the magnitude. The search counts how many numbers reach a
guess and narrows the guess by interpolation between counts, every third time by bisection, so that it also ends quickly
where interpolation would crawl. It ends as soon as exactly k numbers reach the guess.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


def search(dtype: Any) -> tuple[Any, Any]:
    """Compiled ``magnitudes(values, out) -> top`` and ``threshold(magnitude, k, top, guess) -> (threshold, count)``.

    For bit patterns of the signed integer type ``dtype`` in flat arrays. ``magnitudes`` writes the patterns without
    sign and returns the largest. ``threshold`` returns the k-th largest, or any number that exactly k of them reach,
    and how many reach it; it starts at ``guess``, wherever that is.
    """
    without_sign = dtype(np.iinfo(dtype).max)

    @numba.njit(nogil=True, cache=True)
    def magnitudes(values: Any, out: Any) -> Any:
        top = dtype(0)
        for i in range(len(values)):
            out[i] = values[i] & without_sign
            top = max(top, out[i])
        return top

    @numba.njit(nogil=True, cache=True)
    def at_least(magnitude: Any, guess: Any) -> Any:
        n = dtype(0)
        for i in range(len(magnitude)):
            n = dtype(n + dtype(magnitude[i] >= guess))
        return n

    @numba.njit(nogil=True, cache=True)
    def threshold(magnitude: Any, k: int, top: Any, guess: Any) -> tuple[Any, Any]:
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
            n: Any = np.int64(at_least(magnitude, dtype(guess)))
            if n == k:
                return guess, n
            if n > k:
                low, n_low = guess, n
            else:
                high, n_high = guess, n
        return low, n_low

    return magnitudes, threshold
