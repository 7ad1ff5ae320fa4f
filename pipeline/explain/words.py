"""Tokens as labels name them."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.whitespace import all_visible


def quoted(text: str) -> str:
    """A token's text between back quotes, white space visible."""
    return f"`{all_visible(text)}`"


def either(names: Sequence[str]) -> str:
    """``a``, ``a or b``, ``a or b or c``: no comma, which after a token would read as one."""
    return " or ".join(names)


def ended(text: str) -> str:
    """A sentence with its full stop, where it does not end with a token, of which the stop would seem a part."""
    return text if text.endswith("`") else f"{text}."
