"""RMSNorm and LayerNorm. RMSNorm is on a CPU one pass forward and one backward, where torch takes a pass for each of
its ten operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
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


class LayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` over the last dimension, its default epsilon, with or without a bias."""

    def scaled(
        self, x: Float[Tensor, "*batch width"], scale: Float[Tensor, "*batch 1"]
    ) -> Float[Tensor, "*batch width"]:
        """The norm of ``x`` with a scale of another run in place of its own."""
        y = (x - x.mean(-1, keepdim=True)) * scale * self.weight
        return y if self.bias is None else y + self.bias

    def scale(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch 1"]:
        """The factor that each centred row is multiplied by, before the gain."""
        return (x.var(-1, keepdim=True, correction=0) + self.eps).rsqrt()


Norm = RMSNorm | LayerNorm


def new_norm(shape: ModelShape, width: int | None = None) -> Norm:
    """The norm in front of attention, MLP and unembedding of a model of this shape; ``width``: None for d_model."""
    width = shape.d_model if width is None else width
    return RMSNorm(width) if shape.norm == "rms" else LayerNorm(width, bias=shape.norm_bias)


@dataclass(frozen=True)
class NormTerms:
    """A norm as kernels take it: (x − mean, where ``centred``) / sqrt(variance + eps) · gain + bias."""

    gain: np.ndarray
    bias: np.ndarray
    centred: bool
    eps: float

    @classmethod
    def of(cls, norm: Norm) -> NormTerms:
        gain = norm.weight.detach().numpy()
        bias = getattr(norm, "bias", None)
        centred = isinstance(norm, LayerNorm)
        return cls(
            gain, np.zeros_like(gain) if bias is None else bias.detach().numpy(), centred, norm.eps if centred else EPS
        )

    @property
    def arguments(self) -> tuple[np.ndarray, np.ndarray, bool, float]:
        return self.gain, self.bias, self.centred, self.eps


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
