"""Tokens as labels name them."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.whitespace import all_visible


def quoted(text: str) -> str:
    """A token's text between back quotes, white space visible."""
    return f"`{all_visible(text)}`"


def either(names: Sequence[str]) -> str:
    """``a``, ``a or b``, ``a, b or c``."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
