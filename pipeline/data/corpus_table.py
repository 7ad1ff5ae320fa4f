"""The table of documents that the stage corpus writes, read back a few thousand rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts import ArtifactError, existing, memory_ended

ROWS_AT_ONCE = 4096


def read_corpus(corpus: Path, *columns: str) -> Iterator[pa.RecordBatch]:
    """Some columns of the corpus, in its order. Raises ArtifactError where it is missing, damaged or lacks one."""
    try:
        with pq.ParquetFile(existing(corpus, "corpus")) as file:
            missing = set(columns) - set(file.schema_arrow.names)
            if missing:
                raise ArtifactError(f"{corpus}: lacks the columns {', '.join(sorted(missing))}; run corpus again")
            yield from file.iter_batches(batch_size=ROWS_AT_ONCE, columns=list(columns))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if memory_ended(error, corpus):
            raise
        raise ArtifactError(f"{corpus}: damaged ({error}); delete it and run the stage corpus again") from error
