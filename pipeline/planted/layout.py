"""Where the named nodes of a recipe lie in one model: channels, heads and neurons drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.planted.recipe import PlantedNode, Recipe, Wire
from pipeline.shape import ModelShape
from pipeline.sites import EDGE_KINDS, Site, edge_key, site_key

HEAD_SITES = (Site.ATTN_Q, Site.ATTN_K, Site.ATTN_V)


@dataclass(frozen=True)
class ResidualLayout:
    """``layers`` and ``heads``: one of each planted layer. ``channels``: name → index in the residual stream.

    ``inner``: query, key, value and neuron nodes → index at their site. ``tokens``: name → token.
    """

    layers: list[int]
    heads: list[int]
    channels: dict[str, int]
    inner: dict[PlantedNode, int]
    tokens: dict[str, int]

    def index(self, node: PlantedNode) -> int:
        """The node's index at its site."""
        return self.inner[node] if node in self.inner else self.channels[node.name]

    def nodes(self, recipe: Recipe) -> dict[str, Int[Tensor, " _n"]]:
        """Site key → the planted indices, ascending, in the order of the forward pass."""
        found: dict[str, list[int]] = {}
        for node in sorted(recipe.nodes, key=lambda node: (node.part, list(Site).index(node.site))):
            found.setdefault(site_key(self.layers[node.part], node.site), []).append(self.index(node))
        return {key: torch.tensor(sorted(indices)) for key, indices in found.items()}

    def edges(self, wires: tuple[Wire, ...]) -> dict[str, Int[Tensor, "_n 2"]]:
        """Edge key → (source index, target index) of every weight, sorted, in the order of the forward pass."""
        found: dict[str, list[tuple[int, int]]] = {}
        for wire in sorted(wires, key=lambda wire: (wire.source.part, EDGE_KINDS.index(wire.kind))):
            key = edge_key(self.layers[wire.source.part], wire.kind)
            found.setdefault(key, []).append((self.index(wire.source), self.index(wire.target)))
        return {key: torch.tensor(sorted(pairs)) for key, pairs in found.items()}


def draw_layout(recipe: Recipe, config: ModelShape, generator: torch.Generator) -> ResidualLayout:
    """A layout at random. A clock is read in the first layer, where all positions have one norm."""

    def order(n: int) -> list[int]:
        return torch.randperm(n, generator=generator).tolist()

    first = [0] if recipe.clock else []
    later = [layer for layer in order(config.n_layer) if layer not in first]
    heads = [order(config.n_head)[0] for _ in range(recipe.n_parts)]
    inner: dict[PlantedNode, int] = {}
    for part, head in enumerate(heads):
        inner |= _inner(recipe, part, head * config.d_head, order(config.d_head), order(config.d_mlp))
    return ResidualLayout(
        layers=sorted((first + later)[: recipe.n_parts]),
        heads=heads,
        channels=dict(zip(recipe.channels, order(config.d_model), strict=False)),
        inner=inner,
        tokens=dict(zip(recipe.tokens, order(len(recipe.tokens)), strict=True)),
    )


def _inner(recipe: Recipe, part: int, start: int, slots: list[int], neurons: list[int]) -> dict[PlantedNode, int]:
    """Where a planted layer's head channels and neurons are; a query and a key of one name share their slot."""
    nodes = [node for node in recipe.nodes if node.part == part]
    names = list(dict.fromkeys(node.name for node in nodes if node.site in HEAD_SITES))
    found = {node: start + slots[names.index(node.name)] for node in nodes if node.site in HEAD_SITES}
    mlp = [node for node in nodes if node.site is Site.MLP_NEURON]
    return found | dict(zip(mlp, neurons, strict=False))
