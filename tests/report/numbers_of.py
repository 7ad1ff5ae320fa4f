"""The report's page read back: every number in it with the path that it claims, and numbers that claim none."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from pipeline.report.marked_numbers import find
from pipeline.report.packed import unpack

VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}
ABLATED_MATRICES = {"td", "dd"}  # where every number must say where it comes from
FREE = "free"  # class of tables that need not: provenance


def unpacked(text: str) -> str:
    """The page with every packed page of a circuit put into its article."""
    packed = dict(re.findall(r'<script type="application/octet-stream" id="(page-[^"]+)">(.*?)</script>', text, re.S))
    return re.sub(
        r'(<article [^>]*data-page="([^"]+)"[^>]*>).*?</article>',
        lambda found: f"{found[1]}{unpack(packed[found[2]])}</article>",
        text,
        flags=re.S,
    )


@dataclass
class Shown:
    """One number or text of the page: where it says it is from, its exact value (None: a text), what is read."""

    path: str
    value: str | None
    text: str = ""


@dataclass
class Reader(HTMLParser):
    """Reads a page into ``shown``, and into ``loose`` what has digits in a cell but no path."""

    shown: list[Shown] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    stack: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in VOID:
            return
        self.stack.append((tag, dict(attrs)))
        if "data-path" in dict(attrs):
            self.shown.append(Shown(self._absolute(dict(attrs)["data-path"] or ""), dict(attrs).get("value")))

    def _absolute(self, path: str) -> str:
        if path.startswith("/"):
            return path
        bases = [attrs["data-at"] for _, attrs in self.stack if attrs.get("data-at")]
        return f"{bases[-1]}/{path}"

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop()[0] == tag, f"</{tag}> closes another element, line {self.getpos()[0]}"

    def handle_data(self, data: str) -> None:
        if self.stack and "data-path" in self.stack[-1][1]:
            self.shown[-1].text += data
        elif re.search(r"\d", data) and self._ablation_values():
            self.loose.append(data.strip())

    def _ablation_values(self) -> bool:
        free = any(FREE in (attrs.get("class") or "").split() for _, attrs in self.stack)
        links = any(tag == "a" and not (attrs.get("class") or "") == "cell" for tag, attrs in self.stack)
        return any(tag in ABLATED_MATRICES for tag, _ in self.stack) and not free and not links


def wrong(summary: dict[str, Any], shown: list[Shown]) -> list[str]:
    """What the page shows that the summary does not say at the path that is claimed."""
    return [f"{one.path}: {one.value} {one.text}" for one in shown if not agrees(find(summary, one.path), one)]


def agrees(truth: Any, one: Shown) -> bool:
    """Whether the exact value is the summary's, and the text is that value, rounded."""
    if one.value is None:
        return str(truth) == one.text
    percent = one.text.endswith("%")
    read = float(one.text.replace(",", "").rstrip(" %")) / (100 if percent else 1)
    decimals = len(one.text.partition(".")[2]) + (2 if percent else 0)
    digits = max(len(one.text.lstrip("-0.").replace(".", "")), 1)  # numbers written with %g
    near = max(0.5001 * 10.0**-decimals, abs(truth) * 0.5001 * 10.0 ** (1 - max(digits, 6)))
    if "e" in one.text:
        near = abs(truth) * 1e-5
    return abs(float(one.value) - truth) <= 1e-8 * abs(truth) and abs(read - truth) <= near


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(unpacked(text))
    reader.close()
    return reader
