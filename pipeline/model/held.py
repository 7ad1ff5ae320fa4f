"""Linear maps of masked models at the price of what is kept: channels held at their means are multiplied only once.

Where a hard mask holds most source channels at their means, W·x is W[:, live]·x[live] plus a constant; where it holds
most targets, the gradient that comes back is zero there. Both are exact, and fewer multiplications the smaller the
circuit. The result stands in for a linear map as a cut of ``Transformer.forward``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipeline.model.ablation import SOURCES, hold_at_means
from pipeline.model.transformer import Cut, LinearCut, Transformer
from pipeline.sites import EDGE_KINDS, site_key

HELD = ("attn.c_attn", "mlp.c_fc", "mlp.c_proj")  # not attention's c_proj: with a sink it reads no constants
WORTHWHILE = 0.6  # fraction of live channels above which picking them out costs more than it spares


class HeldLinear:
    """``layer(x)`` for an x whose channels outside ``sources`` are constant, and whose targets outside ``targets`` need
    no gradient. ``weight`` [out, in] is what multiplies the sources, ``constant`` [out] all the rest, bias included."""

    def __init__(self, weight: Tensor, constant: Tensor, sources: Bool[Tensor, " in"], targets: Bool[Tensor, " out"]):
        self.sources, self.targets = sources.nonzero().flatten(), targets.nonzero().flatten()
        self.live, self.back, self.constant = weight[:, self.sources], weight[self.targets], constant

    def __call__(self, layer: nn.Linear, x: Tensor) -> Tensor:
        y: Tensor = _Held.apply(x, self)
        return y


class _Held(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, held: HeldLinear) -> Tensor:
        ctx.held = held
        return F.linear(x.index_select(-1, held.sources), held.live, held.constant)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        held: HeldLinear = ctx.held
        return grads[0].index_select(-1, held.targets) @ held.back, None


def only(model: Transformer, masks: Mapping[str, Tensor], means: Mapping[str, Tensor]) -> dict[str, Any]:
    """The keyword arguments of ``Transformer.forward`` that leave the nodes of hard masks alone live (1 = keep)."""
    kept = {key: mask.detach() > 0 for key, mask in masks.items()}
    return {"intervene": hold_at_means(masks, means), "cuts": held_linears(model, kept, means)}


@torch.no_grad()
def held_linears(
    model: Transformer, kept: Mapping[str, Bool[Tensor, " width"]], means: Mapping[str, Float[Tensor, " width"]]
) -> dict[str, LinearCut]:
    """Stand-ins for the linear maps of a model whose nodes outside ``kept`` are held at their means, for every site.

    Use them with ``hold_at_means`` and the same masks: logits and gradients of masks are those without them.
    Attention's c_proj is left alone: with a sink, what it reads of a held value channel is not constant.
    """
    cuts: dict[str, LinearCut] = {}
    for layer, block in enumerate(model.transformer["h"]):
        for name in HELD:
            source = site_key(layer, SOURCES[name])
            kinds = [kind for kind in EDGE_KINDS if kind.weight == name]
            sources, targets = kept[source], torch.cat([kept[site_key(layer, kind.target)] for kind in kinds])
            if (sources.float().mean() + targets.float().mean()) / 2 < WORTHWHILE:
                part = block.get_submodule(name)
                constant = part.bias + part.weight @ torch.where(sources, 0, means[source])
                cuts[f"{layer}.{name}"] = HeldLinear(part.weight, constant, sources, targets)
    return cuts


@torch.no_grad()
def spare(model: Transformer, cuts: Mapping[str, LinearCut]) -> dict[str, LinearCut]:
    """The same cuts, with those that leave few sources alive done as ``HeldLinear``; attention's c_proj as it was."""
    spared = dict(cuts)
    for key, cut in cuts.items():
        layer, _, name = key.partition(".")
        if not isinstance(cut, Cut) or name not in HELD:
            continue
        part = model.transformer["h"][int(layer)].get_submodule(name)
        sources = cut.keep.any(dim=0)
        if sources.float().mean() < WORTHWHILE:
            constant = part.bias + (part.weight * (1 - cut.keep)) @ cut.mean
            every = torch.ones(len(part.weight), dtype=torch.bool, device=sources.device)
            spared[key] = HeldLinear(part.weight * cut.keep, constant, sources, every)
    return spared
