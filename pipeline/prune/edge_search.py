"""The search for single edges: the same gradient descent as for nodes, on one τ per edge of a circuit.

Nodes that a search keeps bring all edges between them; most of these are not needed. The paper prunes no edges; that a
mask over edges can be learned like one over nodes is Bhaskar et al. 2024 (Finding Transformer Circuits with Edge
Pruning), whose masks are those of Louizos et al. 2018, not a Heaviside step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.circuit.ablation_values import AblationValues, Values
from pipeline.circuit.compact_parts import Edges, Nodes
from pipeline.circuit.cut_linear import CutLinear, MaskedEdges, by_edges
from pipeline.circuit.interventions import SOURCES, in_matrix, node_masks
from pipeline.circuit.node_masks import interpolating
from pipeline.config import PruneConfig
from pipeline.data.pairs import PairBatch, of_pairs, prompt_losses
from pipeline.model.scoring import answers_of, calibrated
from pipeline.model.transformer import Transformer
from pipeline.prune.discretise import Ranking
from pipeline.prune.evaluator import Evaluator
from pipeline.prune.masks import EdgeLayout
from pipeline.prune.search import PASS, Maskable, search
from pipeline.seeds import seed_of
from pipeline.sites import Site, site_key, split_edge_key

# Weights on the number of edges, of the first search and of one that goes on from what it found. Which is best differs
# from task to task: too large a one takes all edges away at once.
K_COEFS = ((1e-4, 3e-4, 1e-3), (3e-4, 1e-3))
RATE = 0.05  # of learning


@dataclass(frozen=True)
class EdgeMasking(Maskable):
    """Masks over the edges of a circuit, whose nodes stay."""

    layout: EdgeLayout

    @classmethod
    def of(
        cls, model: Transformer, ablated_to: AblationValues, nodes: Nodes, edges: Edges, tie_qk: bool = False
    ) -> EdgeMasking:
        return cls(model, ablated_to, EdgeLayout(nodes, edges, tie_qk))

    def losses(self, masks: Float[Tensor, "c edge"], batch: PairBatch, draw: int = 0) -> Float[Tensor, " c"]:
        return torch.cat([self.run(batch, 1, **self.changes(mask, draw)) for mask in masks])

    def changes(self, mask: Float[Tensor, " edge"], draw: int) -> dict[str, Any]:
        """Keyword arguments of ``Transformer.forward`` that leave the nodes live, and each edge as far as its mask."""
        cuts = {name: CutLinear(by_edges(live, mask[places])) for name, (live, places) in self.maps[draw].items()}
        return {"intervene": interpolating(self.kept, self.ablated_to.draws[draw]), "cuts": cuts}

    @cached_property
    def kept(self) -> dict[str, Float[Tensor, " width"]]:
        """Site key → 1 for the nodes, else 0."""
        return node_masks(self.layout.nodes, self.ablated_to.first)

    @cached_property
    def maps(self) -> list[dict[str, tuple[MaskedEdges, Int[Tensor, " n"]]]]:
        """Of every draw: a linear map's name → its live edges, and their places in a mask."""
        names = [f"{layer}.{name}" for layer in range(self.model.config.n_layer) for name in SOURCES]
        return [{name: self.map(name, ablated_to) for name in names} for ablated_to in self.ablated_to.draws]

    def map(self, name: str, ablated_to: Values) -> tuple[MaskedEdges, Int[Tensor, " n"]]:
        layer, _, which = name.partition(".")
        part = self.model.transformer["h"][int(layer)].get_submodule(which)
        source, device = SOURCES[which], self.model.device
        places = self.layout.by_key(torch.arange(self.layout.n_units, device=device))
        mine = [
            key for key in places if split_edge_key(key)[0] == int(layer) and split_edge_key(key)[1].weight == which
        ]
        ends = [in_matrix(key, self.layout.edges[key].to(device), len(part.weight)) for key in mine]
        none = torch.zeros(0, dtype=torch.long, device=device)
        rows, columns = (torch.cat([none, *(end[i] for end in ends)]) for i in (0, 1))
        n_head = self.model.config.n_head if source is Site.ATTN_V else 1
        live = MaskedEdges(part.weight, part.bias, ablated_to[site_key(int(layer), source)], rows, columns, n_head)
        return live, torch.cat([none, *(places[key] for key in mine)])


def edge_worths(
    masking: EdgeMasking, pairs: PairBatch, weights: Float[Tensor, " pair"], calibration: tuple[float, float]
) -> Float[Tensor, " edge"]:
    """How much the weighted sum of the pairs' losses would rise without each edge, in nats, to first order."""
    total, device, draws = torch.zeros(masking.layout.n_units), masking.model.device, masking.ablated_to.draws
    for some in torch.arange(pairs.n_pairs).split(PASS):
        part, weight = pairs.take(some).to(device), weights[some].to(device) / len(draws)
        for draw in range(len(draws)):
            mask = torch.ones(len(total), device=device, requires_grad=True)
            answers = answers_of(masking.model, part, **masking.changes(mask, draw))
            losses = of_pairs(prompt_losses(calibrated(answers, calibration)))
            total -= torch.autograd.grad((weight * losses).sum(), mask)[0].cpu()
    return total


def edge_rankings(
    masking: EdgeMasking,
    evaluator: Evaluator,
    train: PairBatch,
    config: PruneConfig,
    k_coefs: Sequence[float],
    seed: int,
) -> list[Ranking]:
    """Rankings of a circuit's edges, one for each of ``k_coefs``; the rest is the first centre's, but for ``RATE``."""
    trials = [config.centres[0].model_copy(update={"k_coef": k, "lr": RATE}) for k in k_coefs]
    seeds = [seed_of(seed, "edge noise", str(k)) for k in k_coefs]
    orders = search(masking, train, config, trials, seeds, seed_of(seed, "edge batches"))
    return [Ranking(evaluator, masking.layout, order) for order in orders.values()]
