"""Cut edges, computed without their zeros: by the nonzeros of a weight, or between the channels that are live."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from pipeline.circuit.node_masks import is_sparse
from pipeline.kernels.sparse import Nonzeros
from pipeline.model.linear import sparse_product
from pipeline.model.transformer import Cut, Cuts, LinearCut, Transformer

Product = Callable[[Tensor, Tensor], Tensor]  # input, constant → output


class CutLinear:
    """A linear map of which some edges are cut: ``Cut``'s map up to rounding, by a faster product."""

    position_free = True

    def __init__(self, layer: nn.Linear, cut: Cut, product: Callable[[Tensor, Cut], Product]) -> None:
        self.constant = layer.bias + (layer.weight * (1 - cut.keep)) @ cut.mean
        self.product = product(layer.weight, cut)

    def __call__(self, layer: nn.Linear, x: Tensor, attention_mass: Tensor | None = None) -> Tensor:
        return self.product(x, self.constant)


def by_nonzeros(weight: Tensor, cut: Cut) -> Product:
    """Through the live edges that are nonzero; differentiable in ``keep``."""
    live = weight * cut.keep
    nonzeros = Nonzeros.of(live)
    return lambda x, constant: sparse_product(x, live, constant, nonzeros)


def by_channels(weight: Tensor, cut: Cut) -> Product:
    """Between the channels that have a live edge, where these are few."""
    sources, targets = (cut.keep.any(dim).nonzero().flatten() for dim in (0, 1))
    live = (weight * cut.keep)[targets][:, sources]

    def product(x: Tensor, constant: Tensor) -> Tensor:
        y = constant.expand(*x.shape[:-1], -1).contiguous()
        return y.index_add_(-1, targets, x[..., sources] @ live.T)

    return product


def live_edges(model: Transformer, cuts: Mapping[str, LinearCut]) -> Cuts:
    """The same cuts, faster where a weight is mostly zero; elsewhere as they are."""
    return faster(model, cuts, by_nonzeros, lambda layer: is_sparse(layer.weight))


def few_edges(model: Transformer, cuts: Mapping[str, LinearCut]) -> Cuts:
    """The same cuts, faster where they leave few edges, as a circuit's do."""
    return faster(model, cuts, by_channels, lambda layer: True)


def faster(
    model: Transformer,
    cuts: Mapping[str, LinearCut],
    product: Callable[[Tensor, Cut], Product],
    fits: Callable[[nn.Linear], bool],
) -> Cuts:
    """The same cuts, by a product where it fits. Not attention's c_proj, whose ablation values attention scales."""
    changed: dict[str, LinearCut] = dict(cuts)
    for key, cut in cuts.items():
        layer, _, name = key.partition(".")
        part = model.transformer["h"][int(layer)].get_submodule(name)
        if isinstance(cut, Cut) and name != "attn.c_proj" and fits(part):
            changed[key] = CutLinear(part, cut, product)
    return changed
