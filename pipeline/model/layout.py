"""How prompts are laid out for a forward pass: padded, or packed, with what several of them begin with only once.

A causal model computes at a position what follows from the tokens up to there. The two prompts of a contrast pair begin
alike, and so do prompts of one template; packed, each distinct beginning is one *row*, and there is no padding: of the
default study's tasks, half of the positions are left. Only attention looks at sequences: a pair is one that branches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.kernels.layout_cpu import add_rows_at, branch_sequences, number_rows, place_rows

WORDS = 2**32  # more than any vocabulary has


@dataclass(frozen=True)
class PaddedPrompts:
    """A batch of prompts of one length, padded where they are not; with ``at``, one position of each is asked for."""

    tokens: Int[Tensor, "prompt pos"]
    at: Int[Tensor, " prompt"] | None

    @property
    def n_positions(self) -> int:
        return self.tokens.shape[1]

    @property
    def positions(self) -> slice:
        """The rows of position embeddings."""
        return slice(self.n_positions)

    @property
    def last(self) -> bool:
        """Whether the last layer computes only what one position of each prompt needs."""
        return self.at is not None

    def ends(self, x: Float[Tensor, "prompt pos width"]) -> Float[Tensor, "prompt 1 width"]:
        """The value at the positions asked for; of every copy of the batch that ``x`` holds."""
        assert self.at is not None
        return pick(x, self.at.repeat(len(x) // len(self.at)))

    def read_tokens(self, copies: int) -> Tensor:
        """The tokens that logits follow."""
        tokens = self.tokens if self.at is None else self.tokens.gather(1, self.at[:, None])[:, 0]
        return tokens if copies == 1 else tokens.repeat(copies, *[1] * (tokens.ndim - 1))

    def attend(self, mix: Mix, q: Tensor, k: Tensor, v: Tensor, last: bool) -> tuple[Tensor, Tensor]:
        """What ``mix`` makes of the batch as it is."""
        at = self.at.repeat(len(k) // len(self.at))[:, None] if self.at is not None and last else None
        return mix(q, k, v, at, None)


@dataclass(frozen=True)
class PackedPrompts:
    """Prompts packed into rows, token and position of each, for a model in float32 on a CPU.

    ``index``: the row of each of a prompt's positions (past its end: its last one). Positions from ``first_own`` up to
    ``length`` are the prompt's own: every row is one prompt's own. With ``last``, a prompt ends at the position whose
    logits are wanted, and the last layer computes one row a prompt.
    """

    token: Int[Tensor, " row"]
    position: Int[Tensor, " row"]
    index: Int[Tensor, "prompt pos"]
    first_own: Int[Tensor, " prompt"]
    length: Int[Tensor, " prompt"]
    last: bool

    @classmethod
    def of(
        cls,
        tokens: Int[Tensor, "prompt pos"],
        at: Int[Tensor, " prompt"] | None,
        apart: Int[Tensor, " prompt"] | None = None,
    ) -> PackedPrompts:
        """Up to the position ``at`` of each prompt; None: all positions. From the position ``apart`` on, a prompt has
        rows of its own, also where others have begun like it: for values that depend on more than the past."""
        words = tokens.numpy() if apart is None else told_apart(tokens, apart).numpy()
        length = np.full(len(words), words.shape[1]) if at is None else at.numpy() + 1
        index, own = np.empty(words.shape, np.int64), np.empty(len(words), np.int64)
        token, position = np.empty(words.size, np.int64), np.empty(words.size, np.int64)
        n = number_rows(words, length, np.lexsort(words.T[::-1]), index, own, token, position)
        token, position, index, own, length = map(torch.from_numpy, (token[:n], position[:n], index, own, length))
        token = token if apart is None else token % WORDS
        return cls(token, position, index, own, length, last=at is not None)

    @property
    def n(self) -> int:
        return len(self.length)

    @property
    def n_positions(self) -> int:
        return self.index.shape[1]

    @property
    def tokens(self) -> Int[Tensor, "1 row"]:
        return self.token[None]

    @property
    def positions(self) -> Int[Tensor, " row"]:
        return self.position

    @cached_property
    def places(self) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
        """A prompt that each row is of, and its position there."""
        prompt, pos = (torch.arange(self.n_positions) < self.length[:, None]).nonzero().T
        places = torch.empty(2, len(self.token), dtype=torch.long)
        places[:, self.index[prompt, pos]] = torch.stack([prompt, pos])
        return places[0], places[1]

    @cached_property
    def end(self) -> Int[Tensor, " prompt"]:
        """The row that each prompt ends at."""
        return self.index.gather(1, self.length[:, None] - 1)[:, 0]

    @cached_property
    def sequences(self) -> Sequences:
        """The prompts as attention takes them: the two of a pair at once; each by itself where their number is odd."""
        per = 2 - self.n % 2
        n, shape = self.n // per, (self.n // per, per * self.index.shape[1])
        index, place = np.empty(shape, np.int64), np.empty(len(self.token), np.int64)
        branch, at = np.empty((n, 2), np.int64), np.empty((n, per), np.int64)
        longest = branch_sequences(self.index.numpy(), self.length.numpy(), index, branch, at)
        place_rows(index[:, :longest], at, place)
        return Sequences(*map(torch.from_numpy, (np.ascontiguousarray(index[:, :longest]), place, branch, at)))

    def rows(self, ended: bool) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
        """Token and position of all rows, or of those that prompts end at."""
        return (self.token[self.end], self.length - 1) if ended else (self.token, self.position)

    def read_tokens(self, copies: int) -> Int[Tensor, " prompt"]:
        return self.token[self.end].repeat(copies)

    def ends(self, x: Float[Tensor, "copy row width"]) -> Float[Tensor, "copy prompt width"]:
        """The value at every prompt's end."""
        return _take(x, self.end)

    def attend(self, mix: Mix, q: Tensor, k: Tensor, v: Tensor, last: bool) -> tuple[Tensor, Tensor]:
        """What ``mix`` makes of the sequences, as rows (or as prompts' ends) of each copy again."""
        layout, copies = self.sequences, len(k)
        branch, at = layout.branch.repeat(copies, 1), layout.at.repeat(copies, 1) if last else None
        k, v = layout.of_rows(k), layout.of_rows(v)
        if last:
            mixed, attention_mass = mix(q.reshape(-1, layout.at.shape[1], q.shape[-1]), k, v, at, branch)
            return mixed.view(copies, self.n, -1), attention_mass.transpose(1, 2).reshape(copies, self.n, -1).transpose(
                1, 2
            )
        mixed, attention_mass = mix(layout.of_rows(q), k, v, at, branch)
        return layout.to_rows(mixed, copies), layout.to_rows(attention_mass.transpose(1, 2), copies).transpose(1, 2)


@dataclass(frozen=True)
class Sequences:
    """Packed prompts as attention takes them: rows of each sequence, past its end its last one.

    ``place``: where each row is among all positions. ``branch``: where a sequence's second prompt parts from its first,
    and where it goes on, after the first's end. ``at``: where prompts end.
    """

    index: Int[Tensor, "sequence pos"]
    place: Int[Tensor, " row"]
    branch: Int[Tensor, "sequence 2"]
    at: Int[Tensor, "sequence prompt"]

    def of_rows(self, x: Float[Tensor, "copy row width"]) -> Float[Tensor, "sequence pos width"]:
        """Sequences of all copies, one after the other."""
        return _take(x, self.index.view(-1)).view(-1, self.index.shape[1], x.shape[-1])

    def to_rows(self, x: Float[Tensor, "sequence pos width"], copies: int) -> Float[Tensor, "copy row width"]:
        return _take(x.reshape(copies, self.index.numel(), x.shape[-1]), self.place)


def told_apart(tokens: Int[Tensor, "prompt pos"], apart: Int[Tensor, " prompt"]) -> Int[Tensor, "prompt pos"]:
    """Numbers that are equal where tokens are shared, and from ``apart`` on differ from those of every other prompt;
    modulo ``WORDS``, they are the tokens."""
    own = torch.arange(tokens.shape[1]) >= apart[:, None]
    return tokens + WORDS * own * (torch.arange(len(tokens))[:, None] + 1)


Layout = PaddedPrompts | PackedPrompts
# Queries, keys, values of sequences, the positions of queries where they are few, and where sequences branch → values
# averaged over the past, and each head's weight on real tokens.
Mix = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]


def pick(x: Float[Tensor, "batch pos width"], at: Int[Tensor, " batch"]) -> Float[Tensor, "batch 1 width"]:
    """The value at one position of each prompt."""
    return x[torch.arange(len(x), device=x.device), at][:, None]


def _take(x: Float[Tensor, "copy row width"], rows: Int[Tensor, " n"]) -> Float[Tensor, "copy n width"]:
    taken: Tensor = _Take.apply(x, rows)
    return taken


class _Take(torch.autograd.Function):
    """Some rows of each copy; torch's own backward adds them up one by one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.rows, ctx.n = rows, x.shape[1]
        return x.index_select(1, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        g = grads[0].contiguous()
        total = torch.zeros(len(g), ctx.n, g.shape[2], dtype=g.dtype)
        add_rows_at(g.numpy(), ctx.rows.numpy(), total.numpy())
        return total, None
