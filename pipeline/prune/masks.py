"""Masks over a model's nodes, or a circuit's edges: laid out as one vector, and how one is learned (§4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.circuit.compact_parts import Edges, Nodes
from pipeline.circuit.graph import Parts, dead_ends, together
from pipeline.model.transformer import Transformer
from pipeline.prune.edges import induced_edges
from pipeline.sites import Site, site_key, split_site_key


class Heaviside(torch.autograd.Function):
    """m = 1 where τ > 0, else 0; its gradient is that of sigmoid(τ / temperature), one temperature a candidate."""

    @staticmethod
    def forward(ctx: Any, tau: Float[Tensor, "c unit"], temperature: Float[Tensor, "c 1"]) -> Tensor:
        ctx.save_for_backward(tau, temperature)
        return (tau > 0).to(tau.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        tau, temperature = ctx.saved_tensors
        soft = torch.sigmoid(tau / temperature)
        return grads[0] * soft * (1 - soft) / temperature, None


@dataclass(frozen=True)
class UnitLayout:
    """Units of a mask, one after the other. A unit is a node; with ``tie_qk``, channel i of attn_q and of attn_k are
    one (the paper would tie them, §4)."""

    widths: Mapping[str, int]  # site key → nodes, in the order of the forward pass
    tie_qk: bool = False

    @cached_property
    def start(self) -> dict[str, int]:
        """Site key → its first unit."""
        start: dict[str, int] = {}
        n = 0
        for key, width in self.widths.items():
            if tied := self._tied(key):
                start[key] = start[tied]
                continue
            start[key] = n
            n += width
        return start

    @property
    def n_units(self) -> int:
        return max(self.start[key] + width for key, width in self.widths.items())

    @cached_property
    def sizes(self) -> Float[Tensor, " unit"]:
        """Nodes of each unit."""
        return self.flat({key: torch.ones(width) for key, width in self.widths.items()})

    def by_site(self, units: Float[Tensor, "*c unit"]) -> dict[str, Float[Tensor, "*c width"]]:
        """Site key → the value of each node's unit."""
        return {key: units[..., self.start[key] : self.start[key] + width] for key, width in self.widths.items()}

    def flat(self, values: Mapping[str, Float[Tensor, " width"]]) -> Float[Tensor, " unit"]:
        """The sum over each unit's nodes."""
        units = torch.zeros(self.n_units)
        for key, value in values.items():
            units[self.start[key] : self.start[key] + len(value)] += value.cpu()
        return units

    def circuit(self, mask: Float[Tensor, " unit"], model: Transformer) -> tuple[Nodes, Edges]:
        """The nodes with mask 1 and all edges between them."""
        return self.nodes(mask), induced_edges(model, self.by_site(mask))

    def nodes(self, mask: Float[Tensor, " unit"]) -> dict[str, Int[Tensor, " n"]]:
        """Site key → kept indices, ascending; no empty sites."""
        kept = {key: (part > 0).nonzero().flatten() for key, part in self.by_site(mask).items()}
        return {key: indices for key, indices in kept.items() if len(indices)}

    def _tied(self, key: str) -> str | None:
        layer, site = split_site_key(key)
        return site_key(layer, Site.ATTN_Q) if self.tie_qk and site is Site.ATTN_K else None


@dataclass(frozen=True)
class EdgeLayout:
    """Units of a mask over the edges of one circuit. Nodes stay that have a path, with ``tie_qk`` both q and k."""

    nodes: Nodes
    edges: Edges
    tie_qk: bool = False

    @property
    def n_units(self) -> int:
        return sum(map(len, self.edges.values()))

    @property
    def sizes(self) -> Float[Tensor, " unit"]:
        return torch.ones(self.n_units)

    def by_key(self, units: Tensor) -> dict[str, Tensor]:
        """Edge key → the value of each edge."""
        return dict(zip(self.edges, units.split([len(ends) for ends in self.edges.values()]), strict=True))

    def circuit(self, mask: Float[Tensor, " unit"], model: Transformer) -> tuple[Nodes, Edges]:
        """The edges with mask 1 and the nodes, without what has no path from input to output."""
        kept = {key: self.edges[key][part > 0] for key, part in self.by_key(mask).items()}
        parts = Parts(self.nodes, kept)
        left, _ = parts.without(other for node in dead_ends(parts) for other in together(node, self.tie_qk))
        return left.nodes, left.edges
