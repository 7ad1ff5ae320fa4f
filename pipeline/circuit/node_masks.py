"""Node masks for many trials in one forward pass, at the cost of the nodes that they keep (§4).

Trials run as one batch: rows of trial c follow those of trial c − 1. A hard mask ablates nodes to
constants, and a constant need not be multiplied: W·x is W times the live sources plus a constant, and the gradient that
comes back from ablated targets is zero. Both are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit.ablation_values import Values
from pipeline.circuit.background import Background
from pipeline.circuit.cut_linear import CutLinear, Product, beside, by_channels, by_nonzeros
from pipeline.circuit.interventions import SOURCES
from pipeline.kernels.interpolate_cpu import ROWS, interpolate_backward
from pipeline.kernels.sparse import Nonzeros
from pipeline.kernels.threads import in_shares
from pipeline.model.linear import Linear
from pipeline.model.transformer import Intervene, Transformer, position_free
from pipeline.sites import EDGE_KINDS, site_key

# Not attention's c_proj: with a sink, attention scales the ablation values of the channels that it reads.
ABLATED_MATRICES = ("attn.c_attn", "mlp.c_fc", "mlp.c_proj")

Masks = Mapping[str, Float[Tensor, "*trial _width"]]  # site key → 1 for a node that is kept


class NodeMasks:
    """A frozen model and the ablation values of its nodes: makes the arguments of masked forward passes."""

    def __init__(self, model: Transformer, ablated_to: Values | Background) -> None:
        self.behind = ablated_to if isinstance(ablated_to, Background) else Background(model, ablated_to)
        self.model, self.ablated_to = model, self.behind.values

    def __call__(self, masks: Masks) -> dict[str, Any]:
        """Keyword arguments of ``answers_of`` that leave only the nodes of hard masks live, for every site.

        Masks are [width], or [trial, width] where the batch's rows are those of each trial in turn. Logits and
        the masks' gradients are those of x → m·x + (1 − m)·x_ablated.
        """
        return self.behind.run(interpolating(masks, self.ablated_to), self.cuts(masks))

    @torch.no_grad()
    def cuts(self, masks: Masks) -> dict[str, CutLinear]:
        """Stand-ins for the linear maps of the masked model; use them with ``interpolating`` and the same masks."""
        kept = {key: (mask if mask.ndim == 2 else mask[None]) > 0 for key, mask in masks.items()}
        layers = range(self.model.config.n_layer)
        return {f"{layer}.{name}": self._cut(layer, name, kept) for layer in layers for name in SOURCES}

    def _cut(self, layer: int, name: str, kept: Mapping[str, Tensor]) -> CutLinear:
        part: Linear = self.model.transformer["h"][layer].get_submodule(name)
        key = site_key(layer, SOURCES[name])
        targets = torch.cat([kept[site_key(layer, kind.target)] for kind in EDGE_KINDS if kind.weight == name], dim=1)
        sources, ablated_to = kept[key], self.ablated_to[key]
        if name not in ABLATED_MATRICES:
            sources, ablated_to = torch.ones_like(sources), part.weight.new_zeros(part.in_features)
        if ablated_to.ndim > 1:
            none, output = torch.zeros_like(part.bias).expand(len(sources), -1), self.behind.output(layer, name)
            return CutLinear(*(beside(each, ablated_to, output) for each in products(part, none, sources, targets)))
        constants = part.bias + torch.where(sources, 0, ablated_to) @ part.weight.T  # [trial, out]
        return CutLinear(*products(part, constants, sources, targets))


def products(part: Linear, constants: Tensor, sources: Tensor, targets: Tensor) -> list[Product]:
    """The products of trials between live sources [trial, in] and live targets [trial, out], plus their constants."""
    each, nonzeros = zip(constants, sources, targets, strict=True), part.nonzeros()
    if not isinstance(nonzeros, Nonzeros):
        return [by_channels(part.weight, *one) for one in each]
    return [by_nonzeros(part.weight, nonzeros.between(s, t), constant) for constant, s, t in each]


def interpolating(masks: Masks, ablated_to: Values) -> Intervene:
    """x → m·x + (1 − m)·x_ablated at every site with a mask [width] or [trial, width], differentiable in m."""

    def intervene(key: str, x: Tensor) -> Tensor:
        if key not in masks:
            return x
        mask = masks[key] if masks[key].ndim == 2 else masks[key][None]
        y: Tensor = _Interpolate.apply(x, mask.to(x.dtype), ablated_to[key].to(x.dtype))
        return y

    return position_free(intervene)  # or asked for with the layout that its values follow


class _Interpolate(torch.autograd.Function):
    """Interpolation between ablation values and live values; on a CPU its backward is one pass."""

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
    """Gradients of rows and of the mask, the same bits on any number of threads."""
    n_trials, n_rows, width = rows.shape
    n_parts = -(-n_rows // ROWS)
    dx, parts = torch.empty_like(g), torch.zeros(n_trials, n_parts, width)
    by_row = ablated_to.view(-1, width)  # one row: the same everywhere
    arrays = [t.detach().numpy() for t in (g.contiguous(), rows, mask, by_row, dx, parts)]
    in_shares(lambda start, stop: interpolate_backward(start, stop, n_parts, *arrays), n_trials * n_parts)
    return dx, parts.sum(1)
