"""Compiled kernels on all the threads that torch uses.

The kernels let go of the interpreter's lock, so plain threads run side by side. Who does which share is left to chance
(a thread that wakes late does less); where the work is cut never changes the order of a sum, so that results are the
same for any number of threads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

SHARES = 2  # for each thread


def in_shares(work: Callable[[int, int], None], n: int, multiple: int = 1, least: int = 1) -> None:
    """Call ``work(start, stop)`` on shares of ``range(n)``, on as many threads as torch has, side by side.

    Shares are multiples of ``multiple`` (but for the last) and hold at least ``least``: below that handing one over
    costs more than it gives.
    """
    n_threads = torch.get_num_threads()
    size = n if n_threads == 1 else max(least, -(-n // (SHARES * n_threads)))
    size = -(-size // multiple) * multiple
    shares = range(0, n, max(1, size))
    left = iter(shares)

    def run() -> None:
        for start in left:  # an iterator of a range hands every number to one thread
            work(start, min(start + size, n))

    others = [_pool(n_threads).submit(run) for _ in range(min(n_threads, len(shares)) - 1)]
    run()
    for other in others:
        if not other.cancel():  # one that has not woken by now finds nothing left to do
            other.result()


@functools.cache
def _pool(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=n, thread_name_prefix="kernels")
