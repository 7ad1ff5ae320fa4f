"""Statements about nodes in words: ``6.3 at `␣[[` and 1.4 at `␣[```.

A token is never followed by a sign of punctuation, which would seem a part of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from pipeline.explain.task_labels import TaskStatement
from pipeline.explain.task_places import AFTER, PARTING, TaskPlace, TaskPlaces
from pipeline.explain.words import either, quoted

NAMED = 3  # tokens of a place that are named
OTHERS, OTHERWISE = "other tokens", "otherwise"  # on the side whose tokens are too many to be named
COVERED = 0.9  # share of a place's positions that the named tokens have
SHARED = 0.5  # share of the other side's prompts that have a side's tokens, from which these do not name it
DIGITS, MOST_DIGITS = 2, 4  # of the larger of two means; more where they are the same otherwise


class TaskWords:
    """Words for statements about one task's pairs."""

    def __init__(self, places: TaskPlaces) -> None:
        self.places = places
        self.sides = places.side_a, ~places.side_a
        answers = places.batch.answers[:, 0]
        self.answers = [Counter(answers[side].tolist()).most_common(1)[0][0] for side in self.sides]
        parting = next((place for place in places.named if place.name == PARTING), None)
        parted = (None if parting is None else self.apart(parting)) or [OTHERS, OTHERS]
        parted = [self._named(parting, side, each) for side, each in enumerate(parted)]
        # the two sides by the tokens where their prompts part, or by one behind that, or else by their answers
        told = any(each != OTHERS for each in parted)
        self.after = [f"after {each}" if each != OTHERS else OTHERWISE for each in parted] if told else None
        self.conditions = self.after or [f"before {self.quoted(answer)}" for answer in self.answers]

    def _named(self, parting: TaskPlace | None, side: int, tokens: str) -> str:
        """What names a side: its tokens at the first difference, unless the other side has them soon after."""
        if parting is None or tokens == OTHERS:
            return self.telling(side)
        own = self.tokens_at(parting.mask & self.sides[side][:, None] & self.places.there)
        other = self.places.behind & self.sides[1 - side][:, None]
        has = (torch.isin(self.places.batch.tokens, torch.tensor(own)) & other).any(1)[self.sides[1 - side]]
        return self.telling(side) if float(has.float().mean()) > SHARED else tokens

    def telling(self, side: int) -> str:
        """The token that nearly all prompts of a side have from the first difference on, and hardly any of the other,
        the last of several; ``OTHERS`` where there is none."""
        tokens = self.places.batch.tokens
        behind = self.places.behind
        has = torch.zeros(len(tokens), int(tokens.max()) + 1)
        has[behind.nonzero()[:, 0], tokens[behind]] = 1
        own, other = (has[self.sides[n]].mean(0) for n in (side, 1 - side))
        telling = ((own >= COVERED) & (other <= 1 - COVERED)).nonzero().flatten().tolist()
        late = {token: float((behind & (tokens == token)).nonzero()[:, 1].float().mean()) for token in telling}
        return self.quoted(max(late, key=late.__getitem__)) if late else OTHERS

    def when(self, side: int) -> str:
        """The condition of a side in words: ``after `␣[```, ``except after `␣[[```."""
        return self.conditions[side] if self.conditions[side] != OTHERWISE else f"except {self.conditions[1 - side]}"

    def text(self, statement: TaskStatement) -> str:
        """Both means and where they are, of two sides the larger magnitude first; ``otherwise`` last."""
        return self._of_sides(statement) if statement.of_sides else self._of_place(statement)

    def _of_sides(self, statement: TaskStatement) -> str:
        place, apart = statement.place, self.apart(statement.place)
        if apart:
            where = "" if place.name == PARTING else f"{place.name}: "
            groups = [f"at {each}" for each in apart]
        elif self.after and place.name == AFTER:
            where, groups = "later on: ", self.after
        else:
            where, groups = f"{self.place(place)}: ", self.conditions
        values = zip(numbers(statement.means), groups, statement.means, strict=True)
        ordered = sorted(values, key=lambda each: (each[1] in (OTHERWISE, f"at {OTHERS}"), -abs(each[2])))
        return where + " and ".join(f"{number} {group}" for number, group, _ in ordered)

    def apart(self, place: TaskPlace) -> list[str] | None:
        """The tokens of side a and of side b at a place, where they tell the sides apart: ``OTHERS`` on one side
        where these are too many to be named; None where they do not."""
        masks = [place.mask & side[:, None] & self.places.there for side in self.sides]
        tokens = [self.tokens_at(mask) for mask in masks]
        rests = [self.places.batch.tokens[mask] for mask in reversed(masks)]
        shared = [
            bool(torch.isin(rest, torch.tensor(some)).float().mean() > 1 - COVERED) if some else False
            for some, rest in zip(tokens, rests, strict=True)
        ]
        if not any(tokens) or any(shared):
            return None
        return [self.listed(some) if some else OTHERS for some in tokens]

    def _of_place(self, statement: TaskStatement) -> str:
        there, elsewhere = numbers(statement.means)
        return f"{there} {self.place(statement.place)} and {elsewhere} elsewhere"

    def place(self, place: TaskPlace, side: int | None = None, *, flow: bool = False) -> str:
        """``at `␣True` (the end)``, ``after `=```; ``side``: with the tokens that stand there on this side only;
        ``flow``: what is there, ```␣True` (the end)``; at the first difference its tokens alone."""
        if place.tokens:
            named = self.listed(place.tokens)
            return named if flow and not place.follows else f"{place.name} {named}"
        rows = self.places.there if side is None else self.places.there & self.sides[side][:, None]
        tokens = self.tokens_at(place.mask & rows)
        bare = place.name.removeprefix("at ")
        if not tokens:
            return bare if flow else place.name
        named = self.listed(tokens) if flow and place.name == PARTING else f"{self.listed(tokens)} ({bare})"
        return named if flow else f"at {named}"

    def tokens_at(self, mask: Bool[Tensor, "prompt pos"]) -> tuple[int, ...]:
        """The tokens of a place, the most frequent first; none where a few do not cover it."""
        counts = Counter(self.places.batch.tokens[mask].tolist())
        some, covered = list[int](), 0
        for token, n in counts.most_common(NAMED):
            if covered < COVERED * counts.total():
                some, covered = [*some, token], covered + n
        return tuple(some) if counts and covered >= COVERED * counts.total() else ()

    def listed(self, tokens: Sequence[int]) -> str:
        """```[` or `(` or `{```."""
        return either([self.quoted(token) for token in tokens])

    @staticmethod
    def number(mean: float) -> str:
        """One mean, to two digits."""
        return numbers((mean, 0.0))[0]

    def quoted(self, token: int) -> str:
        return quoted(self.places.text(token))


def numbers(means: tuple[float, float]) -> tuple[str, str]:
    """Two means to the same decimals: two digits of the larger, more where they would look the same."""
    most = max(map(abs, means))
    for digits in range(DIGITS, MOST_DIGITS + 1):
        size = float(f"{most:.{digits}g}")  # 0.998 is written as 1.0
        decimals = max(0, digits - 1 - math.floor(math.log10(size))) if size > 0 else 0
        first, second = (f"{mean:.{decimals}f}" for mean in means)
        if first != second:
            break
    return plain(first), plain(second)


def plain(number: str) -> str:
    """A number with a true minus, and 0 without digits."""
    return "0" if float(number) == 0 else number.replace("-", "−")
