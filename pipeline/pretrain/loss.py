"""Cross-entropy whose memory is that of the logits: no float32 copy of them, no second table of log probabilities."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS = 2048  # at a time: few enough to spare memory, enough that starting on them costs nothing


def cross_entropy(logits: Float[Tensor, "n vocab"], targets: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats, summed in float32 whatever the type of the logits."""
    loss: Tensor = CrossEntropy.apply(logits, targets)
    return loss


class CrossEntropy(torch.autograd.Function):
    """Keeps the logits and one number a row; backward turns a share of the rows at a time into their gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        log_total = torch.cat([rows.float().logsumexp(-1) for rows in logits.split(ROWS)])
        ctx.save_for_backward(logits, targets, log_total)
        return (log_total - logits.gather(1, targets[:, None])[:, 0].float()).mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, targets, log_total = ctx.saved_tensors
        scale = grads[0] / len(targets)
        out = torch.empty_like(logits)
        parts = zip(*(x.split(ROWS) for x in (logits, targets, log_total, out)), strict=True)
        for rows, right, total, into in parts:
            probability = (rows.float() - total[:, None]).exp_()
            probability.scatter_add_(1, right[:, None], probability.new_full((len(right), 1), -1.0))
            into.copy_(probability.mul_(scale))
        return out, None
