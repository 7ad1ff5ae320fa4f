"""Timing of variants that take turns, so that what else runs on a machine hits all of them alike."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

# What a process that does not set it gets from libgomp (this project sets it: pipeline/__init__.py).
GOMP_DEFAULT = {"GOMP_SPINCOUNT": "300000"}


class Worker:
    """A variant in a process of its own, where nothing that another one sets reaches it: one call at a time, on demand.

    ``build(*args)`` runs there; it returns the call to time and what to say of it. ``environment``: variables that the
    process starts with.
    """

    def __init__(self, build: Callable[..., tuple[Callable[[], object], Any]], *args: Any, **environment: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, pipe = context.Pipe()
        before = os.environ.copy()
        os.environ.update(environment)
        self._process = context.Process(target=_serve, args=(pipe, build, args), daemon=True)
        self._process.start()
        os.environ.clear()
        os.environ.update(before)
        pipe.close()
        self.said = self._pipe.recv()

    def __call__(self) -> float:
        """Seconds of one call after another one, as measured in the process."""
        self._pipe.send("again")
        return float(self._pipe.recv())

    def stop(self) -> float:
        """End the process. Returns the MiB that it held at most."""
        self._pipe.send("stop")
        ablated_to = float(self._pipe.recv())
        self._process.join()
        return ablated_to


def _serve(pipe: Connection, build: Callable[..., tuple[Callable[[], object], Any]], args: tuple[Any, ...]) -> None:
    call, said = build(*args)
    pipe.send(said)
    while pipe.recv() == "again":
        call()  # not timed: in real use calls follow one another, and what slept has lost caches and pages
        start = time.perf_counter()
        call()
        pipe.send(time.perf_counter() - start)
    pipe.send(most_memory())


def most_memory() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def interleave(variants: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of every call of each variant, name → ``rounds`` of them, after ``warmup`` calls that do not count.

    Variants are called here, or in their own process where they are a Worker.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in tqdm(range(warmup + rounds), desc="rounds", leave=False):
        for name, call in variants.items():
            start = time.perf_counter()
            told = call()
            if turn >= warmup:
                seconds[name].append(float(told) if isinstance(call, Worker) else time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], one: str, other: str) -> float:
    """Median over the rounds of the time of ``one`` in that of ``other`` in the same round."""
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def show(title: str, rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print ``rows``, all with the same keys, as a table, or as one JSON object."""
    if as_json:
        print(json.dumps({"title": title, "rows": rows}, indent=2))
        return
    table = Table(*rows[0].keys(), title=title)
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else f"{value}" for value in row.values()))
    Console(width=140).print(table)
