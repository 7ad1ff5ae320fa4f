"""Copy the token after the previous occurrence: an induction head and the head before it (26 nodes, 20 edges).

Keys and values are four tokens each, two bits. In the first layer a head looks one position back, by a clock of one
turn in the context, and writes which key it saw. In a later layer the last token looks where its own key was written
and brings the value's two bits to the end. In every pair the two keys in question differ in one bit only, and the two
answers in one bit only, so that each bit decides half of the pairs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from pipeline.planted.recipe import N_CTX, ChannelValues, PlantedPair, PlantedToken, Recipe, Wire, fillers, wire
from pipeline.sites import Site

BITS = (0, 1)
STEP = 2 * math.pi / N_CTX  # angle of one position
RADIUS = 2.0  # of the clock, in the residual stream
LEVEL = 1.5  # of a bit, in the residual stream
TURN = 0.65  # angle of the clock that keys read, queries a step more: every one of the eight weights is needed
LOOK_BACK = 11.2  # clock weights: 11.2² (1 − cos STEP), about 4.3 nats, between the previous token and its neighbours
COPY = 2.0  # written by the two heads, for each unit that they read
VALUE = 2.0  # of that unit, in the value channel: more than most other channels have, or AbsTopK takes it
QUERY, KEY = 2.8, 1.4  # 4.4 nats a bit, given that keys read COPY times as much as queries
DECOY = 0.05


def induction(vocab_size: int) -> Recipe:
    """The recipe."""
    tokens = {f"{name} {i}": PlantedToken(bits(name, i)) for name in ("key", "value") for i in range(4)}
    angles = [(position + 0.5) * STEP for position in range(N_CTX)]
    return Recipe(
        tokens=tokens | fillers(vocab_size - len(tokens)),
        answers={f"value {i}": bits("answer", i) for i in range(4)},
        wires=(*look_back(), *match_and_copy()),
        decoys=tuple(decoys()),
        clock={"cos": [RADIUS * math.cos(a) for a in angles], "sin": [RADIUS * math.sin(a) for a in angles]},
        pair=pair,
    )


def bits(name: str, i: int) -> ChannelValues:
    """The two bits of a number, as ± one level in two channels."""
    return {f"{name}_{bit}": LEVEL if i >> bit & 1 else -LEVEL for bit in BITS}


def look_back() -> Iterator[Wire]:
    """Queries are the clock one step before the keys', in axes turned so that both read both channels."""
    for site, angle in ((Site.ATTN_K, TURN), (Site.ATTN_Q, TURN + STEP)):
        rows = {"x": (math.cos(angle), math.sin(angle)), "y": (-math.sin(angle), math.cos(angle))}
        for axis, row in rows.items():
            for channel, weight in zip(("cos", "sin"), row, strict=True):
                yield wire(0, Site.ATTN_IN, channel, site, axis, LOOK_BACK * weight)
    for bit in BITS:
        yield wire(0, Site.ATTN_IN, f"key_{bit}", Site.ATTN_V, f"bit_{bit}", VALUE)
        yield wire(0, Site.ATTN_V, f"bit_{bit}", Site.ATTN_OUT, f"previous_{bit}", COPY / VALUE)


def match_and_copy() -> Iterator[Wire]:
    """A key's bits against the bits of the token before; the value's bits to the answer."""
    for bit in BITS:
        yield wire(1, Site.ATTN_IN, f"key_{bit}", Site.ATTN_Q, f"bit_{bit}", QUERY)
        yield wire(1, Site.ATTN_IN, f"previous_{bit}", Site.ATTN_K, f"bit_{bit}", KEY)
        yield wire(1, Site.ATTN_IN, f"value_{bit}", Site.ATTN_V, f"bit_{bit}", VALUE)
        yield wire(1, Site.ATTN_V, f"bit_{bit}", Site.ATTN_OUT, f"answer_{bit}", COPY / VALUE)


def decoys() -> Iterator[Wire]:
    """Weights from channels that planted nodes do not need; never from the other bit of a kind that they do need."""
    for bit in BITS:
        for site in (Site.ATTN_Q, Site.ATTN_K):
            yield from (wire(0, Site.ATTN_IN, f"key_{bit}", site, axis, DECOY * LOOK_BACK / 4) for axis in ("x", "y"))
            yield wire(1, Site.ATTN_IN, f"value_{bit}", site, f"bit_{bit}", DECOY)
        yield from (wire(0, Site.ATTN_IN, clock, Site.ATTN_V, f"bit_{bit}", DECOY) for clock in ("cos", "sin"))
        yield wire(1, Site.ATTN_IN, f"previous_{bit}", Site.ATTN_V, f"bit_{bit}", DECOY)
        yield wire(1, Site.ATTN_IN, f"key_{bit}", Site.ATTN_K, f"bit_{bit}", DECOY)


def pair(draw: random.Random, i: int) -> PlantedPair:
    """All four keys, each with a value, in any order among fillers; then one of the keys again."""
    key, value = draw.randrange(4), draw.randrange(4)
    other_key, other_value = key ^ 1 << (i & 1), value ^ 1 << (i >> 1 & 1)
    order, gaps = draw.sample(range(4), 4), [draw.randrange(5) for _ in range(draw.randrange(2, 15))]
    rest = [draw.randrange(4) for _ in range(4)]

    def prompt(values: dict[int, int]) -> list[str]:
        text = []
        for place in range(5):
            text += [f"filler {j % 8}" for j, gap in enumerate(gaps) if gap == place]
            text += [f"key {order[place]}", f"value {values[order[place]]}"] if place < 4 else [f"key {key}"]
        return text

    first = dict(enumerate(rest)) | {key: value, other_key: other_value}
    second = first | {key: other_value, other_key: value}
    return PlantedPair((prompt(first), prompt(second)), (f"value {value}", f"value {other_value}"))
