"""Documents of the corpus: texts, each with the unit that may not be divided between the splits; and their sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pipeline.data.functions import NotPythonError, cut_functions


class SourceError(ValueError):
    """A source that gives nothing or cannot be read; the message says which and what to do."""


@dataclass(frozen=True)
class Document:
    """One function, and the package, module or file that it belongs to."""

    text: str
    group: str


@dataclass
class Tally:
    """Counts of a source: files read, and files and functions left out, by reason."""

    files: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


class DocumentSource(Protocol):
    """Something that gives documents in an order that depends on nothing but its settings and the seed."""

    name: str
    tally: Tally
    max_group_frac: float  # of the source's characters that one group may supply

    def documents(self, closed: Set[str]) -> Iterator[Document]:
        """Documents, without those of groups that are in ``closed``, a set that grows while it is read."""
        ...


def read_source(path: Path, tally: Tally) -> str | None:
    """The text of a source file; None, counted by reason, where it is unreadable, empty, binary or not UTF-8."""
    reason = None
    try:
        raw = path.read_bytes()
    except OSError:
        raw, reason = b"", "unreadable file"
    if reason is None and not raw.strip():
        reason = "empty file"
    elif b"\0" in raw:
        reason = "binary file"
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        reason = "file not UTF-8"
    if reason:
        tally.skipped[reason] += 1
        return None
    tally.files += 1
    return text


def functions_of(text: str, min_lines: int, max_lines: int, tally: Tally) -> list[str]:
    """The functions of a text; none, counted, where it is not Python."""
    try:
        return list(cut_functions(text, min_lines, max_lines, tally.skipped))
    except NotPythonError:
        tally.skipped["not Python"] += 1
        return []
