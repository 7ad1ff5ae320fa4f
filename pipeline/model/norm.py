"""RMSNorm; on a CPU one pass forward and one backward, where torch takes a pass for each of its ten operations."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.kernels.norm_cpu import ROWS, normalise, normalise_backward
from pipeline.kernels.simd import EPS
from pipeline.kernels.threads import in_shares
from pipeline.shape import ModelShape


class RMSNorm(nn.RMSNorm):
    """``nn.RMSNorm`` over the last dimension, its default epsilon."""

    def scaled(
        self, x: Float[Tensor, "*batch width"], scale: Float[Tensor, "*batch 1"]
    ) -> Float[Tensor, "*batch width"]:
        """The norm of ``x`` with a scale of another run in place of its own."""
        return x * scale * self.weight

    def scale(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch 1"]:
        """The factor that each row is multiplied by, before the gain."""
        return (x.square().mean(-1, keepdim=True) + EPS).rsqrt()

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return super().forward(x)
        y: Tensor = Normalise.apply(x, self.weight)
        return y


def new_norm(shape: ModelShape) -> RMSNorm:
    """The norm in front of attention, MLP and unembedding of a model of this shape."""
    return RMSNorm(shape.d_model)


class Normalise(torch.autograd.Function):
    """x / sqrt(mean x² + eps) · gain, of float32 on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor) -> Tensor:
        x = x.contiguous()
        rows, y, inverse = x.detach().flatten(0, -2), torch.empty_like(x), torch.empty(x.shape[:-1].numel())
        arrays = rows.numpy(), gain.detach().numpy(), y.view_as(rows).numpy(), inverse.numpy()
        in_shares(lambda start, stop: normalise(start, stop, *arrays), len(rows), multiple=ROWS)
        ctx.save_for_backward(x, gain, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, gain, inverse = ctx.saved_tensors
        rows, g, dx = x.flatten(0, -2), grads[0].contiguous().view(-1, x.shape[-1]), torch.empty_like(x)
        parts = torch.zeros(-(-len(rows) // ROWS), x.shape[-1])
        arrays = (t.detach().numpy() for t in (rows, gain, inverse, g, dx.view_as(rows), parts))
        fixed = tuple(arrays)
        in_shares(lambda start, stop: normalise_backward(start, stop, *fixed), len(rows), multiple=ROWS)
        return dx, parts.sum(0)
