"""The method's own search once more, without its gate: controls and stability compare the circuit with its results.

One trial, discretised and calibrated as pruning does it, not minimised, at the loss that the circuit was made for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.conditions import Ablator, Condition
from pipeline.circuit.make_ablations import values_of
from pipeline.config import Hyperparameters, PruneConfig
from pipeline.data.pairs import PairBatch
from pipeline.model.transformer import Transformer
from pipeline.prune.evaluator import Candidate
from pipeline.prune.problem import PruneProblem, make_problem
from pipeline.prune.search import search
from pipeline.seeds import seed_of
from pipeline.validate.circuit_under_test import CircuitUnderTest, PairsBySplit


@dataclass(frozen=True)
class TrialCircuit:
    """The discretised circuit of a trial that meets the target, or where none does that of least loss."""

    candidate: Candidate
    met: bool

    @classmethod
    def of(cls, problem: PruneProblem, scores: Float[Tensor, " unit"]) -> TrialCircuit:
        """The smallest circuit by the scores that meets the target, else the one of least loss that was seen."""
        ranking = problem.ranking(scores)
        found = ranking.fewest(problem.config.target_loss)
        least = min(ranking.seen.values(), key=lambda measured: (measured.loss, measured.n_edges))
        return cls((found or least).candidate, found is not None)

    def row(self, tested: CircuitUnderTest, problem: PruneProblem, test: PairBatch) -> dict[str, Any]:
        """Size, and loss in nats on validation pairs and on the first ``pairs`` test pairs, with its 95 % interval;
        mean over the draws of ablation values."""
        ablator = Ablator(problem.masking.model, problem.masking.ablations[0])
        answers = ablator.answers(self.candidate, Condition.CIRCUIT, test.first(tested.config.pairs))
        loss = tested.estimate(tested.losses(answers, self.candidate.calibration))
        return {
            "met": self.met, "n_nodes": self.candidate.n_nodes, "n_edges": self.candidate.n_edges,
            "validation_loss": self.candidate.validation_loss,
            "test_loss": loss["mean"], "test_loss_interval": loss["interval"], "n_pairs": loss["n"],
        }  # fmt: skip


def problem_of(
    tested: CircuitUnderTest, model: Transformer, batches: PairsBySplit, prune: PruneConfig, seed: int
) -> PruneProblem:
    """A search in a model for pairs: at the loss that the circuit under test was made for, by the same kind of
    ablation."""
    config = prune.model_copy(update={"target_loss": tested.made_for})
    return make_problem(model, ablated_as(tested, model, batches["train"]), batches, config, seed)


def ablated_as(tested: CircuitUnderTest, model: Transformer, train: PairBatch) -> list[AblationValues]:
    """The kinds of ablation that the circuit was made with, and as many draws, by the model's own values."""
    own = tested.circuit.all_ablations
    if model is tested.model:
        return list(own)
    seed = seed_of(tested.seed, "validate", "resampled")
    return [values_of(one, model, tested.windows, train, seed) for one in own]


def one_trial(problem: PruneProblem, known: Hyperparameters, purpose: str) -> TrialCircuit:
    """The circuit of one set of hyperparameters. Initial noise and order of batches are each purpose's own."""
    noise, batches = (seed_of(problem.seed, purpose, what) for what in ("noise", "batches"))
    scores = search(problem.masking, problem.train, problem.config, [known], [noise], batches)[0]
    return TrialCircuit.of(problem, scores)
