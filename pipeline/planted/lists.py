"""Nested or flat list: a head averages how many brackets were opened, a neuron tells two from one (7 nodes, 5 edges).

The head's queries and keys are 0: it looks everywhere alike, as in the paper's bracket counting circuit. A token is an
open bracket (1) or not (0), the sum of two channels that its spelling pads.
"""

from __future__ import annotations

import random

from pipeline.planted.recipe import PADS, Node, Pair, Recipe, Token, fillers, padded, wire
from pipeline.sites import Site

LENGTHS = (11, 12)  # tokens of a prompt: brackets are 1/12 to 1/11 of a flat list, 2/12 to 2/11 of a nested one
BETWEEN = 0.117  # the fraction of brackets from which on a list is nested
COUNT = 20.0  # what the head writes for a text of nothing but brackets
STEEP = 4.0  # the neuron is 3 at a nested list, 0 at a flat one


def lists(vocab_size: int) -> Recipe:
    """The recipe."""
    spelled = {f"{name} {i}": Token(padded(value, pad), f"spelling {i}")
               for name, value in (("open", 1.0), ("item", 0.0)) for i, pad in enumerate(PADS)}  # fmt: skip
    tokens = spelled | {"close nested": Token(), "close flat": Token()}
    return Recipe(
        tokens=tokens | fillers(vocab_size - len(tokens)),
        answers={"close nested": {"answer": 1.0}, "close flat": {"answer": -1.0}},
        wires=(
            wire(0, Site.ATTN_IN, "half", Site.ATTN_V, "open", 1.0),
            wire(0, Site.ATTN_IN, "other_half", Site.ATTN_V, "open", 1.0),
            wire(0, Site.ATTN_V, "open", Site.ATTN_OUT, "depth", COUNT),
            wire(0, Site.MLP_IN, "depth", Site.MLP_NEURON, "nested", STEEP),
            wire(0, Site.MLP_NEURON, "nested", Site.MLP_OUT, "answer", 1.0),
        ),
        # The threshold is at 0 of the residual stream, where no norm can move it.
        biases={Node(0, Site.ATTN_OUT, "depth"): -COUNT * BETWEEN},
        pair=pair,
    )


def pair(draw: random.Random, i: int) -> Pair:
    """Items with one open bracket among them, and one more or one more item; an item ends the row."""
    length = draw.choice(LENGTHS)
    flat = [f"item {draw.randrange(len(PADS))}" for _ in range(length)]
    first, second = draw.sample(range(length - 1), 2)
    flat[first] = f"open {draw.randrange(len(PADS))}"
    flat[second] = f"item {i % len(PADS)}"
    nested = list(flat)
    nested[second] = f"open {i % len(PADS)}"
    return Pair((nested, flat), ("close nested", "close flat"))
