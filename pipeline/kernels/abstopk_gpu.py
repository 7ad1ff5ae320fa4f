"""AbsTopK on a GPU, as one Triton kernel: each row is read once, stays in registers, and is written once (§8).

The selection is that of ``pipeline.model.abstopk`` on a CPU: a binary search over the bits of the magnitude for each
row's k-th largest, ties broken towards the lower index, so exactly k entries are kept. The search takes at most 15
counts (16-bit types) or 31, all of them over registers, and ends as soon as exactly k entries are left. The gradient
needs no kernel of its own: ``pipeline.model.abstopk.AbsTopK`` masks it.

The mask for the backward pass is one byte an entry. One bit would spare 0.9 of the 5 bytes an entry that a bfloat16
forward pass moves, and as much of the 5 of a backward pass, but torch could then not apply it. ``y != 0`` is no
substitute: an entry that is kept can be zero.

NaN: its bit pattern lies above infinity's, so it is among the kept, and shows up in the loss. The CPU path refuses NaN
with a ValueError; to do so here, the host would have to wait for the GPU at every site.

Imports triton, which a CUDA build of torch brings along and a CPU build does not: import this module only where there
is a CUDA tensor. With TRITON_INTERPRET=1 set before triton is first imported, the kernel runs on CPU tensors (tests).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float
from torch import Tensor

MAX_WIDTH = 16384  # 16 entries for each of the 1024 threads that a row can have
TILE = 1024  # entries a program holds at least: narrow rows share one
PER_WARP = 512  # entries for each warp of 32 threads, 16 a thread

# The integer type that reads the bits, and the highest bit of a magnitude.
_BITS = {torch.float32: (torch.int32, 30), torch.bfloat16: (torch.int16, 14), torch.float16: (torch.int16, 14)}


def keep_topk(
    x: Float[Tensor, "*rows width"], k: int
) -> tuple[Float[Tensor, "*rows width"], Bool[Tensor, "*rows width"]]:
    """x with all but each row's k largest magnitudes set to +0, and the mask of those k (1 = keep); no gradient.

    k = 0 keeps nothing, k at or above the width everything (x itself comes back). Rows may be strided, as a chunk of a
    wider tensor is; the results are contiguous. Nothing waits for the GPU. Raises ValueError for a negative k and for
    rows wider than MAX_WIDTH, TypeError for types other than float32, bfloat16 and float16.
    """
    width = x.shape[-1]
    if k < 0:
        raise ValueError(f"AbsTopK with k {k}; at least 0 is needed")
    if width > MAX_WIDTH:
        raise ValueError(f"AbsTopK over rows of {width}; the GPU kernel takes at most {MAX_WIDTH}")
    if x.dtype not in _BITS:
        raise TypeError(f"AbsTopK of {x.dtype} on a GPU; allowed: {', '.join(map(str, _BITS))}")
    if k == 0 or x.numel() == 0:
        return torch.zeros_like(x), torch.zeros_like(x, dtype=torch.bool)
    if k >= width:
        return x, torch.ones_like(x, dtype=torch.bool)
    rows = x.detach().reshape(-1, width)
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    keep = torch.empty(x.shape, dtype=torch.bool, device=x.device)
    bits, top_bit = _BITS[x.dtype]
    block, together, warps = tile(width)
    with torch.cuda.device_of(x):
        _keep_topk[(triton.cdiv(len(rows), together),)](
            rows.view(bits),
            y.view(bits),
            keep.view(torch.uint8),
            len(rows),
            width,
            k,
            rows.stride(0),
            TOP_BIT=top_bit,
            ROWS=together,
            BLOCK=block,
            num_warps=warps,
        )
    return y, keep


def tile(width: int) -> tuple[int, int, int]:
    """How rows of a width are dealt out: entries a row is padded to, rows a program, warps a program."""
    block = triton.next_power_of_2(width)
    together = max(1, TILE // block)
    return block, together, block * together // PER_WARP


@triton.jit
def _keep_topk(  # type: ignore[no-untyped-def]  # Triton reads annotations as its own
    x_ptr,  # bit patterns [n_rows, width], a row every ``stride`` entries
    y_ptr,
    keep_ptr,
    n_rows,
    width,
    k,
    stride,
    TOP_BIT: tl.constexpr,  # noqa: N803  (Triton's custom for what is fixed when the kernel is compiled)
    ROWS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """Each program: ROWS rows, padded to BLOCK entries of magnitude −1, which no count sees. 0 < k < width."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # rows times width can pass 2³¹
    col = tl.arange(0, BLOCK)
    real = (row < n_rows)[:, None] & (col < width)[None, :]
    bits = tl.load(x_ptr + row[:, None] * stride + col[None, :], mask=real, other=0)
    magnitude = tl.where(real, bits.to(tl.int32) & ((2 << TOP_BIT) - 1), -1)

    # The largest threshold that at least k entries reach, found from its highest bit down; ``reach`` is how many do.
    threshold = tl.zeros([ROWS], tl.int32)
    reach = tl.where(row < n_rows, width, k)
    step = tl.full([], 1 << TOP_BIT, tl.int32)
    while (step > 0) & (tl.max(reach, axis=0) > k):
        candidate = threshold | step
        count = tl.sum((magnitude >= candidate[:, None]).to(tl.int32), axis=1)
        threshold = tl.where(count >= k, candidate, threshold)
        reach = tl.where(count >= k, count, reach)
        step = step >> 1

    keep = magnitude >= threshold[:, None]
    if tl.max(reach, axis=0) > k:  # more than k: entries equal to the threshold, of which the first ones stay
        tie = magnitude == threshold[:, None]
        room = tl.sum(tie.to(tl.int32), axis=1) - (reach - k)
        keep = keep & ((tie == 0) | (tl.cumsum(tie.to(tl.int32), axis=1) <= room[:, None]))

    into = row[:, None] * width + col[None, :]
    tl.store(y_ptr + into, tl.where(keep, bits, 0), mask=real)
    tl.store(keep_ptr + into, keep.to(tl.uint8), mask=real)
