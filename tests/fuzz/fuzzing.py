"""Damaged and random input: what readers of files are tried on, and how often."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

PARTS = 10  # tests that share a reader's examples, of seconds each
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "2000"))  # a reader; 100,000 for a long run

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=20),
    st.sampled_from(["../x", "a b", "NaN", "\ud800", "\x00", "<script>", "é" * 50, "9" * 5000]),
)  # fmt: skip
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


def fuzzed(**strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator: the test runs on ``EXAMPLES`` inputs, in ``PARTS`` tests of their own seeds."""

    def decorated(test: Callable[..., None]) -> Callable[..., None]:
        @pytest.mark.parametrize("part", range(PARTS))
        def run(part: int, request: pytest.FixtureRequest) -> None:
            fixtures = {name: request.getfixturevalue(name) for name in names}

            @seed(part)
            @settings(
                max_examples=max(EXAMPLES // PARTS, 1),
                deadline=10_000,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(**strategies)
            def on_one(**found: Any) -> None:
                test(**found, **fixtures)

            on_one()

        names = [name for name in test.__annotations__ if name not in {*strategies, "return"}]
        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return run

    return decorated


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to everything inside nested mappings and lists."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (*path, key)
        yield from places(value[key], (*path, key))


@st.composite
def changed(draw: st.DrawFn, base: Any) -> Any:
    """A value of JSON with one to three places of it replaced, removed, or joined by others."""
    value = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(value))
        if not found:
            return draw(values)
        *way, last = draw(st.sampled_from(found))
        inside = value
        for key in way:
            inside = inside[key]
        how = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if how == "replace":
            inside[last] = draw(values)
        elif how == "remove":
            del inside[last]
        elif isinstance(inside, dict):
            inside[draw(st.text(max_size=8))] = draw(values)
        else:
            inside.append(draw(values))
    return value


@st.composite
def damaged(draw: st.DrawFn, base: bytes) -> bytes:
    """Bytes that were cut, overwritten, filled with zeros or lengthened somewhere; seldom others altogether."""
    how = draw(st.sampled_from(["cut", "overwrite", "zeros", "insert", "other"]))
    at = draw(st.integers(0, len(base)))
    some = draw(st.binary(max_size=40))
    if how == "other":
        return some
    if how == "cut":
        return base[:at]
    if how == "zeros":
        n = draw(st.integers(1, 256))
        return base[:at] + bytes(n) + base[at + n :]
    return base[:at] + some + base[at + (len(some) if how == "overwrite" else 0) :]
