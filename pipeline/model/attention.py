"""Causal attention with an optional sink: each head's average of the values, and the weight that real tokens got.

The sink is a token before the first one: its score is the head's learned logit for every query, its value is zero
(§1). On a CPU, numba kernels take one head of one sequence and TILE queries at a time, the queries side by side
in vectors: a tile of scores never leaves the cache, and nothing of size pos × pos is written (the algorithm is
FlashAttention's, Dao et al. 2022). Values that AbsTopK zeroed are skipped. Elsewhere torch's fused kernel does it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.kernels.attention_cpu import backward_heads, forward_heads
from pipeline.kernels.threads import in_shares

ALIGNED = 8
Heads = Float[Tensor, "batch pos width"]
Queries = Float[Tensor, "batch query width"]  # of all positions, or of some of each sequence
AttentionMass = Float[Tensor, "batch head query"]


def attend(
    q: Queries,
    k: Heads,
    v: Heads,
    sink: Float[Tensor, " head"] | None,
    n_head: int,
    at: Int[Tensor, "batch query"] | None,
    branch: Int[Tensor, "batch 2"] | None = None,
) -> tuple[Queries, AttentionMass]:
    """Values averaged over the past, heads side by side, and each head's total weight on real tokens (no sink: 1).

    Softmax and sums in float32, in which the result is given. With ``at``, q holds only the queries at some positions
    of each sequence. With ``branch``, sequences branch: queries from its second position on do not see the tokens from
    its first to its second one.
    """
    q, k, v = q.float(), k.float(), v.float()
    if q.device.type == "cpu" and at is None:
        mixed, attention_mass = CausalAttention.apply(q, k, v, sink, n_head, branch)
        return mixed, attention_mass
    return attend_fused(q, k, v, sink, n_head, at, branch)


def attend_fused(
    q: Queries, k: Heads, v: Heads, sink: Tensor | None, n_head: int, at: Tensor | None, branch: Tensor | None = None
) -> tuple[Queries, AttentionMass]:
    """The same by torch's fused kernel, which knows no sink and returns no weights.

    Constant channels carry both through one call of it: queries have a 1 that meets the sink's logit in the sink's key,
    values a 1 whose average is the weight of real tokens. Zeros fill up to a multiple of ALIGNED channels, for a GPU.
    """
    assert branch is None or at is not None, "only queries at given positions can be in a branch here"
    q, k, v = (x.unflatten(-1, (n_head, -1)).transpose(1, 2) for x in (q, k, v))
    n_queries, d_head = q.shape[2:]
    scale, spare = d_head**-0.5, -(d_head + 1) % ALIGNED
    logit = torch.full((n_head,), -torch.inf, device=q.device) if sink is None else sink / scale
    first = F.pad(logit.view(1, -1, 1, 1), (d_head, spare)).expand(len(k), -1, -1, -1)
    k = torch.cat([first, F.pad(k, (0, 1 + spare))], dim=2)  # [batch, head, 1 + pos, a multiple of ALIGNED]
    q = F.pad(F.pad(q, (0, 1, int(at is None), 0), value=1.0), (0, spare))
    v = F.pad(F.pad(v, (0, 1), value=1.0), (0, spare, 1, 0))
    seen = None if at is None else seen_by(at, k.shape[2] - 1, branch)
    with torch.autocast(q.device.type, enabled=False):
        mixed = F.scaled_dot_product_attention(q, k, v, seen, is_causal=seen is None, scale=scale)[:, :, -n_queries:]
    return mixed[..., :d_head].transpose(1, 2).flatten(-2), mixed[..., d_head]


def seen_by(
    at: Int[Tensor, "batch query"], n_pos: int, branch: Int[Tensor, "batch 2"] | None
) -> Bool[Tensor, "batch 1 query key"]:
    """Which tokens, the sink before them, the queries at some positions see."""
    key = torch.arange(-1, n_pos, device=at.device)
    seen = key <= at[..., None]
    if branch is not None:
        start, end = branch[:, None, None].unbind(-1)
        seen &= (at[..., None] < end) | (key < start) | (key >= end)
    return seen[:, None]


class CausalAttention(torch.autograd.Function):
    """``attend`` on a CPU; backward computes the scores again from the logarithm of each query's denominator."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, n_head: int, branch: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        mixed, attention_mass = torch.empty_like(q), torch.empty(len(q), n_head, q.shape[1])
        log_total, logits = torch.empty_like(attention_mass), _sink_logits(sink, n_head)
        branch = torch.full((len(q), 2), q.shape[1]) if branch is None else branch
        arrays = [x.detach().numpy() for x in (q, k, v, branch, logits, mixed, attention_mass, log_total)]
        in_shares(lambda start, stop: forward_heads(start, stop, *arrays), len(q) * n_head)
        ctx.save_for_backward(q, k, v, branch, mixed, attention_mass, log_total)
        ctx.has_sink = sink is not None
        return mixed, attention_mass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None, None, None]:
        q, k, v, branch, mixed, attention_mass, log_total = ctx.saved_tensors
        dq, dk, dv, dsink = (
            torch.empty_like(q),
            torch.empty_like(k),
            torch.empty_like(v),
            torch.empty(attention_mass.shape[:2]),
        )
        g, g_attention_mass = grads[0].contiguous(), grads[1].contiguous()
        arrays = [
            x.detach().numpy()
            for x in (q, k, v, branch, mixed, attention_mass, log_total, g, g_attention_mass, dq, dk, dv, dsink)
        ]
        in_shares(
            lambda start, stop: backward_heads(start, stop, *arrays), attention_mass.shape[0] * attention_mass.shape[1]
        )
        return dq, dk, dv, dsink.sum(0) if ctx.has_sink else None, None, None


def _sink_logits(sink: Tensor | None, n_head: int) -> Tensor:
    return torch.full((n_head,), -torch.inf) if sink is None else sink.detach().float()
