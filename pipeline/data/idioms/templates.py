"""Weighted lists of templates, and the drawing of one of them.

Three shapes: a *line* is one statement on one line, a *block* has lines inside it, a *story* has several parts that
other statements may come between (first ``names = set()``, later ``names.add(x)``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Generic, TypeVar

from pipeline.data.idioms.scope import CodeLines, Scope

LineTemplate = Callable[[Scope], str]
BlockTemplate = Callable[[Scope], CodeLines]
StoryTemplate = Callable[[Scope], Iterator[CodeLines]]
Template = TypeVar("Template", LineTemplate, BlockTemplate, StoryTemplate)


class Templates(Generic[Template]):
    """Templates of one shape, each with its weight in front."""

    def __init__(self, *weighted: tuple[int, Template]) -> None:
        self._templates: list[Template] = [template for _, template in weighted]
        self._cumulative = list(accumulate(weight for weight, _ in weighted))

    def draw(self, scope: Scope) -> Template:
        """One template, by weight."""
        return scope.rng.choices(self._templates, cum_weights=self._cumulative)[0]

    def __len__(self) -> int:
        return len(self._templates)
