"""RMSNorm; on a CPU one pass forward and one backward, where torch takes a pass for each of its ten operations."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn

from pipeline.kernels.simd import EPS
from pipeline.kernels.threads import in_shares

ROWS = 256  # whose part of the gain's gradient is summed on its own, whatever the number of threads


class RMSNorm(nn.RMSNorm):
    """``nn.RMSNorm`` over the last dimension, its default epsilon."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return super().forward(x)
        y: Tensor = Normalise.apply(x, self.weight)
        return y


class Normalise(torch.autograd.Function):
    """x / sqrt(mean x² + eps) · gain, of float32 on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor) -> Tensor:
        x = x.contiguous()
        rows, y, inverse = x.detach().flatten(0, -2), torch.empty_like(x), torch.empty(x.shape[:-1].numel())
        arrays = rows.numpy(), gain.detach().numpy(), y.view_as(rows).numpy(), inverse.numpy()
        in_shares(lambda start, stop: _forward(start, stop, *arrays), len(rows), multiple=ROWS)
        ctx.save_for_backward(x, gain, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, gain, inverse = ctx.saved_tensors
        rows, g, dx = x.flatten(0, -2), grads[0].contiguous().view(-1, x.shape[-1]), torch.empty_like(x)
        parts = torch.zeros(-(-len(rows) // ROWS), x.shape[-1])
        arrays = (t.detach().numpy() for t in (rows, gain, inverse, g, dx.view_as(rows), parts))
        fixed = tuple(arrays)
        in_shares(lambda start, stop: _backward(start, stop, *fixed), len(rows), multiple=ROWS)
        return dx, parts.sum(0)


# The sums over a row may be taken in any order: that is what lets them be vectors.
@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _forward(start: int, stop: int, x: Any, gain: Any, y: Any, inverse: Any) -> None:
    width = x.shape[1]
    for r in range(start, stop):
        total = np.float32(0)
        for i in range(width):
            total += x[r, i] * x[r, i]
        scale = np.float32(1 / np.sqrt(total / width + EPS))
        inverse[r] = scale
        for i in range(width):
            y[r, i] = x[r, i] * scale * gain[i]


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _backward(start: int, stop: int, x: Any, gain: Any, inverse: Any, g: Any, dx: Any, parts: Any) -> None:
    width = x.shape[1]
    for r in range(start, stop):
        total = np.float32(0)
        for i in range(width):
            total += g[r, i] * gain[i] * x[r, i]
        scale = inverse[r]
        mean = np.float32(total * scale * scale * scale / width)
        part = parts[r // ROWS]
        for i in range(width):
            part[i] += g[r, i] * x[r, i] * scale
            dx[r, i] = g[r, i] * gain[i] * scale - x[r, i] * mean
