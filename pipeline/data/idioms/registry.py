"""The lists of templates, filled by decorators, and the weighted drawing of one of them.

Three shapes: a *line* is one statement on one line, a *block* has lines inside it, a *story* has several parts that
other statements may come between (first ``names = set()``, later ``names.add(x)``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Generic, TypeVar

from pipeline.data.idioms.scope import Lines, Scope

LineTemplate = Callable[[Scope], str]
BlockTemplate = Callable[[Scope], Lines]
StoryTemplate = Callable[[Scope], Iterator[Lines]]
Template = TypeVar("Template", LineTemplate, BlockTemplate, StoryTemplate)


class Registry(Generic[Template]):
    """Templates of one shape, each with a weight."""

    def __init__(self) -> None:
        self._templates: list[Template] = []
        self._weights: list[float] = []
        self._cumulative: list[float] = []

    def add(self, weight: float) -> Callable[[Template], Template]:
        """A decorator that registers a template."""

        def register(template: Template) -> Template:
            self._templates.append(template)
            self._weights.append(weight)
            self._cumulative = list(accumulate(self._weights))
            return template

        return register

    def draw(self, scope: Scope) -> Template:
        """One template, by weight."""
        return scope.rng.choices(self._templates, cum_weights=self._cumulative)[0]

    def __len__(self) -> int:
        return len(self._templates)


LINES: Registry[LineTemplate] = Registry()
BLOCKS: Registry[BlockTemplate] = Registry()
STORIES: Registry[StoryTemplate] = Registry()
