"""Rows of the ``datasets`` library: text out of local files of its kinds, and packed tokens written as its folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import whole_folder
from pipeline.data.shards import SPLITS, TokenStream
from pipeline.formats.errors import FormatError

BUILDERS = {".gz": "json", ".arrow": "arrow"}  # local files that no source of the corpus reads


def local_texts(path: Path, column: str = "text") -> Iterator[str]:
    """The texts of a .jsonl.gz or .arrow file, streamed. Raises FormatError where it or its column is missing."""
    import datasets  # slow to import

    if not path.is_file():
        raise FormatError(f"{path}: no such file")
    try:
        rows = datasets.load_dataset(BUILDERS[path.suffix], data_files=str(path), split="train", streaming=True)
        for row in rows:
            if column not in row:
                raise FormatError(f"{path}: no column {column!r}; it has {', '.join(row)}")
            if isinstance(row[column], str) and row[column]:
                yield row[column]
    except (OSError, RuntimeError, ValueError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{path}: cannot be read as a dataset ({error})") from error


def write_dataset(tokens: Path, out: Path, eot: int) -> dict[str, int]:
    """Packed tokens as a folder for ``datasets.load_from_disk``: a row a document, its ids in ``input_ids``, without
    the ``<|endoftext|>`` around them; split → rows. Raises ArtifactError for tokens that are missing."""
    import datasets

    found: dict[str, Any] = {}
    for split in SPLITS:
        stream = TokenStream.open(tokens, split)
        rows = [ids.astype(np.int32) for ids in _documents(stream, eot)]
        features = datasets.Features({"input_ids": datasets.Sequence(datasets.Value("int32"))})
        found[split] = datasets.Dataset.from_dict({"input_ids": rows}, features=features)
    with whole_folder(out) as partial:
        datasets.DatasetDict(found).save_to_disk(str(partial))
    return {split: len(rows) for split, rows in found.items()}


def _documents(stream: TokenStream, eot: int) -> Iterator[Any]:
    """The ids of every document of a stream, which has ``eot`` before and after each."""
    ends = np.flatnonzero(stream.tokens == eot)
    for start, end in zip(ends[:-1], ends[1:], strict=True):
        yield np.asarray(stream.tokens[start + 1 : end])
