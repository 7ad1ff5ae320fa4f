"""Generated idioms as a source of the corpus; the generator is ``pipeline.data.idioms``."""

from __future__ import annotations

from collections.abc import Iterator, Set

from pipeline.data.idioms import idiom_files
from pipeline.data.sources.document import Document, DocumentSource


class Idioms(DocumentSource):
    """The source ``idioms``: without end, in pseudo-files that stay whole when the splits are made."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed

    def documents(self, closed: Set[str]) -> Iterator[Document]:
        for name, texts in idiom_files(self._seed):
            self.tally.files += 1
            for text in texts:
                yield Document(text, name)
