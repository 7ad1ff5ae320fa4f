"""Maps some of whose edges are cut, computed without their zeros: what a ``Cut`` says, in less time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from pipeline.circuit.node_masks import is_sparse
from pipeline.kernels.sparse import Nonzeros
from pipeline.model.linear import sparse_product
from pipeline.model.transformer import Cut, Cuts, LinearCut, Transformer


class LiveEdges:
    """What a ``Cut`` computes, through the live edges alone; equal up to rounding, and differentiable in ``keep``."""

    position_free = True

    def __init__(self, layer: nn.Linear, cut: Cut) -> None:
        self.weight = layer.weight * cut.keep
        self.constant = layer.bias + (layer.weight * (1 - cut.keep)) @ cut.mean
        self.nonzeros = Nonzeros.of(self.weight)

    def __call__(self, layer: nn.Linear, x: Tensor, attention_mass: Tensor | None = None) -> Tensor:
        return sparse_product(x, self.weight, self.constant, self.nonzeros)


def live_edges(model: Transformer, cuts: Mapping[str, LinearCut]) -> Cuts:
    """The same cuts, faster where a weight is mostly zero; elsewhere as they are."""
    return computed_by(lambda layer, cut: LiveEdges(layer, cut) if is_sparse(layer.weight) else cut, model, cuts)


def computed_by(way: Callable[[nn.Linear, Cut], LinearCut], model: Transformer, cuts: Mapping[str, LinearCut]) -> Cuts:
    """The same cuts, each computed that way. Not attention's c_proj: its held values are scaled by mass."""
    layers = model.transformer["h"]
    parts = {key: layers[int(key.partition(".")[0])].get_submodule(key.partition(".")[2]) for key in cuts}
    return {
        key: way(parts[key], cut) if isinstance(cut, Cut) and not key.endswith("attn.c_proj") else cut
        for key, cut in cuts.items()
    }
