"""Timing of variants that take turns, so that what else runs on a machine hits all of them alike."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm


def interleave(variants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of every call of each variant, name → ``rounds`` of them, after ``warmup`` calls that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in tqdm(range(warmup + rounds), desc="rounds", leave=False):
        for name, call in variants.items():
            start = time.perf_counter()
            call()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
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
