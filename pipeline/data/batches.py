"""Which tokens a training or validation step sees: a pure function of the seed and the step.

An epoch is a permutation of non-overlapping windows that begin at an offset of its own, so that windows are cut
elsewhere every time. A run resumes from its step number alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from jaxtyping import Int
from torch import Tensor

from pipeline.data.shards import TokenStream
from pipeline.seeds import seed_of


class CorpusTooSmallError(ValueError):
    """The token stream does not hold one batch."""


class TrainingBatches:
    """Training batches: ``at(step)`` is the same for the same stream, sizes, seed and step, in whatever order asked."""

    def __init__(self, stream: TokenStream, batch: int, n_ctx: int, seed: int) -> None:
        """Raises CorpusTooSmallError where the stream holds fewer than ``batch`` windows at every offset."""
        self.stream, self.batch, self.n_ctx, self.seed = stream, batch, n_ctx, seed
        # n_ctx is the largest offset; this many windows fit after it, and so after any other
        self.n_windows = max(0, stream.n_tokens - n_ctx) // (n_ctx + 1)
        self.steps_per_epoch = self.n_windows // batch
        if self.steps_per_epoch == 0:
            needed = batch * (n_ctx + 1) + n_ctx
            raise CorpusTooSmallError(
                f"the {stream.split} stream has {stream.n_tokens} tokens; one batch of {batch} windows of {n_ctx + 1} "
                f"tokens needs {needed}; enlarge corpus.n_chars or lower pretrain.batch or n_ctx"
            )
        self._epoch: tuple[int, npt.NDArray[np.int64]] = (0, self._starts(0))

    def at(self, step: int) -> Int[Tensor, "batch pos"]:
        """The windows of a step (from 0), ``n_ctx + 1`` tokens each: inputs ``[:, :-1]``, targets ``[:, 1:]``."""
        if step < 0:
            raise ValueError(f"step {step}: steps count from 0")
        epoch, place = divmod(step, self.steps_per_epoch)
        known, starts = self._epoch
        if known != epoch:
            starts = self._starts(epoch)
            self._epoch = (epoch, starts)
        return self.stream.window(starts[place * self.batch : (place + 1) * self.batch], self.n_ctx)

    def _starts(self, epoch: int) -> npt.NDArray[np.int64]:
        """Where the windows of an epoch begin, in the order in which they are read."""
        generator = np.random.default_rng(seed_of(self.seed, "batches", str(epoch)))
        offset = int(generator.integers(self.n_ctx + 1))
        return offset + (self.n_ctx + 1) * generator.permutation(self.n_windows).astype(np.int64)


def validation_batches(
    stream: TokenStream, batch: int, n_ctx: int, n_tokens: int
) -> Iterator[Int[Tensor, "batch pos"]]:
    """Windows of ``n_ctx + 1`` tokens in batches (the last may be smaller), always the same ones.

    As many windows as predict ``n_tokens`` tokens, or as the stream holds without overlap if those are fewer, evenly
    spread over it. Raises CorpusTooSmallError where not one fits.
    """
    n_windows = min(-(-n_tokens // n_ctx), stream.n_tokens // (n_ctx + 1))
    if n_windows < 1:
        raise CorpusTooSmallError(
            f"the {stream.split} stream has {stream.n_tokens} tokens; one window needs {n_ctx + 1} and at least one "
            f"token must be asked for (got {n_tokens}); enlarge corpus.n_chars or validation_frac, or lower n_ctx"
        )
    starts = np.arange(n_windows, dtype=np.int64) * stream.n_tokens // n_windows
    return (stream.window(starts[first : first + batch], n_ctx) for first in range(0, n_windows, batch))
