"""What a value of JSON lacks, or has too much, of the type of a row (``pipeline.rows``)."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict


def wrong(value: Any, kind: Any, at: str = "") -> list[str]:
    """A sentence for every key that is missing or unknown, and for every value of another type."""
    return list(_wrong(value, kind, at))


def _wrong(value: Any, kind: Any, at: str) -> Iterator[str]:
    origin, of = get_origin(kind), get_args(kind)
    if is_typeddict(origin or kind):
        yield from _wrong_keys(value, origin or kind, of, at)
    elif origin in (Union, types.UnionType):
        options = [type(None) if option is Any else option for option in of]  # ``MaybeNone``
        found = [wrong(value, option, at) for option in options]
        yield from min(found, key=len) if all(found) else ()
    elif origin is list:
        yield from _wrong_type(value, list, at)
        for index, part in enumerate(value if isinstance(value, list) else ()):
            yield from _wrong(part, of[0], f"{at}[{index}]")
    elif origin is not None and issubclass(origin, Mapping):
        yield from _wrong_type(value, dict, at)
        for key, part in (value if isinstance(value, dict) else {}).items():
            yield from _wrong(part, of[1], f"{at}.{key}")
    elif kind is not Any:
        yield from _wrong_type(value, kind, at)


def _wrong_keys(value: Any, kind: Any, of: tuple[Any, ...], at: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{at}: {value!r} is no {kind.__name__}"
        return
    hints = get_type_hints(kind)
    yield from (f"{at}.{key} is missing" for key in sorted(kind.__required_keys__ - set(value)))
    yield from (f"{at}.{key} is unknown" for key in sorted(set(value) - set(hints)))
    for key in set(value) & set(hints):
        yield from _wrong(value[key], _filled(hints[key], of), f"{at}.{key}")


def _filled(hint: Any, of: tuple[Any, ...]) -> Any:
    """A type with its only parameter, if it has one, put in."""
    parameters = [part for part in get_args(hint) if isinstance(part, TypeVar)]
    return hint[of] if parameters else hint


def _wrong_type(value: Any, kind: Any, at: str) -> Iterator[str]:
    number = kind is float and type(value) is int
    if not number and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
        yield f"{at}: {value!r} is no {kind.__name__}"
