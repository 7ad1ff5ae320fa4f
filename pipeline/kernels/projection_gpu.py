"""The choice of the weights that stay, made on the device where they are: no sort, no wait for the host (§8).

``tests/pretrain/oracle.py`` makes the same choice in numpy. Here it is plain torch: the budget-th largest
magnitude is found by a binary search over its bits, 31 counts of the tensor, whose outcomes stay on the device. A count
moves about 6 bytes a weight (4 read, a bool written and read), all of them 0.2 kB: a tenth of a millisecond for a
million weights at 2 TB/s. Keep-alive takes ``keep_alive`` more passes, each the argmax of every line. That is some 160
kernels a tensor, whose launches are what small tensors cost; no kernel depends on a value that the host has to see, so
a CUDA graph can hold them all.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MAGNITUDE = 0x7FFFFFFF  # every bit of a float32 but its sign
TOP_BIT = 30  # the highest bit of a float32 magnitude
FORCED = 0x7F800000  # the bits of infinity, as which a keep-alive weight counts
TAKEN = -1  # below the bits of every magnitude


def keep_largest(
    weight: Float[Tensor, "*shape"], budget: int, keep_alive: int, alive_axis: int | None
) -> Bool[Tensor, "*shape"]:
    """A mask (1 = keep) of exactly ``budget`` entries: the largest, after each line has its ``keep_alive`` ones.

    Lines are rows (``alive_axis`` 0) or columns (1) of a matrix; None, for a tensor of any shape: no keep-alive. Ties
    go to the lower flat index. Equal, entry by entry, to the numpy choice for all weights but NaN, which counts
    as larger than infinity and is kept. Runs on any device without a synchronisation. Raises ValueError for a budget
    that is not from 1 to the number of weights, TypeError for types that float32 does not hold exactly.
    """
    if not 1 <= budget <= weight.numel():
        raise ValueError(f"budget {budget} for a tensor of {weight.numel()} weights; allowed: 1 to {weight.numel()}")
    if weight.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise TypeError(f"projection of {weight.dtype}; allowed: float32, bfloat16, float16")
    bits = weight.detach().float().contiguous().view(torch.int32) & MAGNITUDE
    if alive_axis is not None:
        bits = force_alive(bits, keep_alive, 1 - alive_axis)
    return top(bits.flatten(), budget).view(weight.shape)


def force_alive(bits: Int[Tensor, "rows cols"], keep_alive: int, along: int) -> Int[Tensor, "rows cols"]:
    """The bits with each line's ``keep_alive`` largest at infinity's; a line runs along the given axis.

    argmax names the first of equal entries, so ties go to the lower index.
    """
    left = bits.clone()
    for _ in range(min(keep_alive, bits.shape[along])):
        left.scatter_(along, left.argmax(dim=along, keepdim=True), TAKEN)
    return bits.masked_fill(left == TAKEN, FORCED)


def top(bits: Int[Tensor, " n"], k: int) -> Bool[Tensor, " n"]:
    """A mask of the k largest of n nonnegative integers, 1 ≤ k ≤ n, ties to the lower index."""
    threshold = torch.zeros((), dtype=bits.dtype, device=bits.device)
    for bit in range(TOP_BIT, -1, -1):
        candidate = threshold | (1 << bit)
        threshold = torch.where((bits >= candidate).sum() >= k, candidate, threshold)
    above, tie = bits > threshold, bits == threshold
    room = k - above.sum()
    return above | (tie & (tie.cumsum(0, dtype=torch.int32) <= room))
