"""The user's own files: .py, and .jsonl or .parquet with one text a row."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterator, Set
from pathlib import Path

import pyarrow
import pyarrow.parquet

from pipeline.config import FilesSource
from pipeline.data.sources.document import Document, SourceError, Tally, functions_of, read_source

SUFFIXES = (".py", ".jsonl", ".parquet")


class FileFunctions:
    """The source ``files``. Raises SourceError for a glob that matches nothing or matches another kind of file."""

    name = "files"
    max_group_frac = 1.0

    def __init__(self, settings: FilesSource, folder: Path, seed: int) -> None:
        self.settings = settings
        self.tally = Tally()
        paths = sorted({path for pattern in settings.globs for path in _match(pattern, folder)})
        self._paths = sorted(
            paths, key=lambda path: hashlib.sha256(f"{seed}\0{_stable(path, folder)}".encode()).digest()
        )
        self._folder = folder

    def documents(self, closed: Set[str]) -> Iterator[Document]:
        for path in self._paths:
            name = _stable(path, self._folder)
            for group, text in self._texts(path, name):
                for function in functions_of(text, self.settings.min_lines, self.settings.max_lines, self.tally):
                    yield Document(function, group)

    def _texts(self, path: Path, name: str) -> Iterator[tuple[str, str]]:
        """The texts of a file; a row of .jsonl or .parquet stands for a source file."""
        if path.suffix == ".parquet":
            yield from self._parquet(path, name)
            return
        text = read_source(path, self.tally)
        if text is None:
            return
        if path.suffix == ".py":
            yield name, text
            return
        for number, line in enumerate(text.split("\n")):
            if line.strip():
                yield from self._row(f"{name}:{number}", line)

    def _row(self, group: str, line: str) -> Iterator[tuple[str, str]]:
        try:
            value = json.loads(line)[self.settings.column]
        except (ValueError, KeyError, TypeError):
            self.tally.skipped["row without the column"] += 1
            return
        if isinstance(value, str):
            yield group, value
        else:
            self.tally.skipped["row without the column"] += 1

    def _parquet(self, path: Path, name: str) -> Iterator[tuple[str, str]]:
        try:
            table = pyarrow.parquet.ParquetFile(path)
        except (pyarrow.ArrowInvalid, OSError):
            self.tally.skipped["unreadable file"] += 1
            return
        if self.settings.column not in table.schema_arrow.names:
            raise SourceError(
                f"{path}: no column {self.settings.column!r}; it has {', '.join(table.schema_arrow.names)}; "
                "set corpus.sources[].column"
            )
        self.tally.files += 1
        number = 0
        for batch in table.iter_batches(batch_size=256, columns=[self.settings.column]):
            for value in batch.column(0).to_pylist():
                number += 1
                if isinstance(value, str) and value.strip():
                    yield f"{name}:{number}", value
                else:
                    self.tally.skipped["empty row"] += 1


def _match(pattern: str, folder: Path) -> list[Path]:
    """The files that a glob matches, relative ones below ``folder``."""
    found = [Path(path) for path in glob.glob(str(folder / pattern), recursive=True) if Path(path).is_file()]
    if not found:
        raise SourceError(
            f"corpus source 'files': the glob {pattern!r} matches no file; correct corpus.sources[].globs"
        )
    wrong = [path for path in found if path.suffix not in SUFFIXES]
    if wrong:
        raise SourceError(
            f"corpus source 'files': the glob {pattern!r} matches {wrong[0]}; allowed: {', '.join(SUFFIXES)}"
        )
    return found


def _stable(path: Path, folder: Path) -> str:
    """The file's name, free of where the project lies as long as the file lies in it."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()
