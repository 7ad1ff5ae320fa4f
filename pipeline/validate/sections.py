"""Sections of a validation as independent pieces of work, run in turn or side by side in processes."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.model.device import prepare_cpu

Piece = Callable[[], Any]  # its result can be pickled, and holds no tensors
Timed = tuple[Any, float]  # a piece's result, and the seconds that it took


@dataclass(frozen=True)
class SectionWork:
    """A section as pieces of work that do not depend on each other, and how their results become the section's."""

    pieces: Sequence[Piece]
    join: Callable[[list[Any]], dict[str, Any]] = lambda results: dict(results[0])

    def __call__(self) -> dict[str, Any]:
        return self.join([piece() for piece in self.pieces])


def side_by_side(pieces: Sequence[Piece], workers: int) -> list[Timed]:
    """The results of the pieces in their order, by so many processes on one thread each, begun in that order.

    Processes are forks of this one, which share what it has loaded. So there must be no other work going on in its
    threads, and torch should have had one.
    """
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(pieces,)) as pool:
        return list(pool.map(_nth, range(len(pieces))))


def timed(piece: Piece) -> Timed:
    began = time.perf_counter()
    return piece(), time.perf_counter() - began


_pieces: Sequence[Piece] = ()  # of a forked process; what is handed to its initializer is not pickled


def _begin(pieces: Sequence[Piece]) -> None:
    global _pieces
    _pieces = pieces
    prepare_cpu(1)


def _nth(n: int) -> Timed:
    return timed(_pieces[n])
