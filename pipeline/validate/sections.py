"""Sections of a validation as independent pieces of work, done in turn or side by side in processes."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.model.device import prepare_cpu

Part = Callable[[], Any]  # what it gives can be pickled, and holds no tensors
Done = tuple[Any, float]  # what a part gave, and the seconds that it took


@dataclass(frozen=True)
class Section:
    """Parts that do not depend on each other, and what is made of what they give."""

    parts: Sequence[Part]
    joined: Callable[[list[Any]], dict[str, Any]]

    @classmethod
    def of(cls, run: Callable[[], dict[str, Any]]) -> Section:
        """A section in one piece."""
        return cls([run], lambda found: dict(found[0]))

    def __call__(self) -> dict[str, Any]:
        return self.joined([part() for part in self.parts])


def side_by_side(parts: Sequence[Part], workers: int) -> list[Done]:
    """What each part gives, in their order: in so many processes, each on one thread, begun in that order.

    Processes are forks of this one, which share what it has loaded. So there must be no other work going on in its
    threads, and torch should have had one.
    """
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(parts,)) as pool:
        return list(pool.map(_nth, range(len(parts))))


def timed(part: Part) -> Done:
    began = time.perf_counter()
    return part(), time.perf_counter() - began


_parts: Sequence[Part] = ()  # of a forked process; what is handed to its initializer is not pickled


def _begin(parts: Sequence[Part]) -> None:
    global _parts
    _parts = parts
    prepare_cpu(1)


def _nth(n: int) -> Done:
    return timed(_parts[n])
