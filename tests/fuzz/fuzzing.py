"""Damaged and random input: what readers of files are tried on, and how often."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, given, note, seed, settings
from hypothesis import strategies as st

PARTS = 10  # tests that share a reader's inputs, of seconds each
SHORT = 2000
INPUTS = int(os.environ.get("FUZZ_INPUTS", SHORT))  # a reader; 100,000 for a long run
PLACES = 8  # at which each change that is drawn is tried, for drawing one takes longer than most readers do
STRIDE = 7919  # between these, a prime

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=20),
    st.sampled_from(["../x", "a b", "NaN", "\ud800", "\x00", "<script>", "é" * 50, "9" * 5000]),
)  # fmt: skip
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


class Placed(Protocol):
    """A change of a valid input, which can be made at several places of it."""

    def at(self, place: int) -> Any:
        """The input that a test gets, changed at one of ``PLACES`` places."""


def fuzzed(slow: int = 1, **strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator: the test runs on ``INPUTS`` inputs, in ``PARTS`` tests of their own seeds; where an input takes
    more than 2 ms, on one of ``slow`` of these, but in a long run on all. ``strategies`` draw what is ``Placed``."""
    n = INPUTS if INPUTS > SHORT else INPUTS // slow

    def decorated(test: Callable[..., None]) -> Callable[..., None]:
        @pytest.mark.parametrize("part", range(PARTS))
        def run(part: int, request: pytest.FixtureRequest) -> None:
            fixtures = {name: request.getfixturevalue(name) for name in names}

            @seed(part)
            @settings(
                max_examples=max(n // PARTS // PLACES, 1),
                deadline=10_000,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(**strategies)
            def on_one(**found: Placed) -> None:
                for place in range(PLACES):
                    note(f"place {place}")
                    test(**{name: change.at(place) for name, change in found.items()}, **fixtures)

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


@dataclass(frozen=True)
class Mutation:
    """One to three places of a value of JSON replaced, removed, or joined by others; seldom another value altogether.

    ``steps``: where, how, and what is new there.
    """

    steps: tuple[tuple[int, str, Any], ...]
    name: str

    def of(self, base: Any, place: int) -> Any:
        value = copy.deepcopy(base)
        for where, how, new in copy.deepcopy(self.steps):  # else a new part could be put into itself
            found = list(places(value))
            if how == "other" or not found:
                return new
            self._change(value, found[(where + place * STRIDE) % len(found)], how, new)
        return value

    def _change(self, value: Any, path: tuple[Any, ...], how: str, new: Any) -> None:
        *way, last = path
        inside = value
        for key in way:
            inside = inside[key]
        if how == "replace":
            inside[last] = new
        elif how == "remove":
            del inside[last]
        elif isinstance(inside, dict):
            inside[self.name] = new
        else:
            inside.append(new)


@dataclass(frozen=True)
class Damage:
    """Bytes cut, overwritten, filled with zeros or lengthened somewhere; seldom others altogether."""

    how: str
    where: int
    some: bytes
    n: int

    def of(self, base: bytes, place: int) -> bytes:
        at = (self.where + place * STRIDE) % (len(base) + 1)
        if self.how == "other":
            return self.some[place:] + self.some[:place]
        if self.how == "cut":
            return base[:at]
        if self.how == "zeros":
            return base[:at] + bytes(self.n) + base[at + self.n :]
        return base[:at] + self.some + base[at + (len(self.some) if self.how == "overwrite" else 0) :]


@dataclass(frozen=True)
class Changed:
    """A valid value, or bytes, and the change of it."""

    base: Any
    change: Mutation | Damage

    def at(self, place: int) -> Any:
        return self.change.of(self.base, place)


HOW = ("replace", "replace", "replace", "remove", "remove", "add", "add", "other")
steps = st.tuples(st.integers(0, 10_000), st.sampled_from(HOW), values)
mutations = st.builds(Mutation, st.lists(steps, min_size=1, max_size=3).map(tuple), st.text(max_size=8))
damages = st.builds(
    Damage,
    st.sampled_from(["cut", "overwrite", "zeros", "insert", "other"]),
    st.integers(0, 1_000_000),
    st.binary(max_size=60),
    st.integers(1, 256),
)


def changed(base: Any) -> st.SearchStrategy[Changed]:
    """Values of JSON that ``mutations`` changed."""
    return mutations.map(lambda change: Changed(base, change))


def damaged(base: bytes) -> st.SearchStrategy[Changed]:
    """Bytes that ``damages`` changed."""
    return damages.map(lambda change: Changed(base, change))


@dataclass(frozen=True)
class Spoiling:
    """A change of one file of a folder: of its structure, where it has one that is known, or of its bytes."""

    which: int
    structural: bool
    mutation: Mutation
    damage: Damage
    place: int = 0

    def at(self, place: int) -> Spoiling:
        return replace(self, place=place)

    @contextmanager
    def of(self, folder: Path) -> Iterator[Path]:
        """The file that is changed, as long as it is."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        path = files[(self.which + self.place) % len(files)]
        content = path.read_bytes()
        path.write_bytes(self._structure(path.suffix, content) or self.damage.of(content, self.place))
        try:
            yield path
        finally:
            path.write_bytes(content)

    def _structure(self, suffix: str, content: bytes) -> bytes | None:
        if not self.structural:
            return None
        if suffix == ".json":
            return _dumped(self._mutated(json.loads(content)))
        if suffix in (".jsonl", ".log"):
            rows = self._mutated([json.loads(line) for line in content.splitlines()])
            return b"".join(_dumped(row) + b"\n" for row in (rows if isinstance(rows, list) else [rows]))
        if suffix == ".safetensors":  # the length of the header, the header, the numbers
            n = int.from_bytes(content[:8], "little")
            header = _dumped(self._mutated(json.loads(content[8 : 8 + n])))
            return len(header).to_bytes(8, "little") + header + content[8 + n :]
        return None

    def _mutated(self, value: Any) -> Any:
        return self.mutation.of(value, self.place)


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


spoilings = st.builds(Spoiling, st.integers(0, 1000), st.booleans(), mutations, damages)
