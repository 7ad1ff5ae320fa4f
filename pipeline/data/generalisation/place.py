"""A place in code, seen from what comes before it in its prompt: the line so far, open brackets, an open string."""

from __future__ import annotations

import ast
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.data.generalisation.python_code import PythonCode, PythonToken
from pipeline.data.python_text import Function

OPENING, CLOSING = ("(", "[", "{"), (")", "]", "}")


@dataclass(frozen=True)
class Place:
    """The end of a prompt, where a model predicts. Its tokens are Python's, all that end at the place or before it."""

    code: PythonCode
    at: int  # in bytes
    start: int = 0  # of the prompt: of a line where nothing is open

    @cached_property
    def tokens(self) -> list[PythonToken]:
        every = self.code.tokens
        first = bisect_left(every, self.start, key=lambda token: token.start)
        return every[first : bisect_right(every, self.at, key=lambda token: token.end)]

    @cached_property
    def brackets(self) -> list[int]:
        """The indices of the tokens that are open brackets."""
        opened: list[int] = []
        for i, token in enumerate(self.tokens):
            if token.text in OPENING:
                opened.append(i)
            elif token.text in CLOSING:
                opened.pop()
        return opened

    @property
    def marks(self) -> list[str]:
        """The open brackets themselves."""
        return [self.tokens[i].text for i in self.brackets]

    @property
    def string(self) -> PythonToken | None:
        """The whole string that the place is inside of, its part after the place included; None outside of strings."""
        i = bisect_right(self.code.tokens, self.at, key=lambda token: token.end)
        token = self.code.tokens[i] if i < len(self.code.tokens) else None
        within = token is not None and token.kind == "STRING" and token.inside[0] <= self.at <= token.inside[1]
        return token if within else None

    @property
    def in_code(self) -> bool:
        """Whether the place is right behind a token: not inside one, nor in a comment, nor behind spaces."""
        return bool(self.tokens) and self.tokens[-1].end == self.at

    @cached_property
    def lines(self) -> list[list[PythonToken]]:
        """The tokens by lines, which go on while a bracket is open; the last one is unfinished, or empty."""
        lines: list[list[PythonToken]] = [[]]
        for token in self.tokens:
            lines[-1].append(token)
            if token.kind == "NEWLINE":
                lines.append([])
        return lines

    @property
    def line(self) -> list[PythonToken]:
        """The tokens of the line so far; none where the place is not in code."""
        return self.lines[-1] if self.in_code else []

    @property
    def ended_line(self) -> list[PythonToken]:
        """The tokens of the line that ends right here, its NEWLINE included; none where no line does."""
        return self.lines[-2] if self.in_code and self.tokens[-1].kind == "NEWLINE" else []

    def before(self, bracket: int) -> list[PythonToken]:
        """The line up to an open bracket."""
        return self.lines[-1][: bracket - len(self.tokens)]

    @property
    def words(self) -> list[str]:
        """``words_of`` the line."""
        return words_of(self.line)

    @property
    def statement(self) -> list[str]:
        """The line's words where no bracket is open, else none."""
        return [] if self.brackets else self.words

    def directly_in(self, bracket: int) -> list[PythonToken]:
        """The tokens in an open bracket, without those in inner brackets."""
        found, depth = [], 0
        for token in self.tokens[bracket + 1 :]:
            depth -= token.text in CLOSING
            if depth == 0 and token.text not in CLOSING:
                found.append(token)
            depth += token.text in OPENING
        return found

    @property
    def function(self) -> Function | None:
        """The innermost function around the place, None where its beginning is not in the prompt."""
        code = self.code
        around = [node for node in code.functions if code.start_of(node) <= self.at <= code.end_of(node)]
        return around[-1] if around and code.start_of(around[-1]) >= self.start else None

    def made_as(self, name: str) -> ast.expr | None:
        """The expression that the prompt last assigned to the name; None without one."""
        made = [(end, value) for end, target, value in self.code.assignments if target == name]
        return next((value for end, value in reversed(made) if self.start < end <= self.at), None)


def words_of(tokens: Sequence[PythonToken]) -> list[str]:
    """Keywords and operators as they are; else ``number``, ``string``, ``name``, or ``dotted`` for names with dots."""
    words: list[str] = []
    for token in tokens:
        word = "name" if token.is_identifier else token.text
        if token.kind in ("NUMBER", "STRING"):
            word = token.kind.lower()
        if word == "name" and words[-2:] in (["name", "."], ["dotted", "."]):
            words[-2:] = ["dotted"]
        else:
            words.append(word)
    return words
