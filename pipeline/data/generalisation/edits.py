"""Changes to one side of a contrast pair that keep prompt, answer and the text after it apart."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise

from pipeline.data.tasks.base import Side

RESERVED = {*keyword.kwlist, *keyword.softkwlist, *dir(builtins), "self", "cls"}
LEXEME = re.compile(
    r"(?P<string>(?P<prefix>\b[A-Za-z]{1,2})?(?P<quote>[\"'])(?P<inside>(?:\\.|(?!(?P=quote)).)*)(?:(?P=quote)|$))"
    r"|(?P<comment>#.*)|(?P<attribute>\.\s*[^\W\d]\w*)|(?P<name>\b[^\W\d]\w*)"
)
VALUE = re.compile(r"\{[^{}]*\}?")  # in an f-string

Edit = tuple[int, int, str]  # from, to, what comes there


def edited(side: Side, edits: list[Edit]) -> Side:
    """The side with edits of its whole text; what begins in prompt, answer or after stays there."""
    ends = (0, len(side.prompt), len(side.prompt) + len(side.answer), len(side.text) + 1)
    parts = []
    for low, high in pairwise(ends):
        part = side.text[low:high]
        for start, stop, new in sorted(edits, reverse=True):
            if low <= start < high:
                part = part[: start - low] + new + part[stop - low :]
        parts.append(part)
    return Side(*parts)


def identifiers(text: str) -> list[str]:
    """Names that code gives as it likes: no keywords, builtins, special names, attributes, words of strings."""
    found = [match["name"] for match in LEXEME.finditer(text) if match["name"]]
    return [name for name in dict.fromkeys(found) if name not in RESERVED and not name.startswith("__")]


def renamed(side: Side, new: Mapping[str, str]) -> Side:
    """The side with other identifiers, also as attributes and in the values of f-strings."""
    return edited(side, list(_renamings(side.text, new)))


def _renamings(text: str, new: Mapping[str, str]) -> Iterator[Edit]:
    for match in LEXEME.finditer(text):
        if match["string"]:
            if "f" in (match["prefix"] or "").lower():
                for value in VALUE.finditer(match["inside"]):
                    at = match.start("inside") + value.start()
                    yield from ((start + at, stop + at, word) for start, stop, word in _renamings(value[0], new))
        elif match["name"] or match["attribute"]:
            word = match[0].lstrip(". ")
            if word in new:
                yield match.end() - len(word), match.end(), new[word]


def indented(side: Side, spaces: int) -> Side:
    """The side one level deeper: every line that is not blank."""
    return edited(side, [(start, start, " " * spaces) for start, line in lines(side.text) if line.strip()])


def preceded(side: Side, head: str) -> Side:
    """The side with code in front of it."""
    return Side(head + side.prompt, side.answer, side.after)


def lines(text: str) -> list[tuple[int, str]]:
    """Start and text of every line, without its newline; the last one may be unfinished or empty."""
    texts = text.split("\n")
    starts = accumulate((len(line) + 1 for line in texts), initial=0)
    return list(zip(starts, texts, strict=False))
