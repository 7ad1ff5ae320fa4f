"""The sources of the corpus by the ``kind`` that params.yaml gives them."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import FilesSource, HuggingFaceSource, IdiomsSource, InstalledSource, Source
from pipeline.data.sources.document import Document, DocumentSource, SourceError
from pipeline.data.sources.files import FileFunctions
from pipeline.data.sources.huggingface import HuggingFaceFunctions
from pipeline.data.sources.idioms import Idioms
from pipeline.data.sources.installed import InstalledFunctions
from pipeline.seeds import seed_of

__all__ = ["Document", "DocumentSource", "SourceError", "open_source"]


def open_source(settings: Source, seed: int, lock: Path) -> DocumentSource:
    """The source that the settings describe; relative globs lie beside the lock file. Raises SourceError."""
    match settings:
        case InstalledSource():
            return InstalledFunctions(settings, lock, seed_of(seed, "installed"))
        case FilesSource():
            return FileFunctions(settings, lock.parent.resolve(), seed_of(seed, "files"))
        case HuggingFaceSource():
            return HuggingFaceFunctions(settings)
        case IdiomsSource():
            return Idioms(seed_of(seed, "idioms"))
