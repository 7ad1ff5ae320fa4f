"""The linear maps of the model: dense, or through the nonzeros of their weight where that was measured to be faster."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.kernels.backward_set import add_gradients
from pipeline.kernels.sparse import CsrRows, Nonzeros, fits, multiply, n_nonzero, outer, transposed

FROZEN_BELOW = 0.15  # density up to which a frozen model's products skip zeros on a CPU: faster there with 2 threads
ON_GPU = 0.01  # and on a GPU, where unstructured zeros pay only where they are over 99 % (§8)
MOSTLY_ZERO = 0.5  # fraction of nonzeros in the gradient below which dW goes through them
TURNED_TOKENS, WIDE = 2048, 512  # sizes at which a product of what was turned before has the bits of torch's own
SAMPLE = 64  # rows of the gradient in which they are counted


class Linear(nn.Linear):
    """``nn.Linear`` that skips the zeros of its weight at densities of ``sparse_below`` and under (0: never).

    Both ways are the same map within float rounding. The nonzeros are gathered anew whenever the weight has changed.
    """

    sparse_below: float = 0.0
    backward_set: CsrRows | None = None  # weights to whose values gradients are added, in place of ``weight.grad``
    _nonzeros: tuple[Any, Any] = (None, None)  # of which version of the weight, on which device

    def forward(self, x: Tensor) -> Tensor:
        nonzeros = self.nonzeros()
        if nonzeros is None:
            return F.linear(x, self.weight, self.bias)
        return sparse_product(x, self.weight, self.bias, nonzeros, self.backward_set)

    def nonzeros(self) -> Any:
        """The weight's nonzeros as they are now, as its device wants them; None where products are dense."""
        if not self.sparse_below or not fits(self.weight):
            return None
        version, nonzeros = self._nonzeros
        if version != (self.weight._version, self.weight.device):
            few = n_nonzero(self.weight) <= self.sparse_below * self.weight.numel()
            nonzeros = compressed(self.weight) if few else None
            self.know(nonzeros)
        return nonzeros

    def know(self, nonzeros: Any) -> None:
        """Take ``nonzeros`` for those of the weight as it is now."""
        self._nonzeros = ((self.weight._version, self.weight.device), nonzeros)


def skip_zeros(model: nn.Module, density: float) -> None:
    """Let every linear map of ``model`` multiply through its nonzeros once they are at most this fraction."""
    for module in model.modules():
        if isinstance(module, Linear):
            module.sparse_below = density


def compressed(weight: Tensor) -> Any:
    """The nonzeros of a weight: on a CPU, or for the kernel of a GPU (pipeline.kernels.sparse_gpu)."""
    if weight.is_cuda:
        from pipeline.kernels import sparse_gpu  # needs Triton, which comes with torch for CUDA

        return sparse_gpu.compress(weight), sparse_gpu.compress(weight.T)
    return Nonzeros.of(weight)


def sparse_product(
    x: Tensor, weight: Tensor, bias: Tensor | None, nonzeros: Any, backward_set: CsrRows | None = None
) -> Tensor:
    """x Wᵀ + b by the nonzeros that ``compressed`` gave, in the type that autocast asks for, else x's.

    With a ``backward_set`` (on a CPU), the gradients of its weights are added to its values, and W gets none.
    """
    kind = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    if weight.is_cuda:
        from pipeline.kernels import sparse_gpu

        return sparse_gpu.linear(x.to(kind), weight, bias, *nonzeros)
    x = x.to(kind if kind == torch.bfloat16 else torch.float32)
    y: Tensor = SparseProduct.apply(x, weight, bias, nonzeros, backward_set)
    return y.to(kind)


class SparseProduct(torch.autograd.Function):
    """x Wᵀ + b for x [..., in], in x's type, by the nonzeros of W; backward by those of W and of the gradient.

    x is float32 or bfloat16. In bfloat16, which is chosen where the hardware multiplies it, dW is dense: that is faster
    than skipping the gradient's zeros. A frozen weight costs no dW.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        nonzeros: Nonzeros,
        backward_set: CsrRows | None,
    ) -> Tensor:
        ctx.save_for_backward(x if any(ctx.needs_input_grad[1:]) else None)
        ctx.nonzeros, ctx.backward_set = nonzeros, backward_set
        return multiply(x, nonzeros.rows, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        (x,) = ctx.saved_tensors
        dx = multiply(grads[0], ctx.nonzeros.columns, None) if ctx.needs_input_grad[0] else None
        rows = None if x is None else (grads[0].flatten(0, -2), x.flatten(0, -2))
        dw, db = (None, None) if rows is None else weight_gradients(*rows, ctx.backward_set)
        return dx, dw, db if ctx.needs_input_grad[2] else None, None, None


def weight_gradients(g: Tensor, x: Tensor, backward_set: CsrRows | None) -> tuple[Tensor | None, Tensor]:
    """Gradients [out, in] of a weight and [out] of its bias, in float32, from those of the output [n, out].

    With a ``backward_set`` that of the weight is added to its values.
    """
    if backward_set is not None:
        return None, add_gradients(g, x, backward_set)
    if g.dtype == torch.float32 and n_nonzero(g[:SAMPLE]) < MOSTLY_ZERO * g[:SAMPLE].numel():
        return outer(g, x)
    return turned_product(g, x).float(), g.sum(0).float()  # torch sums in float32


def turned_product(g: Tensor, x: Tensor) -> Tensor:
    """Gᵀ X [out, in] in their type, to the bits of torch's product of the view ``g.t()``.

    Intel's AMX takes half the time where what is to be turned has been turned before, and for these many tokens and
    wide matrices sums in the same order (measured for width 512 to 2048; for others it does not).
    """
    fits = len(g) == TURNED_TOKENS and g.dtype == torch.bfloat16 and min(g.shape[1], x.shape[1]) >= WIDE
    if not (fits and _has_amx()):
        return g.t() @ x
    return transposed(g) @ x if g.shape[1] >= x.shape[1] else transposed(transposed(x) @ g)


@functools.cache
def _has_amx() -> bool:
    return bool(torch.cpu._is_amx_tile_supported())
