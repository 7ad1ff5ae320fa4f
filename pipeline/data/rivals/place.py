"""A place in code, seen from what comes before it: the line so far, open brackets, an open string, a def's parameters.

Scanning is by a regular expression: code that ends anywhere is not what ``tokenize`` takes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

SCAN = re.compile(
    r"(?P<comment>#[^\n]*)"
    r"|(?P<prefix>\b[A-Za-z]{1,2})?(?P<quote>\"\"\"|'''|\"|')"
    r"|(?P<open>[(\[{])|(?P<close>[)\]}])"
)
CLOSES = {")": "(", "]": "[", "}": "{"}


@dataclass(frozen=True)
class Opened:
    """A bracket or a string that is not closed yet."""

    mark: str  # the bracket, or the quotes
    start: int  # of the mark, a string's prefix left out
    end: int
    prefix: str = ""


@dataclass(frozen=True)
class Place:
    """Where the next token of a document is to be told."""

    before: str

    @cached_property
    def line(self) -> str:
        """The last line, as far as it goes."""
        return self.before[self.before.rfind("\n") + 1 :]

    @cached_property
    def _scanned(self) -> tuple[list[Opened], Opened | None, bool]:
        """Open brackets, the open string, whether a comment is open."""
        brackets: list[Opened] = []
        at = 0
        while match := SCAN.search(self.before, at):
            at = match.end()
            if match["comment"] and at == len(self.before):
                return brackets, None, True
            if match["quote"]:
                opened = Opened(match["quote"], match.start("quote"), at, (match["prefix"] or "").lower())
                end = self._end_of(opened)
                if end is None:
                    return brackets, opened, False
                at = end
            elif match["open"]:
                brackets.append(Opened(match["open"], match.start(), at))
            elif match["close"] and brackets and brackets[-1].mark == CLOSES[match["close"]]:
                brackets.pop()
        return brackets, None, False

    def _end_of(self, string: Opened) -> int | None:
        """Where a string ends, None where it does not."""
        rest = r"(?:\\[\s\S]|(?!{0}){1})*{0}"
        inside = r"[\s\S]" if len(string.mark) == 3 else r"[^\n]"
        match = re.compile(rest.format(string.mark, inside)).match(self.before, string.end)
        return match.end() if match else None

    @property
    def brackets(self) -> list[Opened]:
        return self._scanned[0]

    @property
    def string(self) -> Opened | None:
        return self._scanned[1]

    @property
    def in_code(self) -> bool:
        """Neither in a string nor in a comment."""
        return self.string is None and not self._scanned[2]

    @property
    def in_statement(self) -> bool:
        """In code, no bracket open."""
        return self.in_code and not self.brackets

    def before_mark(self, opened: Opened) -> str:
        """What comes before a bracket or a string, its prefix left out too."""
        return self.before[: opened.start - len(opened.prefix)]
