"""Close the quote that was opened: a head looks for the quote and brings its kind to the end (8 nodes, 5 edges).

The end of the string asks (query), a quote answers (key), and its kind is the value: double +, single −. Words write
into the value too, so that a head that looks everywhere knows nothing. A quote has four spellings, which pad the two
channels that its kind is the sum of, so that one of the two knows little.
"""

from __future__ import annotations

import random

from pipeline.planted.recipe import PlantedPair, PlantedToken, Recipe, Wire, fillers, padded, wire
from pipeline.sites import Site

KINDS = {"double": 2.0, "single": -2.0}
PADS = (-3.0, -1.0, 1.0, 3.0)  # of the four spellings
WORDS = {f"word {i}": 4.0 * (-1) ** i for i in range(6)}  # twice a quote's share of the value
N_WORDS = 5  # in a prompt; odd, so that they never cancel
LOOK = 6**0.5  # weight of query and key: 6 nats towards the quote; more would hide them from gradients
DECOY = 0.1


def quote(vocab_size: int) -> Recipe:
    """The recipe; raises nothing, but needs a vocabulary of some 20 tokens at least."""
    tokens = {f"{kind} {i}": PlantedToken({"quote": 2.0} | padded(value, pad), f"quote {i}")
              for kind, value in KINDS.items() for i, pad in enumerate(PADS)}  # fmt: skip
    tokens |= {name: PlantedToken(padded(value, 0.0)) for name, value in WORDS.items()}
    tokens |= {"end": PlantedToken({"end": 2.0}), "close double": PlantedToken(), "close single": PlantedToken()}
    return Recipe(
        tokens=tokens | fillers(vocab_size - len(tokens)),
        answers={"close double": {"answer": 1.0}, "close single": {"answer": -1.0}},
        wires=(
            wire(0, Site.ATTN_IN, "end", Site.ATTN_Q, "look", LOOK),
            wire(0, Site.ATTN_IN, "quote", Site.ATTN_K, "look", LOOK),
            wire(0, Site.ATTN_IN, "half", Site.ATTN_V, "kind", 1.0),
            wire(0, Site.ATTN_IN, "other_half", Site.ATTN_V, "kind", 1.0),
            wire(0, Site.ATTN_V, "kind", Site.ATTN_OUT, "answer", 1.5),
        ),
        decoys=decoys(),
        pair=pair,
    )


def decoys() -> tuple[Wire, ...]:
    """Weights from channels that planted nodes do not need."""
    unneeded = {
        (Site.ATTN_Q, "look"): ("quote", "half", "other_half"),
        (Site.ATTN_K, "look"): ("end", "half", "other_half"),
        (Site.ATTN_V, "kind"): ("end", "quote"),
    }
    return tuple(wire(0, Site.ATTN_IN, name, *target, DECOY) for target, names in unneeded.items() for name in names)


def pair(draw: random.Random, i: int) -> PlantedPair:
    """Words, fillers and one quote in any order, then the string's end."""
    words = draw.choices(list(WORDS), k=N_WORDS)
    text = words + [f"filler {draw.randrange(8)}" for _ in range(draw.randrange(2, 6))]
    at, spelling = draw.randrange(len(text) + 1), i % len(PADS)
    draw.shuffle(text)
    double, single = ([*text[:at], f"{kind} {spelling}", *text[at:], "end"] for kind in KINDS)
    return PlantedPair((double, single), ("close double", "close single"))
