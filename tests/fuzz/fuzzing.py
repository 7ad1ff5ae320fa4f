"""Damaged and random input: what readers of files are tried on, and how often."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

PARTS = 10  # tests that share a reader's examples, of seconds each
SHORT = 2000
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", SHORT))  # a reader; 100,000 for a long run

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=20),
    st.sampled_from(["../x", "a b", "NaN", "\ud800", "\x00", "<script>", "é" * 50, "9" * 5000]),
)  # fmt: skip
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


def fuzzed(slow: int = 1, **strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator: the test runs on ``EXAMPLES`` inputs, in ``PARTS`` tests of their own seeds; where an input takes
    more than 2 ms, on one of ``slow`` of these, but in a long run on all."""
    n = EXAMPLES if EXAMPLES > SHORT else EXAMPLES // slow

    def decorated(test: Callable[..., None]) -> Callable[..., None]:
        @pytest.mark.parametrize("part", range(PARTS))
        def run(part: int, request: pytest.FixtureRequest) -> None:
            fixtures = {name: request.getfixturevalue(name) for name in names}

            @seed(part)
            @settings(
                max_examples=max(n // PARTS, 1),
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


Mutation = Callable[[Any], Any]


@st.composite
def mutations(draw: st.DrawFn) -> Mutation:
    """What replaces, removes or adds at one to three places of a value of JSON."""
    steps = [
        (draw(st.integers(0, 10_000)), draw(st.sampled_from(["replace", "replace", "remove", "add"])), draw(values))
        for _ in range(draw(st.integers(1, 3)))
    ]
    name = draw(st.text(max_size=8))

    def mutate(base: Any) -> Any:
        value = copy.deepcopy(base)
        for place, how, new in steps:
            if not (found := list(places(value))):
                return new
            *way, last = found[place % len(found)]
            inside = value
            for key in way:
                inside = inside[key]
            if how == "replace":
                inside[last] = new
            elif how == "remove":
                del inside[last]
            elif isinstance(inside, dict):
                inside[name] = new
            else:
                inside.append(new)
        return value

    return mutate


def changed(base: Any) -> st.SearchStrategy[Any]:
    """A value of JSON with one to three places of it replaced, removed, or joined by others."""
    return mutations().map(lambda mutate: mutate(base))


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """What cuts, overwrites, fills with zeros or lengthens bytes somewhere; seldom gives others altogether."""
    how = draw(st.sampled_from(["cut", "overwrite", "zeros", "insert", "other"]))
    where, some, n = draw(st.integers(0, 1_000_000)), draw(st.binary(max_size=40)), draw(st.integers(1, 256))

    def damage(base: bytes) -> bytes:
        at = where % (len(base) + 1)
        if how == "other":
            return some
        if how == "cut":
            return base[:at]
        if how == "zeros":
            return base[:at] + bytes(n) + base[at + n :]
        return base[:at] + some + base[at + (len(some) if how == "overwrite" else 0) :]

    return damage


def damaged(base: bytes) -> st.SearchStrategy[bytes]:
    """Bytes that ``damages`` changed."""
    return damages().map(lambda damage: damage(base))


@dataclass(frozen=True)
class Spoiling:
    """A change of one file of a folder: of its structure, where it has one that is known, or of its bytes."""

    which: int
    structural: bool
    mutate: Mutation
    damage: Callable[[bytes], bytes]

    @contextmanager
    def of(self, folder: Path) -> Iterator[Path]:
        """The file that is changed, as long as it is."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        path = files[self.which % len(files)]
        content = path.read_bytes()
        path.write_bytes(self._structure(path.suffix, content) or self.damage(content))
        try:
            yield path
        finally:
            path.write_bytes(content)

    def _structure(self, suffix: str, content: bytes) -> bytes | None:
        if not self.structural:
            return None
        if suffix == ".json":
            return _dumped(self.mutate(json.loads(content)))
        if suffix in (".jsonl", ".log"):
            rows = self.mutate([json.loads(line) for line in content.splitlines()])
            return b"".join(_dumped(row) + b"\n" for row in (rows if isinstance(rows, list) else [rows]))
        if suffix == ".safetensors":  # the length of the header, the header, the numbers
            n = int.from_bytes(content[:8], "little")
            header = _dumped(self.mutate(json.loads(content[8 : 8 + n])))
            return len(header).to_bytes(8, "little") + header + content[8 + n :]
        return None


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


spoilings = st.builds(Spoiling, st.integers(0, 1000), st.booleans(), mutations(), damages())
