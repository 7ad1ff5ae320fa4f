"""Any dataset that the ``datasets`` library can stream: one of the hub, or a local folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Set
from typing import Any

import pyarrow

from pipeline.config import HuggingFaceSource
from pipeline.data.sources.document import Document, FunctionSource, SourceError

UNREADABLE = (OSError, ValueError, RuntimeError, RecursionError, StopIteration, pyarrow.ArrowException)


class HuggingFaceFunctions(FunctionSource):
    """The source ``huggingface``: rows that pass the filter, cut into functions; a row stands for a source file."""

    def __init__(self, settings: HuggingFaceSource) -> None:
        super().__init__(settings)
        self.settings = settings
        self._rows = _open(settings)

    def documents(self, closed: Set[str]) -> Iterator[Document]:
        """Functions in the dataset's own order. Raises SourceError where a column is missing or holds no text, and
        where the dataset cannot be read on."""
        wanted, other = self.settings, None
        for number, row in enumerate(self._readable()):
            self._check(row)
            text = row[wanted.column]
            if any(str(row[column]) != value for column, value in wanted.filter.items()):
                self.tally.skipped["row filtered out"] += 1
            elif not isinstance(text, str) or not text.strip():
                self.tally.skipped["empty row"] += 1
                other = text if text and not isinstance(text, str) else other
            else:
                self.tally.files += 1
                yield from self.functions(text, f"{wanted.path}:{number}")
        if other is not None and not self.tally.files:
            raise SourceError(
                f"dataset {wanted.path}: column {wanted.column} is of type {type(other).__name__}, text wanted; "
                "correct corpus.sources[].column"
            )

    def _readable(self) -> Iterator[dict[str, Any]]:
        """The rows. Raises SourceError, by the number of the row, where they cannot be read on: what is damaged there
        cannot be passed over, and a connection that broke must not make a smaller corpus in silence."""
        number = 0
        rows = iter(self._rows)
        while True:
            try:
                row = next(rows, None)
            except UNREADABLE as error:
                raise SourceError(
                    f"dataset {self.settings.path}: cannot be read after row {number} ({error}); correct "
                    "its files, or read them by the source 'files', which passes over damaged ones"
                ) from error
            if row is None:
                return
            number += 1
            yield row

    def _check(self, row: dict[str, Any]) -> None:
        for column in (self.settings.column, *self.settings.filter):
            if column not in row:
                raise SourceError(
                    f"dataset {self.settings.path}: no column {column!r}; it has {', '.join(row)}; "
                    "correct corpus.sources[].column or .filter"
                )


def _open(settings: HuggingFaceSource) -> Any:
    import datasets  # slow to import, and needed by this source only

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # of each of its retries it would warn
    whole = {"sample_by": "document"} if settings.path == "text" else {}  # a row a file, not a line
    try:
        return datasets.load_dataset(
            settings.path,
            settings.name,
            data_files=settings.data_files,
            split=settings.split,
            streaming=settings.streaming,
            **whole,
        )
    except (*UNREADABLE, datasets.exceptions.DatasetsError) as error:
        raise SourceError(
            f"dataset {settings.path!r} (name {settings.name!r}, split {settings.split!r}) cannot be opened: "
            f"{error or 'no rows'}; correct corpus.sources[] or check the connection"
        ) from error
