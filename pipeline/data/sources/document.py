"""Documents of the corpus: texts, each with the unit that may not be divided between the splits; and their sources."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.artifacts import memory_ended
from pipeline.config import CodeSource
from pipeline.data.functions import NotPythonError, cut_functions
from pipeline.refusal import RefusalError

NAMED = 8  # files and rows that a report names, for each reason


class SourceError(RefusalError, ValueError):
    """A source that gives nothing or cannot be read; the message says which and what to do."""


@dataclass(frozen=True)
class Document:
    """One function, and the package, module or file that it belongs to."""

    text: str
    group: str


@dataclass
class Tally:
    """Counts of a source: files read, texts (files and rows) taken apart, and what was left out, by reason.

    ``damaged``: reason → the first names of the files and rows that are no text, or no Python. ``n_lost``: how many
    could not be read.
    """

    files: int = 0
    n_texts: int = 0
    n_lost: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    damaged: dict[str, list[str]] = field(default_factory=dict)

    def lose(self, reason: str, name: str) -> None:
        """Note a file or a row that cannot be read."""
        self.n_lost += 1
        self.leave_out(reason, name)

    def leave_out(self, reason: str, name: str) -> None:
        """Count a file or a row that is of no use, by name."""
        self.skipped[reason] += 1
        names = self.damaged.setdefault(reason, [])
        if len(names) < NAMED:
            names.append(name)

    def said(self) -> str:
        """The reasons that have names: how many, and the first names."""
        return "; ".join(
            f"{self.skipped[reason]} {reason} ({', '.join(names)}{' …' * (self.skipped[reason] > len(names))})"
            for reason, names in self.damaged.items()
        )


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

    caught = True  # functions under except and case are read

    def __init__(self, limits: CodeSource) -> None:
        super().__init__()
        self._limits = limits

    def read(self, path: Path, name: str) -> str | None:
        """The text of a source file; None, counted by reason, where it is unreadable, empty, binary or not UTF-8."""
        try:
            raw = path.read_bytes()
            text = raw.decode("utf-8-sig")
        except OSError as error:
            self.lose_file(path, name, error)
        except UnicodeDecodeError:
            self.tally.lose("binary file" if b"\0" in raw else "file not UTF-8", name)
        else:
            if raw.strip() and b"\0" not in raw:
                self.tally.files += 1
                return text
            if raw.strip():
                self.tally.lose("binary file", name)
            else:
                self.tally.skipped["empty file"] += 1
        return None

    def lose_file(self, path: Path, name: str, error: Exception) -> None:
        """Count a file that cannot be read. Raises the error where that is for want of memory."""
        if memory_ended(error, path):
            raise error
        self.tally.lose("unreadable file", name)

    def functions(self, text: str, group: str) -> list[Document]:
        """The functions of a text; none, counted, where it is not Python."""
        self.tally.n_texts += 1
        try:
            limits, skipped = self._limits, self.tally.skipped
            cut = list(cut_functions(text, limits.min_lines, limits.max_lines, skipped, caught=self.caught))
        except NotPythonError:
            self.tally.leave_out("not Python", group)
            return []
        except RecursionError:
            self.tally.leave_out("nested too deep", group)
            return []
        return [Document(function, group) for function in cut]
