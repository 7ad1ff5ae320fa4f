"""A model and a task, ready to be pruned: what all phases of the search share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.graph import Item, Subgraph, ends
from pipeline.config import PruneConfig
from pipeline.data.pairs import PairBatch
from pipeline.model.transformer import Transformer
from pipeline.prune.discretise import Ranking
from pipeline.prune.edge_search import EdgeMasking, edge_attributions
from pipeline.prune.evaluator import Candidate, Evaluator
from pipeline.prune.limits import ATTRIBUTION_PAIRS, EDGE_LR
from pipeline.prune.masks import EdgeLayout
from pipeline.prune.search import NodeMasking, search
from pipeline.seeds import seed_of


@dataclass(frozen=True)
class PruneProblem:
    """A model and a task, ready to be pruned."""

    masking: NodeMasking
    evaluator: Evaluator
    train: PairBatch
    config: PruneConfig
    seed: int

    def ranking(self, scores: Float[Tensor, " unit"]) -> Ranking:
        """All nodes by scores of their units."""
        return Ranking(self.evaluator, self.masking.layout, scores)

    def edge_masking(self, circuit: Subgraph) -> EdgeMasking:
        """Masks over the edges of a circuit."""
        return EdgeMasking(self.masking.model, self.masking.ablations, EdgeLayout(circuit, self.config.tie_qk))

    def edge_rankings(self, circuit: Subgraph, k_coefs: Sequence[float]) -> list[Ranking]:
        """Phase 4: rankings of a circuit's edges by learned masks, one for each of ``k_coefs`` (nats an edge).

        All other hyperparameters are the first centre's, but the learning rate.
        """
        masking = self.edge_masking(circuit)
        trials = [self.config.centres[0].model_copy(update={"k_coef": k, "lr": EDGE_LR}) for k in k_coefs]
        seeds = [seed_of(self.seed, "edge noise", str(k)) for k in k_coefs]
        scores = search(masking, self.train, self.config, trials, seeds, seed_of(self.seed, "edge batches"))
        return [Ranking(self.evaluator, masking.layout, of_trial) for of_trial in scores.values()]

    def quick_attributions(self, circuit: Subgraph) -> dict[Item, float]:
        """The attribution of every item of a circuit, in nats, by a few train pairs, uncalibrated."""
        pairs = self.train.first(ATTRIBUTION_PAIRS)
        shape = len(self.masking.ablations), pairs.n_pairs
        return self._attributions(circuit, pairs, torch.ones(shape) / (shape[0] * shape[1]), (1.0, 0.0))

    def attributions(self, candidate: Candidate) -> dict[Item, float]:
        """The attribution of every item of a circuit to the loss that has to meet a target, in nats, by all pairs."""
        return self._attributions(candidate, *self.evaluator.all_pairs(candidate), candidate.calibration)

    def _attributions(
        self,
        circuit: Subgraph,
        pairs: PairBatch,
        weights: Float[Tensor, "ablation pair"],
        calibration: tuple[float, float],
    ) -> dict[Item, float]:
        values = edge_attributions(self.edge_masking(circuit), pairs, weights, calibration)
        return with_nodes(dict(zip(circuit.list_edges(), values.tolist(), strict=True)))


def with_nodes(of_edges: Mapping[Item, float]) -> dict[Item, float]:
    """The edges' attributions, and each node's: the sum over edges from it, or to it where there are none from it."""
    into, out = defaultdict[Item, float](float), defaultdict[Item, float](float)
    for edge, value in of_edges.items():
        source, target = ends(edge)
        out[source] += value
        into[target] += value
    return {**of_edges, **into, **out}


def make_problem(
    model: Transformer,
    ablations: Sequence[AblationValues],
    batches: Mapping[str, PairBatch],
    config: PruneConfig,
    seed: int,
) -> PruneProblem:
    """``batches`` has train and validation pairs; train pairs beyond ``calibration_pairs`` are the extra pairs. The
    target has to be met under each of the ablations."""
    train = batches["train"].first(config.train_pairs)
    validation = batches["validation"].first(config.validation_pairs)
    fit, extra = torch.arange(train.n_pairs).tensor_split([config.calibration_pairs])
    more = train.take(extra) if len(extra) else None
    evaluator = Evaluator(model, ablations, train.take(fit), validation, config, more)
    masking = NodeMasking.of(model, [ablated_to.to(model.device) for ablated_to in ablations], config.tie_qk)
    return PruneProblem(masking, evaluator, train, config, seed)
