"""Places of held-out code that models are watched at: windows of the token stream, and marks of each place.

Windows begin anywhere, as in training; the marks of a place are found on its whole document.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.data.batches import CorpusTooSmallError
from pipeline.data.shards import TokenStream
from pipeline.data.tokenizer import Tokenizer
from pipeline.explain.syntax import SYNTAX, parsed
from pipeline.explain.text import LEVELS, MARKS, described

CONTINUES = 0x80  # UTF-8: the upper two bits of a character's bytes but the first
REPEATED = "at a token that the context already had"
POSITIONS = ("tokens since the context's start", "tokens since the document's start")

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Facts:
    """Descriptions of places, row by row: ``marks`` hold or not, ``levels`` rise and fall.

    ``parsed``: whether the place's document is Python to ``ast``; marks named in ``pipeline.explain.syntax`` are known
    there only.
    """

    mark_names: tuple[str, ...]
    marks: Bools  # [place, mark]
    level_names: tuple[str, ...]
    levels: Floats  # [place, level]
    read: Bools  # [place] the tokenizer of Python came so far
    parsed: Bools  # [place]


@dataclass(frozen=True)
class Places:
    """Windows of a stream, the same ones always, evenly spread over it.

    ``tokens`` are what the model reads; ``starts`` are where the windows begin in the stream.
    """

    stream: TokenStream
    tokenizer: Tokenizer
    starts: npt.NDArray[np.int64]
    n_ctx: int

    @classmethod
    def of(cls, stream: TokenStream, tokenizer: Tokenizer, n_tokens: int, n_ctx: int) -> Places:
        """As many windows as hold ``n_tokens``, or as the stream has without overlap.

        Raises CorpusTooSmallError where not one fits.
        """
        n = min(-(-n_tokens // n_ctx), stream.n_tokens // (n_ctx + 1))
        if n < 1:
            raise CorpusTooSmallError(
                f"the {stream.split} stream has {stream.n_tokens} tokens; to explain a model it needs one window of "
                f"{n_ctx + 1}; enlarge corpus.n_chars or validation_frac, or lower n_ctx"
            )
        return cls(stream, tokenizer, np.arange(n, dtype=np.int64) * stream.n_tokens // n, n_ctx)

    @cached_property
    def tokens(self) -> Int[Tensor, "window pos"]:
        return self.stream.window(self.starts, self.n_ctx)[:, :-1]

    @cached_property
    def borders(self) -> npt.NDArray[np.int64]:
        """Where each document's ``<|endoftext|>`` lies, and the end of the stream."""
        return np.append(np.flatnonzero(self.stream.tokens == self.tokenizer.eot), self.stream.n_tokens)

    @cached_property
    def documents(self) -> Int[Tensor, "window pos"]:
        """The number of each place's document; its ``<|endoftext|>`` in front is its first place."""
        places = self.starts[:, None] + np.arange(self.n_ctx)
        return torch.from_numpy(np.searchsorted(self.borders, places, side="right") - 1)

    def previous(self, lag: int) -> Int[Tensor, "window pos"]:
        """The token some places before each, −1 where the window does not reach so far back."""
        back = torch.full_like(self.tokens, -1)
        back[:, lag:] = self.tokens[:, : self.n_ctx - lag]
        return back

    def facts(self) -> Facts:
        """The marks and levels of each place, window by window."""
        cuts = (cut for start in self.starts.tolist() for cut in self._cut(start, start + self.n_ctx))
        parts = ([column[a:b] for column in said] for said, a, b in cuts)
        marks, levels, read, whole = (np.concatenate(part) for part in zip(*parts, strict=True))
        repeated = (self.tokens[:, :, None] == self.tokens[:, None, :]).tril(-1).any(-1)
        position, document = np.arange(self.n_ctx), self.documents.numpy()
        since = self.starts[:, None] + position - np.where(document >= 0, self.borders[document], 0)
        positions = np.stack([np.broadcast_to(position, since.shape), since], axis=-1).astype(np.float32)
        return Facts(
            (*MARKS, *SYNTAX, REPEATED),
            np.concatenate([marks, repeated.view(-1, 1).numpy()], axis=1),
            (*LEVELS, *POSITIONS),
            np.concatenate([levels, positions.reshape(-1, len(POSITIONS))], axis=1),
            read,
            whole,
        )

    def _cut(self, start: int, stop: int) -> Iterator[tuple[tuple[npt.NDArray[np.generic], ...], int, int]]:
        """The documents between two places of the stream, and which of their tokens lie there."""
        at = int(np.searchsorted(self.borders, start, side="right")) - 1
        while start < stop:
            first, end = int(self.borders[at]), int(self.borders[at + 1])
            upto = min(stop, end)
            yield said_of(self.stream.tokens[first:end].tolist(), self.tokenizer), start - first, upto - first
            start, at = upto, at + 1


def said_of(ids: list[int], tokenizer: Tokenizer) -> tuple[Bools, Floats, Bools, Bools]:
    """Marks, levels, whether Python's tokenizer came so far, whether ast took it all: of each token of a document.

    ``ids`` begin with ``<|endoftext|>``. A token's place is where it ends.
    """
    text, ends = placed(ids[1:], tokenizer)
    marks, levels, whole = described(text)
    tree = parsed(text)
    syntax = tree if tree is not None else {name: np.zeros(len(text) + 1, bool) for name in SYNTAX}
    columns = [*(marks[name] for name in MARKS), *(syntax[name] for name in SYNTAX)]
    n = len(ids)
    return (
        np.stack(columns, axis=1)[ends],
        np.stack([levels[name] for name in LEVELS], axis=1)[ends],
        np.full(n, whole),
        np.full(n, tree is not None),
    )


def placed(ids: list[int], tokenizer: Tokenizer) -> tuple[str, npt.NDArray[np.int64]]:
    """A document's text, and how many of its characters are read whole after ``<|endoftext|>`` and each token."""
    parts = [tokenizer.encoding.decode_single_token_bytes(token) for token in ids]
    whole = np.frombuffer(b"".join(parts), np.uint8)
    begins = (whole & 0xC0) != CONTINUES
    read = np.concatenate([[0], begins.cumsum()])
    read[:-1] -= ~begins  # the last character is still to be finished
    ends = np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)])
    return whole.tobytes().decode(errors="replace"), read[ends.astype(np.int64)]
