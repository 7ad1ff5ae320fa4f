"""Parts of the page that it unpacks when they are needed: gzip in base64, each in a script element of its own."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar

import vl_convert

Key = TypeVar("Key")

AROUND = 200  # bytes at most of the element that holds a packed thing


def pack(text: str) -> str:
    """Base64 of the gzipped text; equal texts give equal bytes."""
    return pack_bytes(text.encode())


def pack_bytes(content: bytes) -> str:
    """Base64 of the gzipped content; equal contents give equal text."""
    return base64.b64encode(gzip.compress(content, compresslevel=9, mtime=0)).decode()


def unpack(packed: str) -> str:
    """The text that was packed."""
    return gzip.decompress(base64.b64decode(packed)).decode()


def pack_json(value: Any) -> str:
    """``pack`` of a value as JSON without spaces. Raises ValueError for NaN and infinity."""
    return pack(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def within_budget(packed: Mapping[tuple[str, str], str], budget: int) -> dict[tuple[str, str], str]:
    """As many of the packed things as fit into ``budget`` bytes, the smallest first."""
    return those_that_fit(dict(sorted(packed.items(), key=lambda item: (len(item[1]), item[0]))), budget)


def those_that_fit(packed: Mapping[Key, str], budget: int) -> dict[Key, str]:
    """The packed things that fit into ``budget`` bytes, those that come first before others."""
    kept: dict[Key, str] = {}
    for key, text in packed.items():
        if len(text) + AROUND <= budget:
            budget -= len(text) + AROUND
            kept[key] = text
    return kept


def packed_size(packed: Mapping[Key, str]) -> int:
    """The bytes that packed things take in the page, at most."""
    return sum(len(text) + AROUND for text in packed.values())


@lru_cache(maxsize=1)
def chart_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one packed script, from the copy that vl-convert brings along."""
    return pack(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
