"""Contrast pairs as tensors, and the task loss: the border between the tasks and everything that scores a model."""

from __future__ import annotations

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

    @property
    def n_pairs(self) -> int:
        return len(self.tokens) // 2

    def take(self, pairs: Int[Tensor, " n"]) -> PairBatch:
        """The pairs of the given indices, in that order, both sides of each, trimmed to the longest prompt."""
        rows = torch.stack([2 * pairs, 2 * pairs + 1], dim=1).flatten()
        last = self.last[rows]
        return PairBatch(self.tokens[rows, : int(last.max()) + 1], last, self.answers[rows])

    def to(self, device: torch.device) -> PairBatch:
        return PairBatch(self.tokens.to(device), self.last.to(device), self.answers.to(device))


def answer_logits(
    logits: Float[Tensor, "c*prompt vocab"], batch: PairBatch, copies: int = 1
) -> Float[Tensor, "c*prompt 2"]:
    """Logits of the right and of the wrong answer."""
    return logits.gather(-1, batch.answers.repeat(copies, 1))


def prompt_losses(answers: Float[Tensor, "*batch prompt 2"]) -> Float[Tensor, "*batch prompt"]:
    """Cross-entropy of the right answer under the softmax over the two answers, in nats, per prompt (§3)."""
    return F.softplus(answers[..., 1] - answers[..., 0])


def of_pairs(values: Float[Tensor, "*draw prompt"]) -> Float[Tensor, "*draw pair"]:
    """The mean of the two prompts of every pair: the unit of sampling."""
    return values.unflatten(-1, (-1, 2)).mean(-1)
