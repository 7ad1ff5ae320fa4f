"""What a study was made from, as the rows of a table that says each value's unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

SECONDS, CORPUS, SETTINGS = "Seconds of work", "Corpus", "Settings"
HEADINGS = {"git": "Code", "machine": "Machine", "seconds": SECONDS, "corpus": CORPUS}  # all else: settings
WORDS = {
    "dirty": "changed since that commit", "params_hash": "hash of params.yaml",
    "lock_hash": "hash of requirements.lock", "corpus_hash": "hash of the corpus", "cpu": "processor", "gpu": "GPU",
    "precision": "training multiplies in",
    "dtype": "a token on disk", "total": "from the beginning to the report", "pretrain": "training",
    "prune": "pruning", "validate": "validation",
}  # fmt: skip


def origin(provenance: Mapping[str, Any], statistics: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Heading → rows of what is said and its value with its unit. ``statistics``: the tokenise stage's stats.json."""
    found: dict[str, list[tuple[str, str]]] = {}
    for key, value in (*provenance.items(), ("corpus", statistics)):
        heading = HEADINGS.get(key, SETTINGS)
        rows = found.setdefault(heading, [])
        rows += [(named(path or (key,)), said(path or (key,), part, heading)) for path, part in leaves(value)]
    return {heading: rows for heading, rows in found.items() if rows}


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value inside nested mappings, with the keys that lead to it."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from leaves(part, (*path, key))
    else:
        yield path, value


def named(path: tuple[str, ...]) -> str:
    """The keys in plain words, without the unit that one of them ends with."""
    first = path[0].removeprefix("n_").removesuffix("_nats")
    return ", ".join([WORDS.get(path[0], first.replace("_", " ")), *path[1:]])


def said(path: tuple[str, ...], value: Any, heading: str) -> str:
    """A value with its unit."""
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    if not isinstance(value, int | float):
        return str(value)
    if heading == SECONDS:
        return f"{value:,.0f} s"
    if path[0].endswith("_nats"):
        return f"{value:.3f} nats"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
