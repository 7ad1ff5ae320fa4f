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

from pipeline.ablate.conditions import score_compact
from pipeline.config import Ablation, Hyperparameters, PruneConfig
from pipeline.data.pairs import PairBatch
from pipeline.model.held_at import Held
from pipeline.model.means import node_means
from pipeline.model.samples import node_samples
from pipeline.model.transformer import Transformer
from pipeline.prune.discretise import Ranking, Sketch
from pipeline.prune.prune import Case, make_case
from pipeline.prune.search import search
from pipeline.seeds import seed_of
from pipeline.validate.claim import Claim, first_of

Batches = Mapping[str, PairBatch]


@dataclass(frozen=True)
class Found:
    """The discretised circuit of a trial, or that of least loss where none meets the target."""

    sketch: Sketch
    met: bool

    def answers(self, case: Case, batch: PairBatch) -> Float[Tensor, "draw prompt 2"]:
        """Logits of the two answers, uncalibrated, for every draw of what is outside."""
        compacts = case.judge.compacts(self.sketch.nodes, self.sketch.edges)
        return torch.stack([score_compact(compact, batch) for compact in compacts])

    def row(self, claim: Claim, case: Case, test: PairBatch) -> dict[str, Any]:
        """Size, and loss in nats on the judge's pairs and on the first ``pairs`` test pairs, with its 95 % interval."""
        answers = self.answers(case, first_of(test, claim.config.pairs))
        loss = claim.estimate(torch.stack([claim.losses(draw, self.sketch.calibration) for draw in answers]))
        return {
            "met": self.met, "n_nodes": self.sketch.n_nodes, "n_edges": self.sketch.n_edges,
            "validation_loss": self.sketch.validation_loss,
            "test_loss": loss["mean"], "test_loss_interval": loss["interval"], "n_pairs": loss["n"],
        }  # fmt: skip


def case_of(claim: Claim, model: Transformer, batches: Batches, prune: PruneConfig, seed: int) -> Case:
    """A search in a model for pairs: at the claim's target, all else held as the circuit's is."""
    return make_case(
        model, held_as(claim, model), batches, prune.model_copy(update={"target_loss": claim.target}), seed
    )


def held_as(claim: Claim, model: Transformer) -> Held:
    """The kind of ablation that the circuit was made with, and as many draws, by the model's own values."""
    own = claim.circuit.outside
    if model is claim.model or own.kind is Ablation.ZERO:
        return own
    if own.kind is Ablation.RESAMPLE:
        seed = seed_of(claim.seed, "validate", "resampled")
        return Held.resampled(node_samples(model, [claim.windows], len(own.draws), seed))
    return Held.at_means(means_of(model, claim.windows))


def means_of(model: Transformer, windows: Int[Tensor, "window pos"]) -> dict[str, Float[Tensor, " width"]]:
    """Each node's mean over windows of the pretraining distribution."""
    return {key: mean.to(model.device) for key, mean in node_means(model, [windows]).items()}


def one_trial(case: Case, known: Hyperparameters, purpose: str) -> Found:
    """The circuit of one set of hyperparameters. Initial noise and order of batches are each purpose's own."""
    noise, batches = (seed_of(case.seed, purpose, what) for what in ("noise", "batches"))
    order = search(case.masking, case.train, case.config, [known], [noise], batches)[0]
    return best_of(Ranking(case.judge, case.masking.layout, order), case.config.target_loss)


def best_of(ranking: Ranking, target: float) -> Found:
    """The smallest circuit of a ranking that meets the target, else the one of least loss that was seen."""
    if (sketch := ranking.smallest(target)) is not None:
        return Found(sketch, True)
    return Found(min(ranking.seen.values(), key=lambda sketch: (sketch.loss, sketch.n_edges)), False)
