"""The user's own files: .py, and .jsonl or .parquet with one text a row."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from pipeline.config import FilesSource
from pipeline.data.sources.document import Document, FunctionSource, SourceError

SUFFIXES = (".py", ".jsonl", ".parquet")
UNREADABLE = (pyarrow.ArrowException, OSError, UnicodeDecodeError)  # raised for a damaged Parquet file
SHOWN = 8  # names of columns in a message
NO_TEXT = "row without the column"
KINDS = {dict: "a struct", list: "a list", bool: "a boolean", type(None): "null"}  # values of JSON that are no text


class FileFunctions(FunctionSource):
    """The source ``files``. Raises SourceError for a glob that matches nothing or matches another kind of file."""

    def __init__(self, settings: FilesSource, folder: Path, seed: int) -> None:
        super().__init__(settings)
        self._column = settings.column
        closed: set[Path] = set()  # folders that may not be read
        found = {path for pattern in settings.globs for path in _match(pattern, folder, closed)}
        for path in sorted(closed):
            self.tally.lose("unreadable folder", str(path))
        paths = {path: _stable(path, folder) for path in _once(found)}
        for path in [path for path, name in paths.items() if not _is_text(name)]:
            del paths[path]
            self.tally.lose("file name not UTF-8", os.fsencode(path).decode(errors="backslashreplace"))
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
        elif path.suffix == ".jsonl":
            yield from self._jsonl(path, name)
        elif (text := self.read(path, name)) is not None:
            yield name, text

    def _jsonl(self, path: Path, name: str) -> Iterator[tuple[str, str]]:
        """The rows' texts. Raises SourceError where there are rows, but no text in the column."""
        n_found, without = 0, list[Any]()
        for number, row in self._rows(path, name):
            value = row.get(self._column) if isinstance(row, dict) else None
            if not isinstance(value, str):
                self.tally.lose(NO_TEXT, f"{name}:{number + 1}")
                without = without or [row] * isinstance(row, dict)
            elif not _is_text(value):
                self.tally.lose("row not UTF-8", f"{name}:{number + 1}")
            else:
                n_found += 1
                yield f"{name}:{number}", value
        if without and not n_found:
            raise SourceError(self._no_text(path, without[0]))

    def _rows(self, path: Path, name: str) -> Iterator[tuple[int, Any]]:
        """The rows of a .jsonl file that are JSON, by their number from 0; the others are counted."""
        number = -1
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file):
                    if number == 0 and b"\0" in line:
                        return self.tally.lose("binary file", name)
                    self.tally.files += number == 0
                    if line.strip():
                        yield from self._row(line, number, name)
        except OSError as error:
            return self.lose_file(path, name, error)
        self.tally.skipped += Counter({"empty file": number < 0})  # not kept where it is 0

    def _row(self, line: bytes, number: int, name: str) -> Iterator[tuple[int, Any]]:
        try:
            yield number, json.loads(line.decode("utf-8-sig"))
        except UnicodeDecodeError:
            self.tally.lose("row not UTF-8", f"{name}:{number + 1}")
        except (ValueError, RecursionError):
            self.tally.lose(NO_TEXT, f"{name}:{number + 1}")

    def _no_text(self, path: Path, row: dict[str, Any]) -> str:
        """What is wrong with a file none of whose rows has text in the column, by the first of them."""
        if self._column in row:
            kind = KINDS.get(type(row[self._column]), "a number")
            return f"{path}: column {self._column} is {kind}, text wanted; set corpus.sources[].column"
        found = ", ".join([*row][:SHOWN])
        return f"{path}: no column {self._column!r}; its rows have: {found}; set corpus.sources[].column"

    def _parquet(self, path: Path, name: str) -> Iterator[tuple[str, str]]:
        """The texts of the rows; of a damaged file, those before the damage. Raises SourceError for another column."""
        try:
            table = pyarrow.parquet.ParquetFile(path)
            schema = table.schema_arrow
        except UNREADABLE as error:
            self.lose_file(path, name, error)
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
                self.lose_file(path, name, error)
                return
            for value in raw.to_pylist():
                number += 1
                if (text := self._decoded(value, f"{name}:{number}")) is not None:
                    yield f"{name}:{number}", text

    def _check_column(self, path: Path, schema: pyarrow.Schema) -> None:
        """Raises SourceError where the column is not there, or holds no text."""
        if self._column not in schema.names:
            raise SourceError(
                f"{path}: no column {self._column!r}; it has {', '.join(schema.names)}; set corpus.sources[].column"
            )
        if schema.names.count(self._column) > 1:
            raise SourceError(f"{path}: two columns {self._column!r}; allowed: one; rename the other")
        kind = schema.field(self._column).type
        kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            what = "a struct" if pyarrow.types.is_struct(kind) else f"of type {kind}"
            raise SourceError(f"{path}: column {self._column} is {what}, text wanted; set corpus.sources[].column")

    def _decoded(self, value: bytes | None, name: str) -> str | None:
        """The text of a row; None, counted, where it is empty or not UTF-8."""
        try:
            text = (value or b"").decode()
        except UnicodeDecodeError:
            self.tally.lose("row not UTF-8", name)
            return None
        if not text.strip():
            self.tally.skipped["empty row"] += 1
            return None
        return text


def _is_text(value: str) -> bool:
    """Whether a string is whole characters: JSON and names of files can hold halves."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _match(pattern: str, folder: Path, closed: set[Path]) -> list[Path]:
    """The files that a glob matches, relative ones below ``folder``, whose own name is no pattern; folders that may not
    be read are added to ``closed``."""
    asked = Path(pattern)
    start, parts = (Path(asked.anchor), asked.parts[1:]) if asked.is_absolute() else (folder, asked.parts)
    found = [path for path in _expanded(start, parts, closed) if _is_file(path)]
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


def _is_file(path: Path) -> bool:
    """Whether it is a regular file: no folder, pipe or device. One in a folder that is closed counts: reading it will
    say that it is unreadable."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except PermissionError:
        return True
    except OSError:  # a link to nothing, or to itself
        return False


def _expanded(folder: Path, parts: Sequence[str], closed: set[Path]) -> Iterator[Path]:
    """The paths below a folder that the parts of a glob fit; ``**`` is the folder itself and every one below it."""
    if not parts:
        yield folder
    elif parts[0] == "**":
        for below in _folders(folder, closed):
            yield from _expanded(below, parts[1:], closed)
    elif parts[0] == "..":
        yield from _expanded(folder / "..", parts[1:], closed)
    else:
        for name in glob.glob(parts[0], root_dir=folder):
            yield from _expanded(folder / name, parts[1:], closed)


def _folders(folder: Path, closed: set[Path]) -> Iterator[Path]:
    """A folder and all below it but hidden ones, links among them, each once: a link may lead to its own folder."""
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        try:
            found = place.stat()
            if (found.st_dev, found.st_ino) in seen or not stat.S_ISDIR(found.st_mode):
                continue
            seen.add((found.st_dev, found.st_ino))
            names = [name for name in sorted(os.listdir(place), reverse=True) if not name.startswith(".")]
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            if error.errno != errno.ELOOP:  # a link to itself
                closed.add(place)
            continue
        yield place
        waiting += [place / name for name in names]


def _once(paths: Iterable[Path]) -> list[Path]:
    """Every file once, by the shortest of the paths that lead to it."""
    found: dict[Path, Path] = {}
    for path in sorted(paths, key=lambda path: (len(path.parts), path)):
        found.setdefault(path.resolve(), path)
    return list(found.values())


def _stable(path: Path, folder: Path) -> str:
    """The file's name, free of where the project lies as long as the file lies in it."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()
