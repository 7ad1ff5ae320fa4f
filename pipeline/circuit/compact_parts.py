"""Parts of the compact executor: a frozen model's constants, and a linear map between a few nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.circuit.stream_reads import MIN_ROWS, StreamReads
from pipeline.kernels.compact_cpu import compete
from pipeline.kernels.threads import in_shares
from pipeline.model.transformer import Block, Transformer, activation
from pipeline.sites import EDGE_KINDS, EdgeKind, Site, edge_key, site_key

Nodes = Mapping[str, Int[Tensor, " _n"]]
Edges = Mapping[str, Int[Tensor, "_n 2"]]
NONE = torch.zeros(0, dtype=torch.long)
NO_ENDS = NONE.view(0, 2)
KINDS = {(kind.source, kind.target): kind for kind in EDGE_KINDS}


class Frozen:
    """A model and ablation values, with the constants that all of its circuits share. On a CPU, in float32."""

    def __init__(self, model: Transformer, ablated_to: Mapping[str, Float[Tensor, " _width"]]) -> None:
        self.model = model.on_cpu()
        self.config = model.config
        self.ablated_to = {key: value.float().cpu() for key, value in ablated_to.items()}
        parts = self.model.transformer
        wte = parts["wte"].weight.detach()
        added = parts["wpe"].weight.detach() if self.config.positions else torch.zeros(self.config.n_ctx, wte.shape[1])
        self.tables = (wte.numpy(), added.numpy())
        self.stream_reads = StreamReads(self.model)
        self._made: dict[str, Tensor] = {}

    def block(self, layer: int) -> Block:
        block: Block = self.model.transformer["h"][layer]
        return block

    def weight(self, layer: int, kind: EdgeKind) -> Float[Tensor, "target source"]:
        return self.once(f"{edge_key(layer, kind)} weight", lambda: self._rows(layer, kind, "weight"))

    def _rows(self, layer: int, kind: EdgeKind, name: str) -> Tensor:
        values: Tensor = getattr(self.block(layer).get_submodule(kind.weight), name).detach()
        return values[kind.rows(len(values))]

    def once(self, key: str, make: Callable[[], Tensor]) -> Tensor:
        """The result of the first ``make`` under this key; callers must not change it."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def constants(self, layer: int, kind: EdgeKind) -> Float[Tensor, " target"]:
        """Every target with all of its sources ablated."""
        source = self.ablated_to[site_key(layer, kind.source)]
        return self.once(
            f"{edge_key(layer, kind)} constants",
            lambda: self._rows(layer, kind, "bias") + self.weight(layer, kind) @ source,
        )

    def k(self, site: Site) -> int:
        return self.config.k_at(site.value)


def columns(x: Float[Tensor, "row known"], known: Tensor, wanted: Tensor) -> Float[Tensor, "row wanted"]:
    """The wanted columns of ``x``, whose columns are those known; both ascending, all that is wanted is known."""
    return x if len(wanted) == len(known) else x.index_select(1, torch.searchsorted(known, wanted))


class Map:
    """One linear map between the nodes of a circuit, the nonlinearity of neurons, and AbsTopK at the site that it
    writes."""

    def __init__(self, frozen: Frozen, layer: int, kind: EdgeKind, nodes: Nodes, edges: Edges):
        self.targets = nodes.get(site_key(layer, kind.target), NONE)
        self.pairs = pairs = edges.get(edge_key(layer, kind), NO_ENDS)
        self.sources = pairs[:, 0].unique()
        self.weight = torch.zeros(len(self.targets), len(self.sources))
        source, target = pairs.T.contiguous()
        row, column = torch.searchsorted(self.targets, target), torch.searchsorted(self.sources, source)
        self.weight[row, column] = frozen.weight(layer, kind)[target, source]
        self.full, self.k = frozen.constants(layer, kind), frozen.k(kind.target)
        self.activation = frozen.config.activation if kind.target is Site.MLP_NEURON else None
        self.ablated_to = frozen.ablated_to[site_key(layer, kind.target)]
        ablated_to = frozen.ablated_to[site_key(layer, kind.source)][self.sources]
        self.constant = self.full[self.targets] - self.weight @ ablated_to
        self.when_ablated = self.ablated_to.clone()
        self.when_ablated[self.targets] = 0

    @classmethod
    def renewed(cls, before: Map | None, frozen: Frozen, layer: int, kind: EdgeKind, nodes: Nodes, edges: Edges) -> Map:
        """The map, which is the one of ``before`` where its nodes and edges are the very same tensors."""
        now = nodes.get(site_key(layer, kind.target), NONE), edges.get(edge_key(layer, kind), NO_ENDS)
        same = before is not None and before.targets is now[0] and before.pairs is now[1]
        return before if before is not None and same else cls(frozen, layer, kind, nodes, edges)

    @cached_property
    def competitors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the site's other nodes: magnitudes, ascending, their indices; and the site with zeros at this map's."""
        values = self.activated(self.full)
        others = torch.ones(len(values), dtype=torch.bool)
        others[self.targets] = False
        indices = others.nonzero().flatten()
        magnitude, order = values[indices].abs().sort()
        site = values.clone()
        site[self.targets] = 0
        return magnitude.numpy(), indices[order].numpy(), site.numpy()

    def __call__(self, x: Float[Tensor, "row source"], constant: Tensor | None = None) -> Float[Tensor, "row target"]:
        y = torch.addmm(self.constant if constant is None else constant, x, self.weight.T)
        return self.chosen(self.activated(y))

    def activated(self, y: Tensor) -> Tensor:
        return y if self.activation is None else activation(self.activation, y)

    def some(
        self, h: Float[Tensor, "row known"], known: Tensor, wanted: Bool[Tensor, " target"]
    ) -> Float[Tensor, "row target"]:
        """Some of the targets, the others zero, from the sources among the ``known`` columns of h; without AbsTopK."""
        weight = self.weight[wanted]
        used = (weight != 0).any(0)
        y = torch.zeros(len(h), len(self.targets))
        x = columns(h, known, self.sources[used])
        y[:, wanted] = torch.addmm(self.constant[wanted], x, weight[:, used].T)
        return y

    def chosen(self, y: Float[Tensor, "row target"]) -> Float[Tensor, "row target"]:
        """AbsTopK's choice among all nodes of the site."""
        if self.k < len(self.full) and y.numel():
            values, nodes, competitors = y.numpy(), self.targets.numpy(), self.competitors
            in_shares(lambda a, b: compete(a, b, values, nodes, competitors, self.k), len(y), least=MIN_ROWS)
        return y
