"""The method's own search once more, without its gate: what controls and stability compare a circuit with.

One trial, discretised and calibrated as pruning does it, not minimised, at the loss that the circuit was made for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.circuit.ablation_values import AblationValues, node_samples
from pipeline.circuit.conditions import score_compact
from pipeline.config import Ablation, Hyperparameters, PruneConfig
from pipeline.data.pairs import PairBatch
from pipeline.model.means import node_means
from pipeline.model.transformer import Transformer
from pipeline.prune.discretise import Candidate, Ranking
from pipeline.prune.prune import PruneProblem, make_problem
from pipeline.prune.search import search
from pipeline.seeds import seed_of
from pipeline.validate.circuit_under_test import CircuitUnderTest, first_of

Batches = Mapping[str, PairBatch]


@dataclass(frozen=True)
class Found:
    """The discretised circuit of a trial, or that of least loss where none meets the target."""

    candidate: Candidate
    met: bool

    def answers(self, problem: PruneProblem, batch: PairBatch) -> Float[Tensor, "draw prompt 2"]:
        """Logits of the two answers, uncalibrated, for every draw of what is outside."""
        compacts = problem.evaluator.compacts(self.candidate.nodes, self.candidate.edges)
        return torch.stack([score_compact(compact, batch) for compact in compacts])

    def row(self, tested: CircuitUnderTest, problem: PruneProblem, test: PairBatch) -> dict[str, Any]:
        """Size, and loss in nats on the judge's pairs and on the first ``pairs`` test pairs, with its 95 % interval."""
        answers = self.answers(problem, first_of(test, tested.config.pairs))
        loss = tested.estimate(torch.stack([tested.losses(draw, self.candidate.calibration) for draw in answers]))
        return {
            "met": self.met, "n_nodes": self.candidate.n_nodes, "n_edges": self.candidate.n_edges,
            "validation_loss": self.candidate.validation_loss,
            "test_loss": loss["mean"], "test_loss_interval": loss["interval"], "n_pairs": loss["n"],
        }  # fmt: skip


def problem_of(
    tested: CircuitUnderTest, model: Transformer, batches: Batches, prune: PruneConfig, seed: int
) -> PruneProblem:
    """A search in a model for pairs: at the claim's target, all else held as the circuit's is."""
    return make_problem(
        model, ablated_as(tested, model), batches, prune.model_copy(update={"target_loss": tested.target}), seed
    )


def ablated_as(tested: CircuitUnderTest, model: Transformer) -> AblationValues:
    """The kind of ablation that the circuit was made with, and as many draws, by the model's own values."""
    own = tested.circuit.ablation_values
    if model is tested.model or own.kind is Ablation.ZERO:
        return own
    if own.kind is Ablation.MEAN:
        return AblationValues.at_means(means_of(model, tested.windows))
    seed = seed_of(tested.seed, "validate", "resampled")
    return AblationValues.resampled(node_samples(model, [tested.windows], len(own.draws), seed))


def means_of(model: Transformer, windows: Int[Tensor, "window pos"]) -> dict[str, Float[Tensor, " width"]]:
    """Each node's mean over windows of the pretraining distribution."""
    return {key: mean.to(model.device) for key, mean in node_means(model, [windows]).items()}


def one_trial(problem: PruneProblem, known: Hyperparameters, purpose: str) -> Found:
    """The circuit of one set of hyperparameters. Initial noise and order of batches are each purpose's own."""
    noise, batches = (seed_of(problem.seed, purpose, what) for what in ("noise", "batches"))
    order = search(problem.masking, problem.train, problem.config, [known], [noise], batches)[0]
    return best_of(Ranking(problem.evaluator, problem.masking.layout, order), problem.config.target_loss)


def best_of(ranking: Ranking, target: float) -> Found:
    """The smallest circuit of a ranking that meets the target, else the one of least loss that was seen."""
    if (candidate := ranking.smallest(target)) is not None:
        return Found(candidate, True)
    return Found(min(ranking.seen.values(), key=lambda candidate: (candidate.loss, candidate.n_edges)), False)
