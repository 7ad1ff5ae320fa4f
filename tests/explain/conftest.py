"""A tokenizer that was learnt from a few lines of Python, and held-out code in its tokens."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pipeline.config import ExplainConfig
from pipeline.data.shards import TokenStream
from pipeline.data.tokenizer import Tokenizer
from pipeline.explain.places import Places
from pipeline.explain.syntax import parsed
from pipeline.explain.text import described

N_CTX = 32
NAMES = ("apple", "river", "stone", "cloud", "tiger")


def snippet(rng: random.Random) -> str:
    """A small function, strings of both kinds in it."""
    a, b, c = rng.choices(NAMES, k=3)
    lines = [
        f'    {a} = "{b} {c}"',
        f"    {a} = '{b} {c}'",
        f"    {a} = [{b}, ({c}, {a})]",
        f"    if {a}:\n        return {b}",
        f"    # the {a}",
    ]
    return "\n".join([f"def {a}({b}, {c}):", *rng.choices(lines, k=4), f"    return {c}", ""])


class Letters(Tokenizer):
    """A tokenizer of the planted models' tokens, which have no texts."""

    def __init__(self):
        pass

    def decode(self, ids):
        return "".join(f"<{token}>" for token in ids)


@pytest.fixture(scope="session")
def documents() -> list[str]:
    rng = random.Random(0)
    return [snippet(rng) for _ in range(240)]


@pytest.fixture(scope="session")
def tokenizer(documents: list[str]) -> Tokenizer:
    return Tokenizer.train(documents, 300)


@pytest.fixture(scope="session")
def stream(documents: list[str], tokenizer: Tokenizer) -> TokenStream:
    ids = [tokenizer.eot]
    for text in documents:
        ids += [*tokenizer.encode(text), tokenizer.eot]
    return TokenStream(np.array(ids, np.uint16), "validation", tokenizer.hash)


@pytest.fixture(scope="session")
def places(stream: TokenStream, tokenizer: Tokenizer) -> Places:
    return Places.of(stream, tokenizer, 6000, N_CTX)


@pytest.fixture(scope="session")
def config(params) -> ExplainConfig:
    """The laptop's settings, sizes but not what a label has to reach made smaller."""
    small = {"tokens": 1024, "contexts": 2, "context_tokens": 8, "bins": 6, "ablated_pairs": 4, "most_nodes": 1000}
    return ExplainConfig.model_validate(params.explain.model_dump() | small)


@pytest.fixture(scope="session")
def said():
    """``said(text)``: name of a mark → the characters after which it holds, of a text."""

    def read(text: str) -> dict[str, str]:
        marks = described(text)[0] | (parsed(text) or {})
        return {name: "".join(text[i - 1] for i in np.flatnonzero(mark) if i) for name, mark in marks.items()}

    return read
