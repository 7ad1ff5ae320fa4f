"""One mask over all nodes of a model, learned through a step function (METHOD §4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class Heaviside(torch.autograd.Function):
    """m = 1 where τ > 0, else 0; its gradient is that of sigmoid(τ / temperature)."""

    @staticmethod
    def forward(ctx: Any, tau: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(tau)
        ctx.temperature = temperature
        return (tau > 0).to(tau.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (tau,) = ctx.saved_tensors
        soft = torch.sigmoid(tau / ctx.temperature)
        return grads[0] * soft * (1 - soft) / ctx.temperature, None


def flatten(values: Mapping[str, Tensor]) -> Float[Tensor, " node"]:
    """The values of all sites, one after the other in the mapping's order."""
    return torch.cat(list(values.values()))


def by_site(
    flat: Float[Tensor, " node"], like: Mapping[str, Float[Tensor, " width"]]
) -> dict[str, Float[Tensor, " width"]]:
    """A flat vector over all nodes, cut into sites as ``like`` is: the inverse of ``flatten``."""
    parts = flat.split([len(value) for value in like.values()])
    return dict(zip(like, parts, strict=True))
