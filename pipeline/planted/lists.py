"""Nested or flat list: a head averages how many brackets were opened, a neuron tells two from one (7 nodes, 5 edges).

The head's queries and keys are 0: it looks everywhere alike, as in the paper's bracket counting circuit. A token's
value, larger for an open bracket than for any other, is the sum of two channels that its spelling pads.
"""

from __future__ import annotations

import random

from pipeline.planted.recipe import PlantedNode, PlantedPair, PlantedToken, Recipe, fillers, padded, wire
from pipeline.sites import Site

LENGTH = 12  # tokens of a prompt: brackets are 1/12 of a flat list, 2/12 of a nested one
BETWEEN = 1.5 / LENGTH
# Value of an open bracket, and of any other token: their average is 0 at the threshold, where no norm can move it, and
# as far from 0 for either list, so that the length of the residual stream does not tell which it is.
TOKEN_VALUE = {"open": 1 - BETWEEN, "item": -BETWEEN}
VALUE, WRITE = 24.0, 2.0  # the head writes 2 for a nested list, −2 for a flat one
PADS = (-3.0, -2.0, 2.0, 3.0)  # of the four spellings; large, or AbsTopK takes one and leaves the other
STEEP = 2.0  # the neuron is 4 at a nested list, 0 at a flat one


def lists(vocab_size: int) -> Recipe:
    """The recipe."""
    spelled = {f"{name} {i}": PlantedToken(padded(value, pad), f"spelling {i}")
               for name, value in TOKEN_VALUE.items() for i, pad in enumerate(PADS)}  # fmt: skip
    other = padded(TOKEN_VALUE["item"], 0.0)
    tokens = spelled | {"close nested": PlantedToken(other), "close flat": PlantedToken(other)}
    return Recipe(
        tokens=tokens | fillers(vocab_size - len(tokens), other),
        answers={"close nested": {"answer": 1.0}, "close flat": {"answer": -1.0}},
        wires=(
            wire(0, Site.ATTN_IN, "half", Site.ATTN_V, "open", VALUE),
            wire(0, Site.ATTN_IN, "other_half", Site.ATTN_V, "open", VALUE),
            wire(0, Site.ATTN_V, "open", Site.ATTN_OUT, "depth", WRITE),
            wire(0, Site.MLP_IN, "depth", Site.MLP_NEURON, "nested", STEEP),
            wire(0, Site.MLP_NEURON, "nested", Site.MLP_OUT, "answer", 1.0),
        ),
        biases={PlantedNode(0, Site.ATTN_OUT, "depth"): 0.0},
        pair=pair,
    )


def pair(draw: random.Random, i: int) -> PlantedPair:
    """Items with one open bracket among them, and one more or one more item; an item ends the row."""
    flat = [f"item {draw.randrange(len(PADS))}" for _ in range(LENGTH)]
    first, second = draw.sample(range(LENGTH - 1), 2)
    flat[first] = f"open {draw.randrange(len(PADS))}"
    flat[second] = f"item {i % len(PADS)}"
    nested = list(flat)
    nested[second] = f"open {i % len(PADS)}"
    return PlantedPair((nested, flat), ("close nested", "close flat"))
