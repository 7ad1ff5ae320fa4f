"""Weighted lists of templates, and the drawing of one of them.

Three shapes: a *line* is one statement on one line, a *block* has lines inside it, a *story* has several parts that
other statements may come between (first ``names = set()``, later ``names.add(x)``).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Generic, TypeVar

from pipeline.data.idioms.scope import Scope

Code = TypeVar("Code")  # of a line: str, of a block: its lines, of a story: an iterator over the lines of its parts


class Templates(Generic[Code]):
    """Templates of one shape, each with its weight in front."""

    def __init__(self, *weighted: tuple[int, Callable[[Scope], Code]]) -> None:
        self._templates = [template for _, template in weighted]
        self._cumulative = list(accumulate(weight for weight, _ in weighted))

    def write(self, scope: Scope) -> Code:
        """The code of one template, which is drawn by weight."""
        return scope.rng.choices(self._templates, cum_weights=self._cumulative)[0](scope)

    def __len__(self) -> int:
        return len(self._templates)
