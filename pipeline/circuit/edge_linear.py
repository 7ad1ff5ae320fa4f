"""A linear map of which a few edges are live, each with a mask of its own, through which gradients flow (§5).

What a mask takes of an edge's value, the source's held value takes its place for; all other edges are held. Only the
live edges are multiplied, forward and back, where the sparse kernels fit, and a mask's gradient is one product of two
columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.kernels.sparse import Rows, fits, multiply


@dataclass(frozen=True)
class LiveMap:
    """The live edges of a linear map: its target (a row of the weight) and source of each, and sources' held values;
    of how many heads the sources are channels, each with its weight on real tokens (1: of none)."""

    weight: Float[Tensor, "out in"]
    bias: Float[Tensor, " out"]
    ablated_to: Float[Tensor, " in"]
    target: Int[Tensor, " edge"]
    source: Int[Tensor, " edge"]
    n_head: int

    @cached_property
    def edge_weight(self) -> Float[Tensor, " edge"]:
        return self.weight[self.target, self.source]

    @cached_property
    def index(self) -> EdgeIndex:
        return EdgeIndex.of(self.target, self.source, *self.weight.shape)

    @cached_property
    def head(self) -> Int[Tensor, " edge"]:
        """Which head each edge's source is a channel of."""
        return self.source.div(len(self.ablated_to) // self.n_head, rounding_mode="floor")

    @cached_property
    def all_ablated(self) -> Float[Tensor, "head out"]:
        """What the sources of each head write where they are held."""
        return (self.weight * self.ablated_to).unflatten(1, (self.n_head, -1)).sum(-1).T


@dataclass(frozen=True)
class MaskedEdges:
    """``layer(x)`` with a mask on each live edge, for ``Transformer.forward``'s cuts; differentiable in x and mask."""

    position_free = True
    map: LiveMap
    mask: Float[Tensor, " edge"]

    def __call__(
        self, layer: nn.Linear, x: Tensor, attention_mass: Float[Tensor, "batch head pos"] | None = None
    ) -> Tensor:
        part = self.map
        value = part.edge_weight * self.mask
        live = _product(x, value, part)
        masked = part.all_ablated.index_put(
            (part.head, part.target), -value * part.ablated_to[part.source], accumulate=True
        )  # what is held, less what takes its place
        return live + part.bias + (masked[0] if attention_mass is None else attention_mass.transpose(1, 2) @ masked)


def _product(x: Float[Tensor, "batch pos in"], value: Float[Tensor, " edge"], part: LiveMap) -> Tensor:
    """The sum over edges of ``value`` times their source."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and fits(part.weight):
        product: Tensor = _EdgeProduct.apply(x, value, part.index)
        return product
    return F.linear(x, torch.zeros_like(part.weight).index_put((part.target, part.source), value))


@dataclass(frozen=True)
class EdgeIndex:
    """Edges by target and by source, as ``sparse.Rows`` has them, and places in the order that they were given in."""

    by_target: tuple[np.ndarray, np.ndarray, np.ndarray]  # starts, sources, places
    by_source: tuple[np.ndarray, np.ndarray, np.ndarray]  # starts, targets, places
    targets: Int[Tensor, " n"]  # that any edge has, ascending
    sources: Int[Tensor, " n"]
    ends: tuple[np.ndarray, np.ndarray]  # target and source of each edge, among those

    @classmethod
    def of(cls, target: Int[Tensor, " edge"], source: Int[Tensor, " edge"], n_out: int, n_in: int) -> EdgeIndex:
        targets, t = target.unique(return_inverse=True)
        sources, s = source.unique(return_inverse=True)
        ends = t.numpy(), s.numpy()
        return cls(_rows(target, source, n_out), _rows(source, target, n_in), targets, sources, ends)


def _rows(row: Tensor, column: Tensor, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    place = np.lexsort((column.numpy(), row.numpy()))
    start = np.zeros(n + 1, np.int32)
    start[1:] = np.bincount(row.numpy(), minlength=n).cumsum()
    return start, column.numpy()[place].astype(np.int32), place


class _EdgeProduct(torch.autograd.Function):
    """``_product`` through the edges alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, index: EdgeIndex) -> Tensor:
        ctx.save_for_backward(x, value)
        ctx.index = index
        start, column, place = index.by_target
        return multiply(x, Rows(start, column, value.detach().numpy()[place]), None)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (x, value), index, g = ctx.saved_tensors, ctx.index, grads[0]
        start, column, place = index.by_source
        dx = multiply(g, Rows(start, column, value.detach().numpy()[place]), None)
        ends = [v.flatten(0, 1).index_select(1, i).T.contiguous() for v, i in ((g, index.targets), (x, index.sources))]
        dvalue = torch.empty_like(value)
        _dot_ends(*(end.detach().numpy() for end in ends), *index.ends, dvalue.numpy())
        return dx, dvalue, None


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _dot_ends(target: Any, source: Any, t: Any, s: Any, out: Any) -> None:
    """Each edge's product of its ends' rows [channel, position]."""
    for e in range(len(out)):
        one, other, total = target[t[e]], source[s[e]], np.float32(0)
        for r in range(len(one)):
            total += one[r] * other[r]
        out[e] = total
