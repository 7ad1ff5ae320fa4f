"""Contrast pairs as tensors, and the task loss: the border between the tasks and everything that scores a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class PairBatch:
    """Prompts of contrast pairs: rows 2i and 2i + 1 are the two sides of pair i.

    ``tokens`` are padded on the right to the longest prompt (causal attention never sees the padding); ``last`` is the
    position whose logits decide; ``answers`` holds the right and the wrong answer token.
    """

    tokens: Int[Tensor, "prompt pos"]
    last: Int[Tensor, " prompt"]
    answers: Int[Tensor, "prompt 2"]

    @classmethod
    def of(
        cls, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad: int | None = None
    ) -> PairBatch:
        """Prompts in tokens with the right and the wrong answer of each, padded with ``pad`` or their first token."""
        longest = max(map(len, prompts))
        return cls(
            tokens=torch.tensor(
                [[*prompt, *[prompt[0] if pad is None else pad] * (longest - len(prompt))] for prompt in prompts]
            ),
            last=torch.tensor([len(prompt) - 1 for prompt in prompts]),
            answers=torch.tensor(answers),
        )

    @property
    def n_pairs(self) -> int:
        return len(self.tokens) // 2

    def take(self, pairs: Int[Tensor, " n"]) -> PairBatch:
        """The pairs of the given indices, in that order, both sides of each, trimmed to the longest prompt."""
        return self.prompts(torch.stack([2 * pairs, 2 * pairs + 1], dim=1).flatten())

    def first(self, n: int) -> PairBatch:
        """The first ``n`` pairs, or all where there are fewer."""
        return self.take(torch.arange(min(n, self.n_pairs), device=self.tokens.device))

    def prompts(self, rows: Int[Tensor, " n"]) -> PairBatch:
        """The prompts of the given rows, in that order, trimmed to the longest."""
        last = self.last[rows]
        return PairBatch(self.tokens[rows, : int(last.max()) + 1], last, self.answers[rows])

    def to(self, device: torch.device) -> PairBatch:
        return PairBatch(self.tokens.to(device), self.last.to(device), self.answers.to(device))


def answer_logits(logits: Float[Tensor, "row vocab"], batch: PairBatch, copies: int = 1) -> Float[Tensor, "row 2"]:
    """Logits of the right and of the wrong answer."""
    return logits.gather(-1, batch.answers.repeat(copies, 1))


def prompt_losses(answers: Float[Tensor, "*prompt 2"]) -> Float[Tensor, "*prompt"]:
    """Cross-entropy of the right answer under the softmax over the two answers, in nats, per prompt (§3)."""
    return F.softplus(answers[..., 1] - answers[..., 0])


def of_pairs(values: Float[Tensor, "*draw prompt"]) -> Float[Tensor, "*draw pair"]:
    """The mean of the two prompts of every pair: the unit of sampling."""
    return values.unflatten(-1, (-1, 2)).mean(-1)


def parting(batch: PairBatch) -> Int[Tensor, " pair"]:
    """The first position at which the two prompts of a pair differ; never behind the shorter prompt's last one."""
    a, b = batch.tokens[0::2], batch.tokens[1::2]
    shortest = batch.last.view(-1, 2).amin(1)
    place = torch.arange(a.shape[1], device=a.device).expand(a.shape)
    return torch.where(a != b, place, a.shape[1]).amin(1).minimum(shortest)


def counterparts(batch: PairBatch) -> Int[Tensor, "prompt pos"]:
    """The position of the pair's other prompt that each position is aligned with; −1 where there is none.

    The same position up to where the prompts part; after that, positions are counted backwards from the answer.
    """
    last, parted = batch.last[:, None], parting(batch).repeat_interleave(2)[:, None]
    other = batch.last.view(-1, 2).flip(1).view(-1, 1)
    place = torch.arange(batch.tokens.shape[1], device=batch.tokens.device).expand(batch.tokens.shape)
    aligned = other - (last - place)
    known = (place <= last) & (aligned >= parted)
    return torch.where(place < parted, place, torch.where(known, aligned, -1))
