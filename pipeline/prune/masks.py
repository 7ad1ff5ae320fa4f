"""Masks over a model's nodes or a circuit's edges, each laid out as one vector, and the gradient of a step (§4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.circuit.graph import Subgraph, dead_ends, induced_edges, together
from pipeline.model.transformer import Transformer
from pipeline.sites import Site, site_key, split_site_key


class Heaviside(torch.autograd.Function):
    """m = 1 where τ > 0, else 0; its gradient is that of sigmoid(τ / temperature), with one temperature per trial."""

    @staticmethod
    def forward(ctx: Any, tau: Float[Tensor, "*trial unit"], temperature: Float[Tensor, ...]) -> Tensor:
        ctx.save_for_backward(tau, temperature)
        return (tau > 0).to(tau.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        tau, temperature = ctx.saved_tensors
        soft = torch.sigmoid(tau / temperature)
        return grads[0] * soft * (1 - soft) / temperature, None


@dataclass(frozen=True)
class UnitLayout:
    """The units of a mask over nodes. A unit is a node; with ``tie_qk``, channel i of attn_q and channel i of attn_k
    are one unit (the paper would tie them, §4)."""

    widths: Mapping[str, int]  # site key → nodes, in the order of the forward pass
    tie_qk: bool = False

    @cached_property
    def start(self) -> dict[str, int]:
        """Site key → its first unit."""
        start: dict[str, int] = {}
        n = 0
        for key, width in self.widths.items():
            layer, site = split_site_key(key)
            tied = self.tie_qk and site is Site.ATTN_K
            start[key] = start[site_key(layer, Site.ATTN_Q)] if tied else n
            n += 0 if tied else width
        return start

    @property
    def n_units(self) -> int:
        return max(self.start[key] + width for key, width in self.widths.items())

    @cached_property
    def sizes(self) -> Float[Tensor, " unit"]:
        """Nodes of each unit."""
        return self.flat({key: torch.ones(width) for key, width in self.widths.items()})

    def by_site(self, units: Float[Tensor, "*trial unit"]) -> dict[str, Float[Tensor, "*trial _width"]]:
        """Site key → the value of each node's unit."""
        return {key: units[..., self.start[key] : self.start[key] + width] for key, width in self.widths.items()}

    def flat(self, values: Mapping[str, Float[Tensor, " _width"]]) -> Float[Tensor, " unit"]:
        """The sum over each unit's nodes."""
        units = torch.zeros(self.n_units)
        for key, value in values.items():
            units[self.start[key] : self.start[key] + len(value)] += value.cpu()
        return units

    def circuit(self, mask: Float[Tensor, " unit"], model: Transformer) -> Subgraph:
        """The nodes with mask 1 and all edges between them."""
        return Subgraph(self.nodes(mask), induced_edges(model, self.by_site(mask)))

    def nodes(self, mask: Float[Tensor, " unit"]) -> dict[str, Int[Tensor, " _n"]]:
        """Site key → kept indices, ascending; no empty sites."""
        kept = {key: (part > 0).nonzero().flatten() for key, part in self.by_site(mask).items()}
        return {key: indices for key, indices in kept.items() if len(indices)}


@dataclass(frozen=True)
class EdgeLayout:
    """The units of a mask over the edges of one circuit, each an edge."""

    whole: Subgraph
    tie_qk: bool = False

    @property
    def n_units(self) -> int:
        return self.whole.n_edges

    @property
    def sizes(self) -> Float[Tensor, " unit"]:
        return torch.ones(self.n_units)

    def by_key(self, units: Tensor) -> dict[str, Tensor]:
        """Edge key → the value of each edge."""
        edges = self.whole.edges
        return dict(zip(edges, units.split([len(ends) for ends in edges.values()]), strict=True))

    def circuit(self, mask: Float[Tensor, " unit"], model: Transformer) -> Subgraph:
        """The edges with mask 1 and the circuit's nodes, without dead ends; with ``tie_qk``, a dead end takes the
        other of query and key with it."""
        edges = {key: self.whole.edges[key][part > 0] for key, part in self.by_key(mask).items()}
        kept = Subgraph(self.whole.nodes, edges)
        return kept.without(other for node in dead_ends(kept) for other in together(node, self.tie_qk))[0]
