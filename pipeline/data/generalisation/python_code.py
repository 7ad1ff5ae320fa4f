"""Whole Python code by Python's own ``tokenize`` and ``ast``: its tokens, functions and assignments.

All places are in bytes from the beginning.
"""

from __future__ import annotations

import ast
import keyword
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from pipeline.data.python_text import Function, Lexeme, lexemes, parse

KEPT = {"NAME", "NUMBER", "STRING", "OP", "NEWLINE"}  # without comments, empty lines and indentation


class PythonToken(Lexeme):
    """A token whose places are in bytes, and the parts of a string."""

    @property
    def is_identifier(self) -> bool:
        return self.kind == "NAME" and not keyword.iskeyword(self.text)

    @property
    def mark(self) -> str:
        """The quotes that close a string."""
        quote = self.text[-1]
        return quote * 3 if self.text[len(self.prefix) :].startswith(quote * 3) else quote

    @property
    def prefix(self) -> str:
        """The letters before a string's quotes, as small ones."""
        return self.text[: self.text.index(self.text[-1])].lower()

    @property
    def inside(self) -> tuple[int, int]:
        """Where the text between a string's quotes starts and ends."""
        return self.start + len(self.prefix) + len(self.mark), self.end - len(self.mark)


@dataclass(frozen=True)
class PythonCode:
    """Code that is whole, such as a function."""

    text: bytes

    @cached_property
    def tokens(self) -> list[PythonToken]:
        """All of ``KEPT``. Raises SyntaxError or TokenError where the text is no Python."""
        text = self.text.decode()
        place = list(accumulate((len(character.encode()) for character in f"{text}\n"), initial=0))  # in bytes
        return [
            PythonToken(found.kind, found.text, place[found.start], place[found.end])
            for found in lexemes(text)
            if found.kind in KEPT
        ]

    @cached_property
    def line_starts(self) -> list[int]:
        """The first byte of every line of the text."""
        return list(accumulate((len(line) + 1 for line in self.text.split(b"\n")), initial=0))

    def column_of(self, token: PythonToken) -> int:
        """How far from the beginning of its line a token is."""
        return token.start - self.line_starts[bisect_right(self.line_starts, token.start) - 1]

    @cached_property
    def free_starts(self) -> frozenset[int]:
        """The places where a prompt may begin: the first byte of each line that continues no statement."""
        lines, begun = self.line_starts, None
        starts = set(lines)
        for token in self.tokens:
            begun = token.start if begun is None else begun
            if token.kind == "NEWLINE":
                starts.difference_update(lines[bisect_right(lines, begun) : bisect_left(lines, token.end)])
                begun = None
        return frozenset(starts)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All of the syntax tree, outer ones first."""
        return list(ast.walk(parse(self.text)))

    def start_of(self, node: ast.stmt) -> int:
        return self.line_starts[node.lineno - 1] + node.col_offset

    def end_of(self, node: ast.stmt) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.line_starts[node.end_lineno - 1] + node.end_col_offset

    @cached_property
    def functions(self) -> list[Function]:
        """Every function, outer ones first."""
        return [node for node in self.nodes if isinstance(node, Function)]

    @cached_property
    def assignments(self) -> list[tuple[int, str, ast.expr]]:
        """Every assignment to a name, in the order of the text: where it ends, the name, the value."""
        found = []
        for node in self.nodes:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                names = [target.id for target in targets if isinstance(target, ast.Name)]
                found += [(self.end_of(node), name, node.value) for name in names]
        return sorted(found, key=lambda item: item[0])


def parameters_of(function: Function) -> list[str]:
    """All names of a function's parameters."""
    arguments = function.args
    plain = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [argument.arg for argument in (*plain, arguments.vararg, arguments.kwarg) if argument is not None]
