"""The one stand-in for a linear map of which edges are cut or masked, and its ways to multiply (§4, §5).

An edge with mask m carries m·x + (1 − m)·x_ablated; an edge without a mask carries x_ablated. The part that does not
depend on x is a constant, and need not be multiplied. ``Cut`` (pipeline.model.transformer) is the definition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.kernels.sparse import CsrRows, Nonzeros, dot_ends, fits, multiply
from pipeline.model.linear import Linear, sparse_product
from pipeline.model.transformer import Attended, Cut, Cuts, LinearCut, Transformer, at_rows

FEW_CHANNELS = 0.6  # fraction of live channels above which picking them out costs more than it spares

# One trial's rows [batch, pos, in], and behind attention what that makes of other values → [batch, pos, out].
Product = Callable[[Tensor, Attended | None], Tensor]


class CutLinear:
    """``layer(x)`` for x [trial · batch, pos, in] with some edges cut or masked: a product for every trial."""

    position_free = True

    def __init__(self, *products: Product) -> None:
        self.products = products

    def __call__(self, layer: nn.Linear, x: Tensor, attended: Attended | None = None) -> Tensor:
        if len(self.products) == 1:  # spares a copy
            return self.products[0](x, attended)
        chunks = x.chunk(len(self.products))
        return torch.cat([product(rows, None) for product, rows in zip(self.products, chunks, strict=True)])


def by_nonzeros(weight: Tensor, nonzeros: Nonzeros, constant: Float[Tensor, " out"]) -> Product:
    """Through the nonzeros alone; differentiable in ``weight``, whose nonzeros they are, and in ``constant``."""
    return lambda x, _: sparse_product(x, weight, constant, nonzeros)


def by_channels(
    weight: Tensor, constant: Float[Tensor, " out"], sources: Bool[Tensor, " in"], targets: Bool[Tensor, " out"]
) -> Product:
    """A dense product of the live sources; where live channels are few, they are picked out.

    The gradient of x is that of the live targets, at every source: masks of ablated sources need it.
    """
    source, target = (
        live.nonzero().flatten() if live.float().mean() < FEW_CHANNELS else None for live in (sources, targets)
    )
    forward = weight * sources if source is None else weight[:, source]
    backward = weight * targets[:, None] if target is None else weight[target]
    return lambda x, _: _ChannelProduct.apply(x, constant, forward, source, backward, target)  # type: ignore[no-any-return]


class _ChannelProduct(torch.autograd.Function):
    """``by_channels`` of x; source and target: indices of live channels, None where all are multiplied."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, constant: Tensor, live: Tensor, source: Tensor | None, back: Tensor, target: Tensor | None
    ) -> Tensor:
        ctx.back, ctx.target = back, target
        return F.linear(x if source is None else x.index_select(-1, source), live, constant)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        g = grads[0] if ctx.target is None else grads[0].index_select(-1, ctx.target)
        return g @ ctx.back, None, None, None, None, None


def between_channels(live: Float[Tensor, "out in"], constant: Float[Tensor, " out"]) -> Product:
    """A dense product between the channels that have a live edge, where these are few."""
    sources, targets = (live.any(dim).nonzero().flatten() for dim in (0, 1))
    few = live[targets][:, sources].T

    def product(x: Tensor, _: Attended | None) -> Tensor:
        y = constant.expand(*x.shape[:-1], -1).contiguous()
        return y.index_add_(-1, targets, x[..., sources] @ few)

    return product


def plus(product: Product, output: Float[Tensor, "row out"]) -> Product:
    """``product`` plus an output that differs by row."""

    def whole(x: Tensor, attended: Attended | None) -> Tensor:
        y = product(x, attended)
        return y + at_rows(output, y)

    return whole


def beside(product: Product, ablated_to: Float[Tensor, "row in"], output: Float[Tensor, "row out"]) -> Product:
    """``product``, without a constant, of what differs from ablation values; they give ``output``, and differ by
    row."""
    return plus(lambda x, attended: product(x - at_rows(ablated_to, x), attended), output)


def sparse_cuts(model: Transformer, cuts: Mapping[str, LinearCut], *, few: bool = False) -> Cuts:
    """The same cuts by faster products: where ``few`` edges are live, as in a circuit, between their channels; else
    through the nonzeros of weights that are mostly zero, differentiable in ``keep``.

    Not attention's c_proj, whose ablation values attention scales.
    """
    changed: dict[str, LinearCut] = dict(cuts)
    for key, cut in cuts.items():
        layer, _, name = key.partition(".")
        part: Linear = model.transformer["h"][int(layer)].get_submodule(name)
        sparse = isinstance(part.nonzeros(), Nonzeros)
        if isinstance(cut, Cut) and name != "attn.c_proj" and (few or sparse):
            live, rest, varies = part.weight * cut.keep, part.weight * (1 - cut.keep), cut.mean.ndim > 1
            constant = torch.zeros_like(part.bias) if varies else part.bias + rest @ cut.mean
            product = between_channels(live, constant) if few else by_nonzeros(live, Nonzeros.of(live), constant)
            changed[key] = CutLinear(plus(product, F.linear(cut.mean, rest, part.bias)) if varies else product)
    return changed


@dataclass(frozen=True)
class Sources:
    """The ablation values of a linear map's sources, and the output that they give: by the head that the sources are
    channels of, without the bias, where values are the same everywhere; else by row, unknown behind attention."""

    ablated_to: Float[Tensor, "*row in"]
    output: Float[Tensor, "head_or_row out"] | None


@dataclass(frozen=True)
class MaskedEdges:
    """The edges of a linear map that have a mask: target (a row of the weight) and source of each.

    ``n_head``: the sources are channels of that many heads, each of which has a weight on real tokens; 1 where they are
    of none.
    """

    weight: Float[Tensor, "out in"]
    bias: Float[Tensor, " out"]
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
        return self.source.div(self.weight.shape[1] // self.n_head, rounding_mode="floor")

    def ablated(self, value: Float[Tensor, " edge"], sources: Sources) -> Float[Tensor, "head out"]:
        """The output of each head's sources at their ablation values, less the part that live values replace."""
        assert sources.output is not None
        replaced = -value * sources.ablated_to[self.source]
        return sources.output.index_put((self.head, self.target), replaced, accumulate=True)

    def product(
        self, x: Float[Tensor, "batch pos in"], value: Float[Tensor, " edge"]
    ) -> Float[Tensor, "batch pos out"]:
        """The sum over edges of ``value`` times their source."""
        if x.device.type == "cpu" and x.dtype == torch.float32 and fits(self.weight):
            product: Tensor = _EdgeProduct.apply(x, value, self.index)
            return product
        return F.linear(x, torch.zeros_like(self.weight).index_put((self.target, self.source), value))


def by_edges(edges: MaskedEdges, mask: Float[Tensor, " edge"], sources: Sources) -> Product:
    """Through the edges that have a mask, however few or many; differentiable in x and in ``mask``."""

    def product(x: Tensor, attended: Attended | None) -> Tensor:
        value = edges.edge_weight * mask
        live, ablated = edges.product(x, value), edges.ablated(value, sources)
        scaled = ablated[0] if attended is None else attended.attention_mass.transpose(1, 2) @ ablated
        return live + edges.bias + scaled

    def by_row(x: Tensor, attended: Attended | None) -> Tensor:
        ablated_to = at_rows(sources.ablated_to, x) if attended is None else attended.of(sources.ablated_to)
        live = edges.product(x - ablated_to, edges.edge_weight * mask)
        if sources.output is not None:
            return live + at_rows(sources.output, live)
        return live + F.linear(ablated_to, edges.weight, edges.bias)

    return product if sources.ablated_to.ndim == 1 else by_row


@dataclass(frozen=True)
class EdgeIndex:
    """Edges by target and by source, as ``sparse.CsrRows`` has them, and places in the order of the edges."""

    by_target: tuple[np.ndarray, np.ndarray, np.ndarray]  # starts, sources, places
    by_source: tuple[np.ndarray, np.ndarray, np.ndarray]  # starts, targets, places
    targets: Int[Tensor, " n_targets"]  # that any edge has, ascending
    sources: Int[Tensor, " n_sources"]
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
    """``MaskedEdges.product`` through the edges alone; a mask's gradient is one product of two columns."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, index: EdgeIndex) -> Tensor:
        ctx.save_for_backward(x, value)
        ctx.index = index
        start, column, place = index.by_target
        return multiply(x, CsrRows(start, column, value.detach().numpy()[place]), None)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (x, value), index, g = ctx.saved_tensors, ctx.index, grads[0]
        start, column, place = index.by_source
        dx = multiply(g, CsrRows(start, column, value.detach().numpy()[place]), None)
        ends = [v.flatten(0, 1).index_select(1, i).T.contiguous() for v, i in ((g, index.targets), (x, index.sources))]
        dvalue = torch.empty_like(value)
        dot_ends(*(end.detach().numpy() for end in ends), *index.ends, dvalue.numpy())
        return dx, dvalue, None
