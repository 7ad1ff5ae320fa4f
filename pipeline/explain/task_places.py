"""Places of a task's prompts that a label can name: the end, where the sides part, so far from either, some tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pipeline.data.pairs import PairBatch, parting

N_COUNTED = 6  # tokens before the end, and after the first difference, that have a name
N_EARLY = (4, 8, 16)  # tokens from the start that are a place
LEAST_SHARE = 0.5  # of the prompts that have a place for it to be one
NEARLY_ALL = 0.9  # share of the prompts in which two places are the same for only one to be named
PARTING, END, AFTER = "at the first difference", "at the end", "after the first difference"  # of a pair's prompts
KINDS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("at line ends", lambda text: "\n" in text),
    ("at white space", str.isspace),
    ("at numbers", lambda text: text.strip().isdigit()),
    ("at tokens with a quote", lambda text: any(quote in text for quote in "'\"")),
    ("at tokens with an opening bracket", lambda text: any(bracket in text for bracket in "([{")),
    ("at tokens with a closing bracket", lambda text: any(bracket in text for bracket in ")]}")),
    ("at letters", lambda text: text.strip(" _").isalpha()),
)


@dataclass(frozen=True)
class TaskPlace:
    """Some positions of every prompt, by the name that a label gives them.

    ``tokens``: those that it consists of, or with ``follows`` those that stand before it; none where it is not made of
    tokens.
    """

    name: str
    mask: Bool[Tensor, "prompt pos"]
    tokens: tuple[int, ...] = ()
    follows: bool = False


@dataclass(frozen=True)
class TaskPlaces:
    """The named places of a batch of pairs. ``text``: of a token id."""

    batch: PairBatch
    text: Callable[[int], str]

    @cached_property
    def position(self) -> Int[Tensor, " pos"]:
        return torch.arange(self.batch.tokens.shape[1])

    @cached_property
    def there(self) -> Bool[Tensor, "prompt pos"]:
        """Where a prompt has a token."""
        return self.position <= self.batch.last[:, None]

    @cached_property
    def side_a(self) -> Bool[Tensor, " prompt"]:
        """The prompts that have the first prompt's answer; where the answers are not two, the first of each pair."""
        right = self.batch.answers[:, 0]
        return right == right[0] if len(right.unique()) == 2 else torch.arange(len(right)) % 2 == 0

    @cached_property
    def parting(self) -> Int[Tensor, " prompt"]:
        """The first position at which the two sides of a pair differ."""
        return parting(self.batch).repeat_interleave(2)

    @cached_property
    def behind(self) -> Bool[Tensor, "prompt pos"]:
        """Where a prompt has a token, from the first difference on."""
        return self.there & (self.position >= self.parting[:, None])

    @cached_property
    def named(self) -> list[TaskPlace]:
        """Places by position that half of the prompts have, none of them nearly the same as one before it."""
        found = list[TaskPlace]()
        for place in self._by_position():
            if place.mask.any(1).float().mean() >= LEAST_SHARE and not any(self.same(place, each) for each in found):
                found.append(place)
        return found

    def _by_position(self) -> Iterator[TaskPlace]:
        yield TaskPlace(END, self.position == self.batch.last[:, None])
        for n, name in enumerate((PARTING, f"one token {AFTER}", *_counted(AFTER))):
            yield TaskPlace(name, self.there & (self.position == (self.parting + n)[:, None]))
        for n, name in enumerate(("one token before the end", *_counted("before the end")), start=1):
            yield TaskPlace(name, self.position == (self.batch.last - n)[:, None])
        yield TaskPlace("at the start", (self.position == 0).expand_as(self.there))
        yield TaskPlace(AFTER, self.there & (self.position > self.parting[:, None]))

    def same(self, one: TaskPlace, other: TaskPlace) -> bool:
        """Whether two places are the same positions of nearly all prompts."""
        return float((one.mask == other.mask).all(1).float().mean()) >= NEARLY_ALL

    @cached_property
    def kinds(self) -> list[TaskPlace]:
        """Places by the kind of token there."""
        tokens = self.batch.tokens.unique().tolist()
        members = [(name, [token for token in tokens if holds(self.text(token))]) for name, holds in KINDS]
        return [TaskPlace(name, self.of_tokens(tuple(some), follows=False).mask) for name, some in members if some]

    @cached_property
    def early(self) -> list[TaskPlace]:
        """The beginning of every prompt, of some lengths."""
        return [TaskPlace(f"among the first {n} tokens", self.there & (self.position < n)) for n in N_EARLY]

    @cached_property
    def previous(self) -> Int[Tensor, "prompt pos"]:
        """The token before each position; −1 before the first."""
        return torch.roll(self.batch.tokens, 1, dims=1).masked_fill(self.position == 0, -1)

    def of_tokens(self, tokens: tuple[int, ...], follows: bool) -> TaskPlace:
        """The positions at some tokens, or right after them."""
        mask = torch.isin(self.previous if follows else self.batch.tokens, torch.tensor(tokens)) & self.there
        return TaskPlace("after" if follows else "at", mask, tokens, follows)


def _counted(what: str) -> Iterator[str]:
    return (f"{n} tokens {what}" for n in range(2, N_COUNTED))
