"""Sparse weights times dense activations on a GPU, for densities under about 1 % (§8), as one Triton kernel.

y = x Wᵀ + b for x [n, in] and W [out, in] in compressed rows, and dX = g W, which is the same product with the
compressed rows of Wᵀ. The gradient of W is dense (a zeroed weight can come back), so that product stays torch's.

One program takes one output channel and a block of tokens: for each nonzero of that channel's row it reads a run of x
and adds value times run to sums held in registers, in float32. x is transposed to [in, n] first, so that a run is
neighbouring memory; y comes out as [out, n] and is returned transposed. Programs of neighbouring channels run at the
same time on the same tokens: their part of x (in × 512 tokens, 2 MB in bfloat16 at in = 2048) stays in L2 cache.

What it costs, with d the density and s the bytes of a number of x (2 or 4):
  arithmetic     2·d·in·out·n FLOP, float32, outside the tensor cores: never the limit
  L2 cache       d·in·out·n·s bytes, since each nonzero reads a number for each token: the limit
  memory         (3·in + out)·n·s bytes: x read and written by the transposition, x read, y written
A dense product takes 2·in·out·n FLOP of tensor cores. With B bytes/s out of the L2 cache and T FLOP/s from tensor cores
in x's type, the two take equally long at d = 2·B / (s·T). An H100 (B about 5.5e12; T, as matrix products reach it,
about 6e14 in bfloat16 and half of that in TF32) puts this at 0.9 % in both types: an estimate, not a measurement. Below
it time falls with d, until moving x and y is what is left: at (3·in + out) / (in·out) · B/M with M bytes/s of memory,
0.14 % for 2048 × 8192 and M = 3.35e12. Against float32 without TF32, torch's default, the border is nearer 5 %.

Results are deterministic. They differ from a dense product's by rounding, and where x is infinite or NaN: a weight that
is not stored contributes nothing, while a dense zero times infinity is NaN.

Imports triton, which a CUDA build of torch brings along and a CPU build does not: import this module only where there
is a CUDA tensor. With TRITON_INTERPRET=1 set before triton is first imported, the kernel runs on CPU tensors (tests).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 512  # tokens a program
CHUNK = 8  # nonzeros read side by side, to have that many reads under way
WARPS = 4


@dataclass(frozen=True)
class Csr:
    """A matrix [out, in] in compressed rows: row r's nonzeros are entries ``crow[r]`` up to ``crow[r + 1]``."""

    crow: Int[Tensor, " out_plus_1"]  # int32
    col: Int[Tensor, " nnz"]  # int32, ascending in each row
    values: Float[Tensor, " nnz"]
    n_col: int

    @property
    def n_row(self) -> int:
        return len(self.crow) - 1


def compress(weight: Float[Tensor, "out in"], n_nonzero: int | None = None) -> Csr:
    """The nonzeros of a matrix, row by row; for the gradient pass ``weight.T``.

    ``n_nonzero`` is an upper bound of their number, which the projection knows (its budget): nothing then waits for the
    GPU, and unused places stay at the end, where no row reaches. Without it they are counted, and the host waits. A
    bound that is too small leaves ``crow`` pointing behind the end of ``col``: it is trusted.
    """
    weight = weight.detach()
    there = weight != 0
    size = int(there.sum()) if n_nonzero is None else n_nonzero
    row, col = torch.nonzero_static(there, size=size, fill_value=0).unbind(1)
    crow = torch.zeros(len(weight) + 1, dtype=torch.int32, device=weight.device)
    torch.cumsum(there.sum(1), 0, dtype=torch.int32, out=crow[1:])
    return Csr(crow, col.to(torch.int32), weight[row, col], weight.shape[1])


def multiply(
    x: Float[Tensor, "*batch in"], weight: Csr, bias: Float[Tensor, " out"] | None = None
) -> Float[Tensor, "*batch out"]:
    """x Wᵀ + b in x's type, summed in float32; no gradient. The result's last dimension is not the contiguous one.

    Fastest where the number of tokens is a multiple of 16. Raises ValueError where shapes do not fit, TypeError for
    types other than float32, bfloat16 and float16.
    """
    if x.shape[-1] != weight.n_col:
        raise ValueError(f"x [..., {x.shape[-1]}] times the transpose of W [{weight.n_row}, {weight.n_col}]")
    if bias is not None and bias.shape != (weight.n_row,):
        raise ValueError(f"bias {list(bias.shape)} for W [{weight.n_row}, {weight.n_col}]; allowed: [{weight.n_row}]")
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise TypeError(f"sparse product of {x.dtype}; allowed: float32, bfloat16, float16")
    columns = x.detach().reshape(-1, weight.n_col).T.contiguous()  # [in, n]
    n = columns.shape[1]
    y = torch.empty(weight.n_row, n, dtype=x.dtype, device=x.device)
    block = min(BLOCK, max(16, triton.next_power_of_2(n)))
    if y.numel():
        with torch.cuda.device_of(x):
            _multiply[(weight.n_row, triton.cdiv(n, block))](
                columns,
                weight.crow,
                weight.col,
                weight.values,
                y if bias is None else bias.detach(),  # any address: not read without a bias
                y,
                n,
                HAS_BIAS=bias is not None,
                BLOCK=block,
                CHUNK=CHUNK,
                num_warps=WARPS,
            )
    return y.T.view(*x.shape[:-1], weight.n_row)


def linear(
    x: Float[Tensor, "*batch in"],
    weight: Float[Tensor, "out in"],
    bias: Float[Tensor, " out"] | None,
    rows: Csr,
    columns: Csr,
) -> Float[Tensor, "*batch out"]:
    """F.linear(x, weight, bias), forward and dX by the nonzeros, dW dense.

    ``rows`` is ``compress(weight)`` and ``columns`` ``compress(weight.T)``, made anew after every projection.
    """
    y: Tensor = _Linear.apply(x, weight, bias, rows, columns)
    return y


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, rows: Csr, columns: Csr) -> Tensor:
        ctx.save_for_backward(x)
        ctx.columns, ctx.types = columns, (weight.dtype, None if bias is None else bias.dtype)
        return multiply(x, rows, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        (x,), grad = ctx.saved_tensors, grads[0]
        of_weight, of_bias = ctx.types
        flat = grad.reshape(-1, grad.shape[-1])
        dx = multiply(grad, ctx.columns) if ctx.needs_input_grad[0] else None
        dw = (flat.T @ x.reshape(-1, x.shape[-1])).to(of_weight) if ctx.needs_input_grad[1] else None
        db = flat.sum(0, dtype=torch.float32).to(of_bias) if ctx.needs_input_grad[2] else None
        return dx, dw, db, None, None


@triton.jit
def _multiply(  # type: ignore[no-untyped-def]  # Triton reads annotations as its own
    x_ptr,  # [in, n]
    crow_ptr,
    col_ptr,
    value_ptr,
    bias_ptr,
    y_ptr,  # [out, n]
    n,
    HAS_BIAS: tl.constexpr,  # noqa: N803  (Triton's custom for what is fixed when the kernel is compiled)
    BLOCK: tl.constexpr,  # noqa: N803
    CHUNK: tl.constexpr,  # noqa: N803
):
    """Each program: one output channel, BLOCK tokens. CHUNK sums run side by side and meet at the end."""
    row = tl.program_id(0)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    begin = tl.load(crow_ptr + row)
    end = tl.load(crow_ptr + row + 1)
    sums = tl.zeros([CHUNK, BLOCK], tl.float32)
    for start in range(begin, end, CHUNK):
        entry = start + tl.arange(0, CHUNK)
        real = entry < end
        col = tl.load(col_ptr + entry, mask=real, other=0).to(tl.int64)  # in times n can pass 2³¹
        value = tl.load(value_ptr + entry, mask=real, other=0).to(tl.float32)
        run = x_ptr + col[:, None] * n + token[None, :]
        x = tl.load(run, mask=real[:, None] & (token < n)[None, :], other=0).to(tl.float32)
        sums += value[:, None] * x
    y = tl.sum(sums, axis=0)
    if HAS_BIAS:
        y += tl.load(bias_ptr + row).to(tl.float32)
    tl.store(y_ptr + row.to(tl.int64) * n + token, y.to(y_ptr.dtype.element_ty), mask=token < n)
