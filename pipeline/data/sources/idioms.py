"""Generated idioms as a source of the corpus; the generator is ``pipeline.data.idioms``."""

from __future__ import annotations

from collections.abc import Iterator, Set
from itertools import count
from random import Random

from pipeline.data.idioms import write_document
from pipeline.data.sources.document import Document, DocumentSource
from pipeline.seeds import seed_of

FILE_SIZE = 20  # documents of a pseudo-file, the unit in which idioms are split into training and validation


class Idioms(DocumentSource):
    """The source ``idioms``: pseudo-files without end, each generated from a seed of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed

    def documents(self, closed: Set[str]) -> Iterator[Document]:
        for name in (f"idioms/{number:06d}" for number in count()):
            rng = Random(seed_of(self._seed, name))
            self.tally.files += 1
            for _ in range(FILE_SIZE):
                yield Document(write_document(rng), name)
