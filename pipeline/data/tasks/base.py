"""Contrast pairs of prompts, of which a task is made, and the draws that fill them with words (§3)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.data.words import WordPool


@dataclass(frozen=True)
class Side:
    """One prompt. ``prompt + answer + after`` is code; ``after`` is there because BPE looks past the answer."""

    prompt: str
    answer: str
    after: str

    @property
    def text(self) -> str:
        return self.prompt + self.answer + self.after


@dataclass(frozen=True)
class Pair:
    """Two prompts that differ only in what decides the answer."""

    a: Side
    b: Side

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.a, self.b


@dataclass
class Draw:
    """Random words of one split's pool, no name twice within a prompt."""

    rng: random.Random
    words: WordPool
    taken: set[str] = field(default_factory=set)

    def name(self) -> str:
        """A variable's name, the shorter of two: most names in real code are one word."""
        return min(self._fresh(self.words.names), self._fresh(self.words.names), key=len)

    def names(self, count: int) -> list[str]:
        return [self.name() for _ in range(count)]

    def function(self) -> str:
        return self._fresh(self.words.functions)

    def class_name(self) -> str:
        return self._fresh(self.words.classes)

    def string(self) -> str:
        """One to three plain lower-case words."""
        return self._fresh(self.words.strings)

    def number(self) -> int:
        return self.rng.randint(2, 40)

    def pick(self, options: Sequence[str]) -> str:
        return self.rng.choice(options)

    def _fresh(self, options: Sequence[str]) -> str:
        free = next(word for word in iter(lambda: self.rng.choice(options), None) if word not in self.taken)
        self.taken.add(free)
        return free


@dataclass(frozen=True)
class Task:
    """A generator of contrast pairs and what is published about it."""

    name: str
    description: str  # first line of the generator's docstring
    decides: str  # what decides the answer
    published: tuple[str, str]  # the answers of the paper's Table 1
    variant: str | None  # how and why this project's answers differ from the published ones
    varied: bool  # the answers differ from pair to pair, and each has to be one whole token
    make: Callable[[Draw], Pair]


def header(draw: Draw, *arguments: str) -> str:
    """The first line of a function."""
    return f"def {draw.function()}({', '.join(arguments)}):\n"


def filler(draw: Draw, argument: str) -> str:
    """One ordinary line of a function's body, without quotes, that decides nothing."""
    name = draw.name()
    return draw.pick(
        (
            f"    {name} = {draw.function()}({argument})\n",
            f"    {name} = len({argument})\n",
            f"    {name} = {argument} + {draw.number()}\n",
            f"    {name} = {argument}[{draw.number()}]\n",
            f"    {name} = []\n",
            f"    print({argument})\n",
        )
    )


def contrast(head: str, a: tuple[str, str, str], b: tuple[str, str, str]) -> Pair:
    """The pair whose sides share ``head``; each side is what follows it: end of the prompt, answer, after."""
    return Pair(Side(head + a[0], *a[1:]), Side(head + b[0], *b[1:]))
