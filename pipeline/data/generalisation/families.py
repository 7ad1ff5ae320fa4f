"""Families of changed test pairs. Both sides change alike, so that the same text goes on deciding the answer.

The task's algorithm stays right on changed pairs. Algorithms that lean on the usual names, on positions, on nearby
marks or on how prompts begin fail.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from pipeline.data.generalisation.edits import edited, identifiers, indented, lines, preceded, renamed
from pipeline.data.tasks.base import Pair, Side
from pipeline.data.words import TASK_WORDS

LEAST_TOKENS = 12  # of a function that makes a prompt longer


@dataclass(frozen=True)
class Change:
    """The material with which a family changes one pair of one task."""

    task: str
    rng: Random
    plain: list[str] | None  # names of one token, where the answers are names to be copied
    functions: list[tuple[int, str]]  # whole functions with their numbers of tokens, the shortest first
    room: int  # tokens by which the prompts may grow


# Names that a task's definition fixes, besides those in its answers.
FIXED = {"set_or_string_fixedvarname": {"current"}}

# Marks to put in a comment, where they decide nothing, though they would in code: one for each answer.
STRAY = {
    "single_double_quote": ("('", '("'),
    "bracket_counting": ("[", "[["),
    "set_or_string": ("set()", '""'),
    "set_or_string_fixedvarname": ("set()", '""'),
    "final_kwarg": ("=None,", "(key,"),
    "class_init": ("self.name = name", "self.value = value"),
    "with_as": ("with open(", "f = open("),
    "bracket_brace": ("{", "["),
    "with_open": ("input", "output"),
    "for_while": ("for", "while"),
    "else_elif": ("else", "elif"),
    "fstring_brace": ('(f"', '("'),
    "if_ternary": ("if", "a = b if"),
    "var_swap": ("x, y", "y, x"),
    "indent_for": ("for", "        for"),
    "lambda_func": ("lambda", "def"),
    "if_equals": ("if", "="),
    "enumerate_range": ("i, x", "for i in"),
    "var_if": ("if", "=="),
    "while_return_true": ("while True", "return True"),
}
ANY_STRAY = ("it's [", 'a ("', "{ if", "= while")
COMMENTS = ("# not {} here", "# see {} below", "# {} comes later", "# no {} yet")


def names(pair: Pair, change: Change) -> Pair | None:
    """Other names in another style; names to be copied become others that are as plain."""
    answers = {word for side in pair.sides for word in re.findall(r"\w+", side.answer)}
    found = dict.fromkeys(name for side in pair.sides for name in identifiers(side.text))
    free = [name for name in found if name not in answers | FIXED.get(change.task, set())]
    taken = {*found, *answers}
    styled = _styled_names(change.rng, taken)
    new = {name: _as_class(next(styled)) if name[0].isupper() else next(styled) for name in free}
    if change.plain is not None:
        plain = [word for word in change.plain if word not in taken]
        if len(plain) < len(answers):
            return None
        new |= dict(zip(sorted(answers), change.rng.sample(plain, len(answers)), strict=True))
    return Pair(*(renamed(side, new) for side in pair.sides)) if new else None


def _as_class(name: str) -> str:
    bare = name.lstrip("_")
    return name[: -len(bare)] + bare[0].upper() + bare[1:]


def _styled_names(rng: Random, taken: set[str]) -> Iterator[str]:
    """Names of one style that the tasks do not have: camel case, letters with a digit, or a leading underscore."""
    words = [word for word in TASK_WORDS["test"].names if "_" not in word]
    styles: tuple[Callable[[], str], ...] = (
        lambda: rng.choice(words) + rng.choice(words).title(),
        lambda: rng.choice("abcdghjkmnpqrstuvwz") + str(rng.randint(0, 9)),
        lambda: "_" + rng.choice(words),
    )
    make = rng.choice(styles)
    while True:
        if (word := make()) not in taken:
            taken.add(word)
            yield word


def longer(pair: Pair, change: Change) -> Pair | None:
    """A whole function of the held-out corpus in front, of the longer half of those that fit."""
    least, most = LEAST_TOKENS, change.room - 2  # the blank lines between
    first, end = (bisect_left(change.functions, n, key=lambda item: item[0]) for n in (least, most + 1))
    if first >= end:
        return None
    _, text = change.functions[change.rng.randrange((first + end) // 2, end)]
    return Pair(*(preceded(side, text.rstrip("\n") + "\n\n\n") for side in pair.sides))


def distractor(pair: Pair, change: Change) -> Pair | None:
    """A comment, before the last line that both prompts have finished, that holds the mark of one of the answers."""
    mark = change.rng.choice(STRAY.get(change.task, ANY_STRAY))
    comment = change.rng.choice(COMMENTS).format(mark)
    whole = [[item for item in lines(side.prompt)[:-1] if item[1].strip()] for side in pair.sides]
    index = max(min(map(len, whole)) - 1, 0)
    return Pair(*(_commented(side, of[index : index + 1], comment) for side, of in zip(pair.sides, whole, strict=True)))


def _commented(side: Side, before: list[tuple[int, str]], comment: str) -> Side:
    start, line = before[0] if before else (0, "")
    indentation = line[: len(line) - len(line.lstrip())]
    return edited(side, [(start, start, f"{indentation}{comment}\n")])


def surroundings(pair: Pair, change: Change) -> Pair | None:
    """In a class or under a condition, or below imports and a constant: that alone where indentation is the answer."""
    words, rng = TASK_WORDS["test"], change.rng
    taken = {name for side in pair.sides for name in identifiers(side.text)}
    word, other = rng.sample([name for name in words.names if name not in taken], 2)
    heads = [f"import {word}\n\n{other.upper()} = {rng.randint(2, 40)}\n\n\n"]
    heads += [f"class {rng.choice(words.classes)}:\n", f"if {word}:\n"]
    if any(side.answer.isspace() and side.answer.strip("\n") for side in pair.sides):
        heads = heads[:1]
    head = rng.choice(heads)
    depth = 4 if head.endswith(":\n") else 0
    return Pair(*(preceded(indented(side, depth), head) for side in pair.sides))


Family = Callable[[Pair, Change], Pair | None]  # None: it cannot change this pair
FAMILIES: dict[str, Family] = {family.__name__: family for family in (names, longer, distractor, surroundings)}
