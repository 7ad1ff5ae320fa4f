"""Compiled kernels on all the threads that torch uses.

The kernels let go of the interpreter's lock, so plain threads run side by side. A share of the work depends on the
thread count only through where it is cut, never through the order of a sum: results are the same for any number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def in_shares(work: Callable[[int, int], None], n: int, multiple: int = 1, least: int = 1) -> None:
    """Call ``work(start, stop)`` on shares of ``range(n)``, one a thread of torch's, side by side.

    Shares are multiples of ``multiple`` (but for the last) and hold at least ``least``: below that a second thread costs
    more than it gives.
    """
    size = max(least, -(-n // torch.get_num_threads()))
    size = -(-size // multiple) * multiple
    others = [_pool(torch.get_num_threads()).submit(work, at, min(at + size, n)) for at in range(size, n, size)]
    work(0, min(size, n))
    for other in others:
        other.result()


@functools.cache
def _pool(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=n, thread_name_prefix="kernels")
