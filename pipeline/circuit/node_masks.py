"""Many masks in one forward pass, at the price of what they keep (§4).

Candidates run as one batch: rows of candidate c follow those of candidate c − 1. A hard mask holds channels at
constants, and what is constant need not be multiplied: W·x is that of the live sources plus a constant, and the
gradient that comes back from held targets is zero. Both are exact. Where the weight is mostly zero, the products go
through the nonzeros that are left; elsewhere live channels are picked out where they are few.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipeline.circuit.interventions import SOURCES
from pipeline.kernels.sparse import Nonzeros, Rows, fits, multiply, n_nonzero
from pipeline.kernels.threads import in_shares
from pipeline.model.transformer import Intervene, LinearCut, Transformer, position_free
from pipeline.sites import EDGE_KINDS, site_key

ABLATED_MATRICES = (
    "attn.c_attn",
    "mlp.c_fc",
    "mlp.c_proj",
)  # not attention's c_proj: a sink scales what it reads
WORTHWHILE = 0.6  # fraction of live channels above which picking them out costs more than it spares
SPARSE_BELOW = 0.15  # density up to which float32 products through nonzeros are faster than dense ones (2 threads)
ROWS = 256  # whose part of a mask's gradient is summed on its own, whatever the number of threads

Masks = Mapping[str, Float[Tensor, "*candidate width"]]  # 1 = keep
Values = Mapping[str, Float[Tensor, " width"]]


class NodeMasks:
    """A frozen model and the values that its nodes are held at: makes the arguments of masked forward passes."""

    def __init__(self, model: Transformer, ablated_to: Values) -> None:
        self.model, self.ablated_to = model, ablated_to
        self.nonzeros = {
            f"{layer}.{name}": Nonzeros.of(part.weight) if is_sparse(part.weight) else None
            for layer, block in enumerate(model.transformer["h"])
            for name in SOURCES
            for part in [block.get_submodule(name)]
        }

    def __call__(self, masks: Masks) -> dict[str, Any]:
        """Keyword arguments of ``Transformer.forward`` that leave only the nodes of hard masks live, for every site.

        Masks are [width], or [candidate, width] where the batch's rows are those of each candidate in turn. Logits and
        the masks' gradients are those of x → m·x + (1 − m)·held.
        """
        return {"intervene": interpolating(masks, self.ablated_to), "cuts": self.cuts(masks)}

    @torch.no_grad()
    def cuts(self, masks: Masks) -> dict[str, LinearCut]:
        """Stand-ins for the linear maps of the masked model; use them with ``interpolating`` and the same masks."""
        kept = {key: (mask if mask.ndim == 2 else mask[None]) > 0 for key, mask in masks.items()}
        cuts: dict[str, LinearCut] = {}
        for layer in range(self.model.config.n_layer):
            for name, source in SOURCES.items():
                kinds = [kind for kind in EDGE_KINDS if kind.weight == name]
                targets = torch.cat([kept[site_key(layer, kind.target)] for kind in kinds], dim=1)
                sources, ablated_to = kept[site_key(layer, source)], self.ablated_to[site_key(layer, source)]
                if name not in ABLATED_MATRICES:
                    sources, ablated_to = torch.ones_like(sources), torch.zeros_like(ablated_to)
                part = self.model.transformer["h"][layer].get_submodule(name)
                cuts[f"{layer}.{name}"] = MaskedLinear(
                    part, ablated_to, sources, targets, self.nonzeros[f"{layer}.{name}"]
                )
        return cuts


def is_sparse(weight: Tensor) -> bool:
    """Whether products with the weight go through its nonzeros: on a CPU, of few nonzeros, in shapes that fit."""
    return weight.device.type == "cpu" and fits(weight) and n_nonzero(weight) <= SPARSE_BELOW * weight.numel()


class MaskedLinear:
    """``layer(x)`` for x [candidate · batch, pos, in] whose channels outside ``sources`` [candidate, in] are
    ``ablated_to``, and whose targets outside ``targets`` [candidate, out] need no gradient."""

    position_free = True

    def __init__(
        self, part: nn.Linear, ablated_to: Tensor, sources: Bool[Tensor, "c in"], targets: Bool[Tensor, "c out"],
        nonzeros: Nonzeros | None,
    ) -> None:  # fmt: skip
        weight, bias = part.weight, part.bias
        constants = bias + torch.where(sources, 0, ablated_to) @ weight.T  # [candidate, out]
        each = zip(constants, sources, targets, strict=True)
        if nonzeros is None:
            self.parts: list[MaskedProduct] = [ChannelProduct(weight, *one) for one in each]
        else:
            self.parts = [NonzeroProduct(nonzeros, *one) for one in each]

    def __call__(self, layer: nn.Linear, x: Tensor, attention_mass: Tensor | None = None) -> Tensor:
        y: Tensor = _MaskedLinear.apply(x, self.parts)
        return y


class _MaskedLinear(torch.autograd.Function):
    """Every candidate's rows through its own product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: list[MaskedProduct]) -> Tensor:
        ctx.parts = parts
        return joined([part.forward(rows) for part, rows in zip(parts, x.chunk(len(parts)), strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        chunks = grads[0].chunk(len(ctx.parts))
        return joined([part.backward(rows) for part, rows in zip(ctx.parts, chunks, strict=True)]), None


def joined(rows: list[Tensor]) -> Tensor:
    """The rows of all candidates; those of one as they are, which spares a copy."""
    return rows[0] if len(rows) == 1 else torch.cat(rows)


class ChannelProduct:
    """A dense product of the live channels only, where they are few."""

    def __init__(self, weight: Tensor, constant: Tensor, sources: Tensor, targets: Tensor) -> None:
        self.constant = constant
        self.sources = sources.nonzero().flatten() if sources.float().mean() < WORTHWHILE else None
        self.targets = targets.nonzero().flatten() if targets.float().mean() < WORTHWHILE else None
        self.live = weight * sources if self.sources is None else weight[:, self.sources]
        self.back = weight * targets[:, None] if self.targets is None else weight[self.targets]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x if self.sources is None else x.index_select(-1, self.sources), self.live, self.constant)

    def backward(self, g: Tensor) -> Tensor:
        return (g if self.targets is None else g.index_select(-1, self.targets)) @ self.back


class NonzeroProduct:
    """A product through the nonzeros between live channels."""

    def __init__(self, nonzeros: Nonzeros, constant: Tensor, sources: Tensor, targets: Tensor) -> None:
        self.constant = constant
        self.rows, self.columns = filtered(nonzeros.rows, sources), filtered(nonzeros.columns, targets)

    def forward(self, x: Tensor) -> Tensor:
        return multiply(x, self.rows, self.constant)

    def backward(self, g: Tensor) -> Tensor:
        return multiply(g, self.columns, None)


MaskedProduct = ChannelProduct | NonzeroProduct


def filtered(rows: Rows, live: Bool[Tensor, " column"]) -> Rows:
    """Only those nonzeros whose column is live."""
    if bool(live.all()):
        return rows
    start, column, value = np.empty_like(rows.start), np.empty_like(rows.column), np.empty_like(rows.value)
    n = _filter(rows.start, rows.column, rows.value, live.numpy(), start, column, value)
    return Rows(start, column[:n], value[:n])


@numba.njit(nogil=True, cache=True)
def _filter(start: Any, column: Any, value: Any, live: Any, into: Any, columns: Any, values: Any) -> int:
    n = 0
    for i in range(len(start) - 1):
        into[i] = n
        for j in range(start[i], start[i + 1]):
            if live[column[j]]:
                columns[n], values[n] = column[j], value[j]
                n += 1
    into[len(start) - 1] = n
    return n


def interpolating(masks: Masks, ablated_to: Values) -> Intervene:
    """x → m·x + (1 − m)·held at every site that has a mask [width] or [candidate, width], differentiable in m."""

    def intervene(key: str, x: Tensor) -> Tensor:
        if key not in masks:
            return x
        mask = masks[key] if masks[key].ndim == 2 else masks[key][None]
        y: Tensor = _Interpolate.apply(x, mask.to(x.dtype), ablated_to[key].to(x.dtype))
        return y

    return position_free(intervene)


class _Interpolate(torch.autograd.Function):
    """Interpolation between held and live values; on a CPU its backward is one pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, ablated_to: Tensor) -> Tensor:
        rows = x.reshape(len(mask), -1, x.shape[-1])
        ctx.save_for_backward(rows, mask, ablated_to)
        return torch.lerp(ablated_to, rows, mask[:, None]).view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        rows, mask, ablated_to = ctx.saved_tensors
        g = grads[0].reshape(rows.shape)
        if rows.device.type == "cpu" and rows.dtype == torch.float32:
            dx, dmask = _backward_cpu(g, rows, mask, ablated_to)
        else:
            dx, dmask = g * mask[:, None], (g * (rows - ablated_to)).sum(1)
        return dx.view_as(grads[0]), dmask, None


def _backward_cpu(g: Tensor, rows: Tensor, mask: Tensor, ablated_to: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of rows and of the mask, each read and written once, the same bits on any number of threads."""
    n_candidates, n_rows, width = rows.shape
    n_parts = -(-n_rows // ROWS)
    dx, parts = torch.empty_like(g), torch.zeros(n_candidates, n_parts, width)
    arrays = [t.detach().numpy() for t in (g.contiguous(), rows, mask, ablated_to, dx, parts)]
    in_shares(lambda start, stop: _interpolate_backward(start, stop, n_parts, *arrays), n_candidates * n_parts)
    return dx, parts.sum(1)


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _interpolate_backward(
    start: int, stop: int, n_parts: int, g: Any, x: Any, mask: Any, ablated_to: Any, dx: Any, parts: Any
) -> None:
    n_rows, width = x.shape[1], x.shape[2]
    for share in range(start, stop):
        c, part = share // n_parts, share % n_parts
        total, m = parts[c, part], mask[c]
        for r in range(part * ROWS, min((part + 1) * ROWS, n_rows)):
            gr, xr, out = g[c, r], x[c, r], dx[c, r]
            for i in range(width):
                total[i] += gr[i] * (xr[i] - ablated_to[i])
                out[i] = gr[i] * m[i]


def only(model: Transformer, masks: Masks, ablated_to: Values) -> dict[str, Any]:
    """What ``NodeMasks`` gives for one use."""
    return NodeMasks(model, ablated_to)(masks)
