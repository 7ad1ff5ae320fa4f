"""The one error of this package, the line that refuses options by name, and JSON of others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.artifacts import ArtifactError


class FormatError(ArtifactError):
    """A file in a format of another project that cannot be read, or a model that a format cannot hold."""


def refuse(place: Path | str, reasons: Iterable[str], instead: str) -> None:
    """Raises FormatError with all reasons in one line, where there are any; ``instead``: what is allowed."""
    if found := list(reasons):
        raise FormatError(f"{place}: {'; '.join(found)}; {instead}")


@contextmanager
def as_written(place: Path | str) -> Iterator[None]:
    """Turn what Python raises at a structure that is not as its library writes it into a FormatError of one line."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise FormatError(f"{place}: not as its library writes it ({what}); get it again") from error


def read_json(path: Path) -> Any:
    """The value in a JSON file of another project. Raises FormatError where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: damaged, no whole file of JSON ({error}); get it again") from error
