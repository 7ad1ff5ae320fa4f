"""The summary's values as HTML that says where each of them comes from, so that a test can hold the page to them.

A value is written ``<data data-path="…" value="…">shown</data>``. A path's steps are joined by ``/``; it starts with
``/`` at the summary itself, otherwise at the ``data-at`` of the nearest element around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup, escape

from pipeline.report.templating import count, nats, percent, plain, ratio
from pipeline.rows import Summary

NAMES = ("name", "model", "family", "task")  # an entry of a list is named by the first of these keys that it has
DIGITS = 9  # of the exact value that the page has beside the shown one
WAYS: Mapping[str, Callable[[Any], str]] = {
    "nats": nats,
    "count": count,
    "ratio": ratio,
    "percent": percent,
    "plain": plain,
    "text": lambda value: "–" if value is None else str(value),
}


def find(root: Any, path: str) -> Any:
    """The value below ``root`` at a path: keys of mappings, and names or places in lists.

    Raises KeyError, IndexError or TypeError where there is none.
    """
    for step in path.strip("/").split("/"):
        root = root[step] if isinstance(root, Mapping) else _entry(root, step)
    return root


def _entry(entries: list[Any], step: str) -> Any:
    if step.isdigit():
        return entries[int(step)]
    for entry in entries:
        if step == next((entry[key] for key in NAMES if key in entry), None):
            return entry
    raise KeyError(step)


class Numbers:
    """``numbers(path, way)``: the value at a path below ``at``, written in one of WAYS."""

    def __init__(self, summary: Summary, at: str = "", here: Any = None) -> None:
        self.summary, self.at = summary, at
        self._here = summary if here is None else here

    def under(self, *steps: str) -> Numbers:
        """The numbers below a path; the element that shows them has ``data-at="{{ at }}"``."""
        path = "/".join(steps)
        return Numbers(self.summary, f"{self.at}/{path}", find(self._here, path))

    def value(self, path: str) -> Any:
        """The summary's value at the path, None also where a step of the path is null or missing."""
        try:
            return find(self.summary if path.startswith("/") else self._here, path)
        except (KeyError, IndexError, TypeError):
            return None

    def __call__(self, path: str, way: str = "nats") -> Markup:
        value = self.value(path)
        if value is None:
            return Markup("–")
        said = "" if way == "text" else f' value="{value:.{DIGITS}g}"'
        return Markup(f'<data data-path="{escape(path)}"{said}>{escape(WAYS[way](value))}</data>')
