"""Documents of the corpus: texts, each with the unit that may not be divided between the splits; and their sources."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config import CodeSource
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


class DocumentSource(ABC):
    """Gives documents in an order that depends on nothing but its settings and the seed."""

    max_group_frac = 1.0  # of the source's characters that one group may supply

    def __init__(self) -> None:
        self.tally = Tally()

    @abstractmethod
    def documents(self, closed: Set[str]) -> Iterator[Document]:
        """Documents, without those of groups that are in ``closed``, a set that grows while it is read."""


class FunctionSource(DocumentSource):
    """A source of real code, which it cuts into functions."""

    def __init__(self, limits: CodeSource) -> None:
        super().__init__()
        self._limits = limits

    def read(self, path: Path) -> str | None:
        """The text of a source file; None, counted by reason, where it is unreadable, empty, binary or not UTF-8."""
        text, reason = None, None
        try:
            raw = path.read_bytes()
            reason = "empty file" if not raw.strip() else "binary file" if b"\0" in raw else None
            text = raw.decode("utf-8-sig")
        except OSError:
            reason = "unreadable file"
        except UnicodeDecodeError:
            reason = "file not UTF-8"
        if reason:
            self.tally.skipped[reason] += 1
            return None
        self.tally.files += 1
        return text

    def functions(self, text: str, group: str) -> list[Document]:
        """The functions of a text; none, counted, where it is not Python."""
        try:
            cut = list(cut_functions(text, self._limits.min_lines, self._limits.max_lines, self.tally.skipped))
        except NotPythonError:
            self.tally.skipped["not Python"] += 1
            return []
        except RecursionError:
            self.tally.skipped["nested too deep"] += 1
            return []
        return [Document(function, group) for function in cut]
