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
from pipeline.data.sources.document import Document, FunctionSource, SourceError

SUFFIXES = (".py", ".jsonl", ".parquet")


class FileFunctions(FunctionSource):
    """The source ``files``. Raises SourceError for a glob that matches nothing or matches another kind of file."""

    def __init__(self, settings: FilesSource, folder: Path, seed: int) -> None:
        super().__init__(settings)
        self._column = settings.column
        paths = {path: _stable(path, folder) for pattern in settings.globs for path in _match(pattern, folder)}
        ordered = sorted(paths, key=lambda path: (hashlib.sha256(f"{seed}\0{paths[path]}".encode()).digest(), path))
        self._paths = {path: paths[path] for path in ordered}

    def documents(self, closed: Set[str]) -> Iterator[Document]:
        for path, name in self._paths.items():
            for group, text in self._texts(path, name):
                yield from self.functions(text, group)

    def _texts(self, path: Path, name: str) -> Iterator[tuple[str, str]]:
        """The texts of a file; a row of .jsonl or .parquet stands for a source file."""
        if path.suffix == ".parquet":
            yield from self._parquet(path, name)
        elif (text := self.read(path)) is not None:
            yield from self._jsonl(text, name) if path.suffix == ".jsonl" else [(name, text)]

    def _jsonl(self, text: str, name: str) -> Iterator[tuple[str, str]]:
        for number, line in enumerate(text.split("\n")):
            try:
                value = json.loads(line)[self._column] if line.strip() else ""
            except (ValueError, KeyError, TypeError):
                value = None
            if not isinstance(value, str):
                self.tally.skipped["row without the column"] += 1
            elif line.strip():
                yield f"{name}:{number}", value

    def _parquet(self, path: Path, name: str) -> Iterator[tuple[str, str]]:
        try:
            table = pyarrow.parquet.ParquetFile(path)
        except (pyarrow.ArrowInvalid, OSError):
            self.tally.skipped["unreadable file"] += 1
            return
        if self._column not in table.schema_arrow.names:
            raise SourceError(
                f"{path}: no column {self._column!r}; it has {', '.join(table.schema_arrow.names)}; "
                "set corpus.sources[].column"
            )
        self.tally.files += 1
        batches = table.iter_batches(batch_size=256, columns=[self._column])
        for number, value in enumerate((value for batch in batches for value in batch.column(0).to_pylist()), start=1):
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
