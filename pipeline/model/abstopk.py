"""AbsTopK: keep the k entries of largest magnitude of every row, zero the rest (§1).

Ties are broken towards the lower index, so exactly k entries are kept. On a CPU a numba kernel searches for each row's
threshold (pipeline.kernels.threshold), from the threshold of the row before; on a GPU a Triton kernel does
(pipeline.kernels.abstopk_gpu).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.kernels.abstopk_cpu import mask_by_bits, pack_bits, select_rows
from pipeline.kernels.simd import TILE
from pipeline.kernels.threads import in_shares

SHARE = 1 << 16  # entries below which a second thread costs more than it gives


class NoRankError(ValueError, ArithmeticError):
    """A NaN among numbers of which the largest are asked for: a training that diverged."""


def abs_topk(x: Tensor, k: int, inplace: bool = False) -> Tensor:
    """x with all but the k largest-magnitude entries of its last dimension zeroed; gradients flow to those k only.

    k at or above the width returns x itself, k 0 zeros. With ``inplace``, x is overwritten where it lies in one piece
    on a CPU, which spares memory: do not use it again. Raises ValueError for k below 0, and on a CPU for NaN, which has
    no rank (on a GPU, where looking would wait for it, NaN counts as larger than infinity: it is kept and reaches the
    loss).
    """
    if k < 0:
        raise ValueError(f"AbsTopK with k {k}; at least 0 is needed")
    if k >= x.shape[-1]:
        return x
    if k == 0:
        return torch.zeros_like(x)
    kept: Tensor = AbsTopK.apply(x, k, inplace)
    return kept


class AbsTopK(torch.autograd.Function):
    """Forward selects, backward passes the gradient through the selected entries."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int, inplace: bool) -> Tensor:
        inplace = inplace and x.device.type == "cpu" and x.is_contiguous() and not x._is_view()
        kept, keep = select(x.detach(), k, inplace)
        ctx.save_for_backward(packed(keep))
        if inplace:
            ctx.mark_dirty(x)
        return x if inplace else kept

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return masked(grads[0], keep), None, None


def select(x: Tensor, k: int, inplace: bool = False) -> tuple[Tensor, Tensor]:
    """x with all but each row's k largest magnitudes zeroed, and a mask of those k (1 byte each), by the fast way."""
    if x.device.type == "cpu":
        return select_bits(x, k, inplace)
    if x.device.type == "cuda":
        from pipeline.kernels.abstopk_gpu import keep_topk  # needs Triton, which comes with torch for CUDA

        return keep_topk(x, k)
    keep = select_sorted(x, k)
    return torch.where(keep.bool(), x, 0), keep


def select_sorted(x: Tensor, k: int) -> Tensor:
    """The oracle: uint8, 1 at each row's k largest magnitudes by a stable sort (ties to the lower index), else 0."""
    order = x.abs().argsort(dim=-1, descending=True, stable=True)[..., :k]
    return torch.zeros_like(x, dtype=torch.uint8).scatter_(-1, order, 1)


def select_bits(x: Tensor, k: int, inplace: bool = False) -> tuple[Tensor, Tensor]:
    """What ``select`` gives, on a CPU (bfloat16 or float32). Raises TypeError for other types, ValueError for NaN."""
    bits, infinity = _bits(x.dtype)
    rows = x.contiguous().view(-1, x.shape[-1])
    kept = rows if inplace or not x.is_contiguous() else torch.empty_like(rows)
    keep = torch.empty_like(rows, dtype=torch.uint8)
    source, into, mask = rows.view(bits).numpy(), kept.view(bits).numpy(), keep.numpy()
    undefined: list[int] = []

    def work(start: int, stop: int) -> None:
        row = select_rows(source[start:stop], k, infinity, into[start:stop], mask[start:stop])
        undefined.extend([start + row] if row >= 0 else [])

    in_shares(work, len(rows), least=-(-SHARE // rows.shape[1]))
    if undefined:
        raise NoRankError(f"AbsTopK of NaN in row {min(undefined)} of {len(rows)}: NaN has no rank")
    return kept.view(x.shape), keep.view(x.shape)


def packed(keep: Tensor) -> Tensor:
    """A mask of bytes as ``masked`` wants it: on a CPU a bit an entry (int64, in memory's order), else as it is."""
    if keep.device.type != "cpu":
        return keep
    words = torch.empty(-(-keep.numel() // TILE), dtype=torch.int64)
    flat, into = keep.view(-1).numpy(), words.numpy()
    in_shares(lambda at, to: pack_bits(flat, at, to, into), len(into), least=SHARE // TILE)
    return words


def masked(x: Tensor, keep: Tensor) -> Tensor:
    """x where the mask that ``packed`` gave is 1, else 0."""
    if x.device.type != "cpu":
        return torch.where(keep.bool(), x, 0)
    bits, _ = _bits(x.dtype)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    source, words, into = x.contiguous().view(-1).view(bits).numpy(), keep.numpy(), out.view(-1).view(bits).numpy()
    in_shares(lambda at, to: mask_by_bits(source, words, at, to, into), len(words), least=SHARE // TILE)
    return out


def _bits(dtype: torch.dtype) -> tuple[torch.dtype, int]:
    if dtype not in _BITS:
        raise TypeError(f"AbsTopK of {dtype} on a CPU; allowed: {', '.join(map(str, _BITS))}")
    return _BITS[dtype]


# Type → that of its bit patterns, and the pattern of infinity: what is above it is NaN.
_BITS = {torch.bfloat16: (torch.int16, 0x7F80), torch.float32: (torch.int32, 0x7F800000)}
