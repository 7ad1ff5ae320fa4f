"""Independent pieces of torch work on threads of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """``work`` on every item, each on one thread, as many at a time as torch has threads; results in their order.

    One item has one thread too: products of few rows have other sums on several.
    """
    n_threads = torch.get_num_threads()
    if n_threads < 2 or not items:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(n_threads, len(items)), initializer=_alone) as pool:
        try:
            return list(pool.map(work, items))
        finally:
            torch.set_num_threads(n_threads)  # MKL's count is one for all threads


def _alone() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
