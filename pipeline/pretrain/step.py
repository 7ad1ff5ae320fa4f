"""One optimizer step of training: what ``loop`` repeats, and what a benchmark times."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.model.transformer import Transformer
from pipeline.pretrain.distributed import without_averaging
from pipeline.pretrain.loss import cross_entropy
from pipeline.pretrain.optimizer import SparseAdam


def train_step(
    model: nn.Module,
    optimizer: SparseAdam,
    batch: Int[Tensor, "batch pos"],
    step: int,
    precision: AbstractContextManager[None],
    accumulate: int,
) -> Float[Tensor, ""]:
    """The mean loss in nats over this rank's ``batch`` [batch, n_ctx + 1] before optimizer step ``step`` (from 0).

    The batch passes in ``accumulate`` equal parts, whose number of sequences has to be the same: their mean gradient is
    that of the whole batch, within rounding. ``model`` is what ``Ranks.trained`` gave. Gradients are None afterwards.
    """
    losses = []
    parts = batch.chunk(accumulate)
    for part in parts:
        with nullcontext() if part is parts[-1] else without_averaging(model):
            with precision:
                loss = next_token_loss(model, part) / accumulate
            loss.backward()
        losses.append(loss.detach())
    optimizer.step(step)
    return sum(losses[1:], losses[0])


def next_token_loss(model: nn.Module, batch: Int[Tensor, "batch pos"]) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats of every next token of ``batch`` [batch, n_ctx + 1]."""
    logits = model(batch[:, :-1])
    return cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def recompute_blocks(model: Transformer) -> None:
    """Make the model's blocks keep only their input for the backward pass, which computes the rest a second time.

    Gradients are the same; memory for activations falls to about one layer's, and time rises by about a third. Names,
    parameters and passes without gradients stay as they are. For a model in training only: under gradients,
    interventions would be called twice.
    """
    for block in model.transformer["h"]:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
