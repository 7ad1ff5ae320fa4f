"""The one error of this package, and the line that refuses options by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.artifacts import ArtifactError


class FormatError(ArtifactError):
    """A file in a format of another project that cannot be read, or a model that a format cannot hold."""


def refuse(place: Path | str, reasons: Iterable[str], instead: str) -> None:
    """Raises FormatError with all reasons in one line, where there are any; ``instead``: what is allowed."""
    if found := list(reasons):
        raise FormatError(f"{place}: {'; '.join(found)}; {instead}")
