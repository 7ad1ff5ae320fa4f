"""Marks of every place of a Python text by its syntax tree: bodies, literals, annotations (``ast``).

Unlike ``pipeline.explain.text`` this looks ahead: whether a brace opens a dictionary is known at its first colon.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import numpy as np

from pipeline.data.python_text import NOT_PYTHON, line_starts, parse
from pipeline.explain.text import Marks

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTIONS)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
EXPRESSIONS: tuple[tuple[str, tuple[type[ast.AST], ...]], ...] = (
    ("in a list", (ast.List,)),
    ("in a dictionary", (ast.Dict,)),
    ("in a set", (ast.Set,)),
    ("in a tuple", (ast.Tuple,)),
    ("in a comprehension", COMPREHENSIONS),
    ("in a lambda", (ast.Lambda,)),
    ("in a conditional expression", (ast.IfExp,)),
    ("in a comparison", (ast.Compare,)),
    ("in arithmetic", (ast.BinOp,)),
)
BODIES: tuple[tuple[str, tuple[type[ast.AST], ...]], ...] = (
    ("in a class body", (ast.ClassDef,)),
    ("in a function body", FUNCTIONS),
    ("in the body of a for loop", (ast.For, ast.AsyncFor)),
    ("in the body of a while loop", (ast.While,)),
    ("in the body of an if", (ast.If,)),
    ("in the body of a with", (ast.With, ast.AsyncWith)),
    ("in the body of a try", (ast.Try,)),
    ("in the body of an except", (ast.ExceptHandler,)),
)
SYNTAX = (
    *(name for name, _ in EXPRESSIONS),
    *(name for name, _ in BODIES),
    "in a nested function",
    "in a docstring",
    "in a type annotation",
    "in a decorator",
    "in a parameter's default",
)


def parsed(text: str) -> Marks | None:
    """The marks at each of the ``len(text) + 1`` places of a text, named as in labels; None where it is not Python."""
    if "\r" in text:  # a line's end for ast, and none for tokenize
        return None
    try:
        tree = parse(text)
    except NOT_PYTHON:
        return None
    marks = {name: np.zeros(len(text) + 1, bool) for name in SYNTAX}
    places = _Places(text)
    for name, node in spans(tree):
        start, end = places.of(node)
        marks[name][start + 1 : end] = True
    for name, body in bodies(tree):
        start, end = places.of(body[0])[0], places.of(body[-1])[1]
        marks[name][start : end + 1] = True
    return marks


def spans(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Names of marks and the nodes inside which they hold: after their first character, before their last is read."""
    for node in ast.walk(tree):
        yield from ((name, node) for name, kinds in EXPRESSIONS if isinstance(node, kinds))
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            yield "in a docstring", node.body[0]
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            yield from (("in a decorator", part) for part in node.decorator_list)
        if isinstance(node, FUNCTIONS):
            yield from (("in a type annotation", part) for part in [node.returns] if part is not None)
        if isinstance(node, ast.arguments):
            yield from (("in a parameter's default", part) for part in [*node.defaults, *node.kw_defaults] if part)
        if isinstance(node, (ast.arg, ast.AnnAssign)) and node.annotation is not None:
            yield "in a type annotation", node.annotation


def bodies(tree: ast.AST) -> Iterator[tuple[str, list[ast.stmt]]]:
    """Names of marks and the statements in which they hold, from the first character of the first to the last's end."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body:
            continue
        yield from ((name, body) for name, kinds in BODIES if isinstance(node, kinds))
        if isinstance(node, FUNCTIONS):
            inside = (part for statement in node.body for part in ast.walk(statement))
            yield from (("in a nested function", part.body) for part in inside if isinstance(part, FUNCTIONS))


class _Places:
    """Places of nodes in their text: ast counts columns in bytes of UTF-8."""

    def __init__(self, text: str) -> None:
        self.starts = line_starts(text)
        self.lines = [text[a:b] for a, b in zip(self.starts[:-1], self.starts[1:], strict=True)]

    def of(self, node: ast.AST) -> tuple[int, int]:
        """Where a node begins and ends."""
        ends = [(getattr(node, f"{end}lineno"), getattr(node, f"{end}col_offset")) for end in ("", "end_")]
        start, end = (self._place(row - 1, column) for row, column in ends)
        return start, end

    def _place(self, row: int, column: int) -> int:
        line = self.lines[row]
        return self.starts[row] + (column if line.isascii() else len(line.encode()[:column].decode()))
