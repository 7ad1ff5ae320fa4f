"""Marks of every place of a Python text by its tokens alone: strings, brackets, lines (standard library's
``tokenize``).

A place is between two characters. A mark is true of a place when the text up to there has been read: after an opening
quote one is inside a string, after the closing one no more. That is all that a causal model can know.
"""

from __future__ import annotations

import builtins
import keyword
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.data.python_text import NOT_TOKENS, Lexeme, lexemes

Marks = dict[str, npt.NDArray[np.bool_]]
Levels = dict[str, npt.NDArray[np.float32]]

QUIET = ("ENCODING", "INDENT", "DEDENT", "ENDMARKER")
BRACKETS = {"(": "round", "[": "square", "{": "curly"}
CLOSING = {")": "round", "]": "square", "}": "curly"}
HEADERS = ("def", "class", "if", "elif", "else", "for", "while", "with", "try", "except", "return", "import", "from",
           "raise", "assert", "yield")  # fmt: skip
BUILTINS = frozenset(dir(builtins))
DEPTHS = {1: "inside brackets", 2: "inside two or more brackets", 3: "inside three or more brackets"}


def pieces(text: str) -> tuple[list[Lexeme], bool]:
    """The visible tokens of a text, and whether the tokenizer came to the end; else as far as it came."""
    found: list[Lexeme] = []
    try:
        found.extend(piece for piece in lexemes(text) if piece.text and piece.kind not in QUIET)
    except NOT_TOKENS:
        return found, False
    return found, True


@dataclass
class State:
    """Brackets and statements that are open after the tokens that were read."""

    stack: list[tuple[str, str]] = field(default_factory=list)  # (bracket, its purpose), the innermost last
    line: str = ""  # the keyword that the statement begins with
    first: bool = True  # nothing of the statement was read
    value: bool = False  # after an assignment's =
    argument: bool = False  # after the = of a keyword argument or of a parameter's default
    before: Lexeme | None = None

    def read(self, piece: Lexeme) -> None:
        """Go on over one token."""
        if piece.kind in ("NL", "COMMENT"):
            return
        if piece.kind == "NEWLINE":
            self.line, self.first, self.value, self.argument, self.before = "", True, False, False, None
            return
        if self.first:
            self.line = piece.text if piece.text in HEADERS else ""
        self._brackets(piece)
        if piece.text == "=":
            self.value, self.argument = self.value or not self.stack, bool(self.stack)
        elif piece.text in (",", *BRACKETS, *CLOSING):
            self.argument = False
        # a statement goes on after "async", and another one may follow in the line of a header
        self.first = piece.text == "async" or (piece.text == ":" and not self.stack and self.line in HEADERS)
        self.before = piece

    def _brackets(self, piece: Lexeme) -> None:
        if piece.text in BRACKETS:
            self.stack.append((BRACKETS[piece.text], self._opened_by(piece)))
        elif piece.text in CLOSING and self.stack:
            self.stack.pop()

    def _opened_by(self, piece: Lexeme) -> str:
        """The purpose of a bracket: parameters, arguments, a subscript, or only a bracket."""
        before = self.before
        named = before is not None and (
            (before.kind == "NAME" and not keyword.iskeyword(before.text)) or before.text in (")", "]")
        )
        if piece.text == "(" and named:
            return "parameters" if self.line == "def" and not self.stack else "arguments"
        return "subscript" if piece.text == "[" and named else "bracket"


def described(text: str) -> tuple[Marks, Levels, bool]:
    """The marks at each of the ``len(text) + 1`` places, the levels there, and whether the tokenizer came to the end.

    Marks are named as a label says them ("inside a comment"), levels by the quantity ("bracket depth").
    """
    found, whole = pieces(text)
    n = len(text) + 1
    marks = {name: np.zeros(n, bool) for name in MARKS}
    levels = {name: np.zeros(n, np.float32) for name in LEVELS}
    state, at = State(), 0
    for piece in found:
        _fill(marks, levels, state, at, piece.end)
        state.read(piece)
        at = piece.end
    _fill(marks, levels, state, at, n)
    for piece in found:
        if piece.kind == "STRING":
            _string(marks, piece)
        elif piece.kind == "COMMENT":
            marks["inside a comment"][piece.start + 1 : piece.end + 1] = True
    _kinds(marks, found)
    _lines(marks, levels, text)
    return marks, levels, whole


def _fill(marks: Marks, levels: Levels, state: State, start: int, end: int) -> None:
    """Write down the open brackets and statements from one place up to another."""
    here = slice(start, end)
    depth = {kind: sum(kind == bracket for bracket, _ in state.stack) for kind in BRACKETS.values()}
    levels["bracket depth"][here] = len(state.stack)
    for kind in depth:
        levels[f"depth of {kind} brackets"][here] = depth[kind]
        marks[f"inside {kind} brackets"][here] = depth[kind] > 0
    for least, name in DEPTHS.items():
        marks[name][here] = len(state.stack) >= least
    if state.stack:
        bracket, of = state.stack[-1]
        marks[f"directly inside {bracket} brackets"][here] = True
        if of != "bracket":
            marks[PURPOSES[of]][here] = True
    if state.line:
        marks[f"in a statement that begins with {state.line}"][here] = True
    marks["after an assignment's ="][here] = state.value
    marks["in a keyword argument's value"][here] = state.argument


def _string(marks: Marks, piece: Lexeme) -> None:
    """Write down one string: from its opening quotes on, until its closing ones are read."""
    opening = piece.text.index(min((q for q in "'\"" if q in piece.text), key=piece.text.index))
    quote = piece.text[opening]
    long = piece.text[opening : opening + 3] == 3 * quote and len(piece.text) - opening >= 6
    prefix, start = piece.text[:opening].lower(), piece.start + opening + (3 if long else 1)
    here = slice(start, piece.end)
    marks["inside a string"][here] = True
    marks[f"inside a {'double' if quote == chr(34) else 'single'}-quoted string"][here] = True
    marks["inside a triple-quoted string"][here] = long
    if "f" in prefix:
        marks["inside an f-string"][here] = True
        _fields(marks["inside an f-string's braces"], piece.text, piece.start, start - piece.start)


def _fields(mark: npt.NDArray[np.bool_], text: str, start: int, opening: int) -> None:
    """Write down the replacement fields of an f-string; a doubled brace is plain text."""
    depth, at = 0, opening
    while at < len(text):
        if depth == 0 and text[at : at + 2] in ("{{", "}}"):
            at += 2
            continue
        depth = max(0, depth + (text[at] == "{") - (text[at] == "}"))
        mark[start + at + 1] = depth > 0
        at += 1


def _kinds(marks: Marks, found: list[Lexeme]) -> None:
    """Write down the kind of token that the last character read belongs to."""
    before = ""
    for piece in found:
        if piece.kind != "COMMENT":
            marks[f"at {_kind(piece, before)}"][piece.start + 1 : piece.end + 1] = True
        before = piece.text


def _kind(piece: Lexeme, before: str) -> str:
    if piece.kind == "NAME":
        if keyword.iskeyword(piece.text):
            return "a keyword"
        if before in (".", "def", "class"):
            return "an attribute" if before == "." else "the name of a definition"
        return "a builtin's name" if piece.text in BUILTINS else "a name"
    if piece.kind in ("NEWLINE", "NL"):
        return "the end of a line"
    return {"NUMBER": "a number", "STRING": "a string"}.get(piece.kind, "an operator")


def _lines(marks: Marks, levels: Levels, text: str) -> None:
    """Write down where in its line each place is."""
    start = 0
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip(" \t"))
        here, since = slice(start, start + len(line) + 1), np.arange(len(line) + 1)
        levels["characters since the line's start"][here] = since
        levels["indentation"][here] = np.minimum(since, indent)
        marks["before the line's first word"][start : start + indent + 1] = True
        start = here.stop


PURPOSES = {
    "arguments": "in a call's arguments",
    "parameters": "in a function's parameters",
    "subscript": "in a subscript",
}
KINDS = ("a keyword", "a name", "a builtin's name", "an attribute", "the name of a definition", "a number", "a string",
         "an operator", "the end of a line")  # fmt: skip
MARKS = (
    *(f"inside {kind} brackets" for kind in BRACKETS.values()),
    *(f"directly inside {kind} brackets" for kind in BRACKETS.values()),
    *DEPTHS.values(),
    *PURPOSES.values(),
    *(f"in a statement that begins with {word}" for word in HEADERS),
    "after an assignment's =",
    "in a keyword argument's value",
    "inside a string",
    "inside a single-quoted string",
    "inside a double-quoted string",
    "inside a triple-quoted string",
    "inside an f-string",
    "inside an f-string's braces",
    "inside a comment",
    *(f"at {kind}" for kind in KINDS),
    "before the line's first word",
)
LEVELS = (
    "bracket depth",
    *(f"depth of {kind} brackets" for kind in BRACKETS.values()),
    "characters since the line's start",
    "indentation",
)
