"""Python source to ``tokenize`` and ``ast``: the one lexer, and the one parser without warnings."""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

Function = ast.FunctionDef | ast.AsyncFunctionDef
NOT_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError)  # raised by ast.parse
NOT_TOKENS = (tokenize.TokenError, SyntaxError)  # raised by tokenize; an IndentationError is a SyntaxError


@dataclass(frozen=True)
class Lexeme:
    """A token of Python: its name in ``tokenize``, its text, and the characters where it begins and ends."""

    kind: str
    text: str
    start: int
    end: int


def lexemes(text: str) -> Iterator[Lexeme]:
    """Every token of a text, in order; an f-string is one STRING, as it was up to Python 3.11.

    The NEWLINE that a last line lacks has no text, and ends one after the text.
    Raises TokenError or SyntaxError at the first place that is not Python, after the tokens before it.
    """
    starts = line_starts(text)
    depth, begun = 0, 0
    for found in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[found.type]
        start, end = (starts[row - 1] + column for row, column in (found.start, found.end))
        opens, closes = kind.endswith("STRING_START"), kind.endswith("STRING_END")  # of f-strings, from 3.12 on
        if depth == 0:
            begun = start
        depth += opens - closes
        if depth == 0:
            yield Lexeme("STRING" if closes else kind, text[begun:end], begun, end)


def line_starts(text: str) -> list[int]:
    """The place where each line begins, and one more: where the text ends."""
    starts = [0]
    for line in io.StringIO(text):
        starts.append(starts[-1] + len(line))
    return [*starts, starts[-1]]  # tokenize's last tokens are in a line after the last


def parse(source: str | bytes) -> ast.Module:
    """The syntax tree, without warnings of invalid escapes in other people's strings. Raises one of ``NOT_PYTHON``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)
