"""Any dataset that the ``datasets`` library can stream: one of the hub, or a local folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Set
from typing import Any

from pipeline.config import HuggingFaceSource
from pipeline.data.sources.document import Document, FunctionSource, SourceError


class HuggingFaceFunctions(FunctionSource):
    """The source ``huggingface``: rows that pass the filter, cut into functions; a row stands for a source file."""

    def __init__(self, settings: HuggingFaceSource) -> None:
        super().__init__(settings)
        self.settings = settings
        self._rows = _open(settings)

    def documents(self, closed: Set[str]) -> Iterator[Document]:
        """Functions in the dataset's own order. Raises SourceError where a column is missing."""
        for number, row in enumerate(self._rows):
            self._check(row)
            text = row[self.settings.column]
            if any(str(row[column]) != value for column, value in self.settings.filter.items()):
                self.tally.skipped["row filtered out"] += 1
            elif not isinstance(text, str) or not text.strip():
                self.tally.skipped["empty row"] += 1
            else:
                self.tally.files += 1
                yield from self.functions(text, f"{self.settings.path}:{number}")

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
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise SourceError(
            f"dataset {settings.path!r} (name {settings.name!r}, split {settings.split!r}) cannot be opened: {error}; "
            "correct corpus.sources[] or check the connection"
        ) from error
