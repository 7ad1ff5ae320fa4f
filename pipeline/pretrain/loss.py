"""Cross-entropy whose memory is that of the logits: no float32 copy of them, no second table of log probabilities."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.kernels.loss_cpu import fill_gradient, fill_log_totals
from pipeline.kernels.threads import in_shares

ROWS = 2048  # at a time: few enough to spare memory, enough that starting on them costs nothing


def cross_entropy(logits: Float[Tensor, "n vocab"], targets: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats, summed in float32 whatever the type of the logits."""
    loss: Tensor = CrossEntropy.apply(logits, targets)
    return loss


class CrossEntropy(torch.autograd.Function):
    """Keeps the logits and one number a row; backward turns some rows at a time into their gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        log_total = _log_totals(logits)
        ctx.save_for_backward(logits, targets, log_total)
        return (log_total - logits.gather(1, targets[:, None])[:, 0].float()).mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, targets, log_total = ctx.saved_tensors
        return _gradient(logits, targets, log_total, grads[0] / len(targets)), None


def _log_totals(logits: Tensor) -> Float[Tensor, " n"]:
    """The logarithm of each row's sum of exponentials, in float32."""
    if not _has_kernel(logits):
        return torch.cat([rows.float().logsumexp(-1) for rows in logits.split(ROWS)])
    out = torch.empty(len(logits))
    arrays = logits.detach().numpy(), out.numpy()
    in_shares(lambda start, stop: fill_log_totals(start, stop, *arrays), len(out))
    return out


def _gradient(logits: Tensor, targets: Tensor, log_total: Tensor, scale: Tensor) -> Float[Tensor, "n vocab"]:
    """``scale`` · (softmax − 1 at the target), in the logits' type."""
    out = torch.empty_like(logits)
    if _has_kernel(logits):
        arrays = [x.numpy() for x in (logits, targets, log_total, out)]
        in_shares(lambda start, stop: fill_gradient(start, stop, *arrays, float(scale)), len(targets))
        return out
    for rows, right, total, into in zip(*(x.split(ROWS) for x in (logits, targets, log_total, out)), strict=True):
        probability = (rows.float() - total[:, None]).exp_()
        probability.scatter_add_(1, right[:, None], probability.new_full((len(right), 1), -1.0))
        into.copy_(probability.mul_(scale))
    return out


def _has_kernel(logits: Tensor) -> bool:
    return logits.device.type == "cpu" and logits.dtype == torch.float32 and logits.is_contiguous()
