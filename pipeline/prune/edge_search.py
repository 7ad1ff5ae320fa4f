"""Phase 4: edges. Masks over single edges, learned by the same gradient descent as masks over nodes.

Phase 3 keeps all edges between its nodes, and most of them are not needed. The paper prunes no edges; learned masks
over edges are Bhaskar et al. 2024 (Finding Transformer Circuits with Edge Pruning), with the masks of Louizos et al.
2018 in place of a Heaviside step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.circuit.background import Background
from pipeline.circuit.cut_linear import CutLinear, MaskedEdges, by_edges
from pipeline.circuit.interventions import SOURCES, in_matrix, masks_in
from pipeline.circuit.node_masks import interpolating
from pipeline.data.pairs import PairBatch, of_pairs, prompt_losses
from pipeline.model.scoring import answers_of, calibrated
from pipeline.prune.limits import PASS_PAIRS
from pipeline.prune.masks import EdgeLayout
from pipeline.prune.search import Masking
from pipeline.sites import Site, split_edge_key


@dataclass(frozen=True)
class EdgeMasking(Masking):
    """Masks over the edges of a circuit, whose nodes stay."""

    layout: EdgeLayout

    def losses(self, masks: Float[Tensor, "trial edge"], batch: PairBatch, behind: Background) -> Tensor:
        return torch.cat([self.run(batch, 1, **self.changes(mask, behind)) for mask in masks])

    def changes(self, mask: Float[Tensor, " edge"], behind: Background) -> dict[str, Any]:
        """Keyword arguments of ``answers_of``: an edge with mask m carries m·x + (1 − m)·x_ablated.

        Edges outside the circuit carry x_ablated, and nodes outside it are ablated.
        """
        cuts = {
            name: CutLinear(by_edges(live, mask[places], behind.sources(name, live.n_head)))
            for name, (live, places) in self.maps.items()
        }
        return behind.run(interpolating(self.kept, behind.values), cuts)

    @cached_property
    def kept(self) -> dict[str, Float[Tensor, " _width"]]:
        """Site key → 1 for the circuit's nodes, else 0."""
        return masks_in(self.model, self.layout.whole.nodes)

    @cached_property
    def maps(self) -> dict[str, tuple[MaskedEdges, Int[Tensor, " n"]]]:
        """A linear map's name → its live edges, and their places in a mask."""
        layers = range(self.model.config.n_layer)
        return {f"{layer}.{name}": self.map(layer, name) for layer in layers for name in SOURCES}

    def map(self, layer: int, name: str) -> tuple[MaskedEdges, Int[Tensor, " n"]]:
        """The live edges of one linear map, and their places in a mask."""
        part, source = self.model.transformer["h"][layer].get_submodule(name), SOURCES[name]
        device, edges = self.model.device, self.layout.whole.edges
        every = self.layout.by_key(torch.arange(self.layout.n_units, device=device))
        kinds = {key: split_edge_key(key) for key in edges}
        keys = [key for key, (of_layer, kind) in kinds.items() if (of_layer, kind.weight) == (layer, name)]
        ends = [in_matrix(key, edges[key].to(device), len(part.weight)) for key in keys]
        none = torch.zeros(0, dtype=torch.long, device=device)
        rows, columns = (torch.cat([none, *(end[i] for end in ends)]) for i in (0, 1))
        n_head = self.model.config.n_head if source is Site.ATTN_V else 1
        live = MaskedEdges(part.weight, part.bias, rows, columns, n_head)
        return live, torch.cat([none, *(every[key] for key in keys)])


def edge_attributions(
    masking: EdgeMasking, pairs: PairBatch, weights: Float[Tensor, "ablation pair"], calibration: tuple[float, float]
) -> Float[Tensor, " edge"]:
    """The rise of the weighted sum of the pairs' losses without each edge, in nats, to first order."""
    total, device = torch.zeros(masking.layout.n_units), masking.model.device
    for some in torch.arange(pairs.n_pairs).split(PASS_PAIRS):
        part = pairs.take(some).to(device)
        for ablated_to, weight in zip(masking.ablations, weights[:, some].to(device), strict=True):
            if not weight.any():
                continue
            for draw in range(len(ablated_to.draws)):
                mask = torch.ones(len(total), device=device, requires_grad=True)
                changes = masking.changes(mask, masking.behind((ablated_to, draw), part))
                losses = of_pairs(prompt_losses(calibrated(answers_of(masking.model, part, **changes), calibration)))
                total -= torch.autograd.grad((weight / len(ablated_to.draws) * losses).sum(), mask)[0].cpu()
    return total
