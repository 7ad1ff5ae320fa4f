"""Lists, nested lists and dicts, on one line or over several, as parts of statements."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.data.idioms.scope import CodeLines, Scope, indent


def element(scope: Scope) -> Callable[[], str]:
    """A maker of list elements: all numbers, all names or all strings, so that a list looks like one."""
    draw = scope.rng.random()
    if draw < 0.4:
        return scope.number
    if draw < 0.58:
        return scope.some if scope.chance(0.5) else lambda: scope.rng.choice("abcdxyz")
    mark = scope.mark()
    return lambda: scope.string(mark)


def elements(scope: Scope, most: int = 6) -> list[str]:
    make = element(scope)
    return [make() for _ in range(scope.rng.randint(1, most))]


def bracketed(items: list[str], brackets: str = "[]") -> str:
    """A list or dict on one line: ``[1, 2, 3]``, ``{"key": 1, "other": value}``."""
    return brackets[0] + ", ".join(items) + brackets[1]


def rows(scope: Scope) -> list[str]:
    """The rows of a nested list: ``[1, 2]``, ``[3, 4]``."""
    make, width = element(scope), scope.rng.randint(1, 4)
    return [bracketed([make() for _ in range(width)]) for _ in range(scope.rng.choice((1, 1, 2, 2, 2, 3, 4)))]


def entries(scope: Scope, most: int = 5) -> list[str]:
    """``"key": value`` pairs with one kind of quote, the values mostly short."""
    mark = scope.mark()
    return [entry(scope, mark) for _ in range(scope.rng.randint(1, most))]


def entry(scope: Scope, mark: str) -> str:
    key = scope.word() if scope.chance(0.6) else scope.text()
    draw = scope.rng.random()
    if draw < 0.25:
        return f"{mark}{key}{mark}: {scope.string(mark)}"
    if draw < 0.5 and " " not in key:
        return f"{mark}{key}{mark}: {key}"
    value = scope.number() if draw < 0.75 else scope.some()
    return f"{mark}{key}{mark}: {value}"


def spread(scope: Scope, head: str, opening: str, items: list[str], closing: str) -> CodeLines:
    """``head`` and a literal over several lines, one item a line."""
    last = "," if scope.chance(0.7) else ""
    body = [item + "," for item in items[:-1]] + [items[-1] + last]
    return [head + opening, *indent(body), closing]


def hang(scope: Scope, items: list[str], per_line: int) -> CodeLines:
    """A fresh name becomes a list; its later lines are aligned under its first item."""
    groups = [", ".join(items[at : at + per_line]) for at in range(0, len(items), per_line)]
    head = scope.fresh("list") + " = ["
    lines = [(" " * len(head) if at else head) + group + "," for at, group in enumerate(groups)]
    return [*lines[:-1], lines[-1][:-1] + "]"]
