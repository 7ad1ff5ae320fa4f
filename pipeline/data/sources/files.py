"""The user's own files: .py, and .jsonl or .parquet with one text a row."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import suppress
from pathlib import Path

import pyarrow
import pyarrow.parquet

from pipeline.artifacts import memory_ended
from pipeline.config import FilesSource
from pipeline.data.sources.document import Document, FunctionSource, SourceError

SUFFIXES = (".py", ".jsonl", ".parquet")
UNREADABLE = (pyarrow.ArrowException, OSError, UnicodeDecodeError)  # raised for a damaged Parquet file
SHOWN = 8  # names of columns in a message


class FileFunctions(FunctionSource):
    """The source ``files``. Raises SourceError for a glob that matches nothing or matches another kind of file."""

    def __init__(self, settings: FilesSource, folder: Path, seed: int) -> None:
        super().__init__(settings)
        self._column = settings.column
        found = {path for pattern in settings.globs for path in _match(pattern, folder)}
        paths = {path: _stable(path, folder) for path in _once(found)}
        for path in [path for path, name in paths.items() if not _is_text(name)]:
            del paths[path]
            self.tally.skipped["file name not UTF-8"] += 1
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
            yield from self._jsonl(path, text, name) if path.suffix == ".jsonl" else [(name, text)]

    def _jsonl(self, path: Path, text: str, name: str) -> Iterator[tuple[str, str]]:
        """The rows' texts. Raises SourceError where there are rows, but none has the column."""
        n_found, known = 0, dict[str, None]()
        for number, line in enumerate(text.split("\n")):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                self.tally.skipped["row without the column"] += 1
                continue
            value = row.get(self._column) if isinstance(row, dict) else None
            if not isinstance(value, str):
                self.tally.skipped["row without the column"] += 1
                known |= dict.fromkeys(row) if isinstance(row, dict) and self._column not in row else {}
            elif not _is_text(value):
                self.tally.skipped["row not UTF-8"] += 1
            else:
                n_found += 1
                yield f"{name}:{number}", value
        if known and not n_found:
            raise SourceError(
                f"{path}: no column {self._column!r}; its rows have: {', '.join([*known][:SHOWN])}; "
                "set corpus.sources[].column"
            )

    def _parquet(self, path: Path, name: str) -> Iterator[tuple[str, str]]:
        """The texts of the rows; of a damaged file, those before the damage. Raises SourceError for another column."""
        try:
            table = pyarrow.parquet.ParquetFile(path)
            schema = table.schema_arrow
        except UNREADABLE as error:
            self._damaged(path, error)
            return
        self._check_column(path, schema)
        self.tally.files += 1
        batches, number = table.iter_batches(batch_size=256, columns=[self._column]), 0
        while True:
            try:
                column = next(batches).column(0)
                raw = (column.dictionary_decode() if pyarrow.types.is_dictionary(column.type) else column).cast(
                    "binary"
                )
            except StopIteration:
                return
            except UNREADABLE as error:
                self._damaged(path, error)
                return
            for value in raw.to_pylist():
                number += 1
                if (text := self._decoded(value)) is not None:
                    yield f"{name}:{number}", text

    def _damaged(self, path: Path, error: Exception) -> None:
        """Count a file that cannot be read. Raises the error where that is for want of memory."""
        if memory_ended(error, path):
            raise error
        self.tally.skipped["unreadable file"] += 1

    def _check_column(self, path: Path, schema: pyarrow.Schema) -> None:
        """Raises SourceError where the column is not there, or holds no text."""
        if self._column not in schema.names:
            raise SourceError(
                f"{path}: no column {self._column!r}; it has {', '.join(schema.names)}; set corpus.sources[].column"
            )
        kind = schema.field(self._column).type
        kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            what = "a struct" if pyarrow.types.is_struct(kind) else f"of type {kind}"
            raise SourceError(f"{path}: column {self._column} is {what}, text wanted; set corpus.sources[].column")

    def _decoded(self, value: bytes | None) -> str | None:
        """The text of a row; None, counted, where it is empty or not UTF-8."""
        try:
            text = (value or b"").decode()
        except UnicodeDecodeError:
            self.tally.skipped["row not UTF-8"] += 1
            return None
        if not text.strip():
            self.tally.skipped["empty row"] += 1
            return None
        return text


def _is_text(value: str) -> bool:
    """Whether a string is whole characters: JSON and names of files can hold halves."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _match(pattern: str, folder: Path) -> list[Path]:
    """The files that a glob matches, relative ones below ``folder``, whose own name is no pattern."""
    asked = Path(pattern)
    start, parts = (Path(asked.anchor), asked.parts[1:]) if asked.is_absolute() else (folder, asked.parts)
    found = [path for path in _expanded(start, parts) if path.is_file()]
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


def _expanded(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """The paths below a folder that the parts of a glob fit; ``**`` is the folder itself and every one below it."""
    if not parts:
        yield folder
    elif parts[0] == "**":
        for below in _folders(folder, set()):
            yield from _expanded(below, parts[1:])
    elif parts[0] == "..":
        yield from _expanded(folder / "..", parts[1:])
    else:
        for name in glob.glob(parts[0], root_dir=folder):
            yield from _expanded(folder / name, parts[1:])


def _folders(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """A folder and all below it but hidden ones, links among them, each once: a link may lead to its own folder."""
    place = folder.resolve()
    if place in seen or not folder.is_dir():
        return
    seen.add(place)
    yield folder
    with suppress(OSError):  # one that may not be read
        for name in sorted(os.listdir(folder)):
            if not name.startswith("."):
                yield from _folders(folder / name, seen)


def _once(paths: Iterable[Path]) -> list[Path]:
    """Every file once, by the shortest of the paths that lead to it."""
    found: dict[Path, Path] = {}
    for path in sorted(paths, key=lambda path: (len(path.parts), path)):
        found.setdefault(path.resolve(), path)
    return list(found.values())


def _stable(path: Path, folder: Path) -> str:
    """The file's name, free of where the project lies as long as the file lies in it."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()
