"""The method's own search once more, without its gate: what controls and stability compare a circuit with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.ablate.conditions import score_compact
from pipeline.data.pairs import PairBatch
from pipeline.model.compact import Compact
from pipeline.model.scoring import mean_loss
from pipeline.prune.discretise import Ranking, Sketch
from pipeline.prune.prune import Case
from pipeline.prune.search import search
from pipeline.prune.tune import Tuner
from pipeline.seeds import seed_of


@dataclass(frozen=True)
class Found:
    """The discretised circuit of a search, or that of least loss where none meets the target."""

    sketch: Sketch
    met: bool

    def row(self, case: Case, test: PairBatch) -> dict[str, Any]:
        """Size, and loss in nats on validation and test pairs."""
        compact = Compact(case.judge.frozen[0], self.sketch.nodes, self.sketch.edges)
        loss = mean_loss(score_compact(compact, test), self.sketch.calibration)
        return {
            "met": self.met, "n_nodes": self.sketch.n_nodes, "n_edges": self.sketch.n_edges,
            "validation_loss": self.sketch.validation_loss, "test_loss": loss,
        }  # fmt: skip


def by_tuner(case: Case) -> Found:
    """The best of all trials, as pruning makes them; the model may be unable to do the task."""
    tuner = Tuner(case.masking, case.judge, case.train, case.config, case.seed)
    tuner.run(lambda what: None)
    return best_of([tuner.rankings[number] for number in sorted(tuner.rankings)], case.config.target_loss)


def best_of(rankings: list[Ranking], target: float) -> Found:
    """The smallest circuit of any ranking that meets the target, else the one of least loss that was seen."""
    meeting = [sketch for ranking in rankings if (sketch := ranking.smallest(target)) is not None]
    if meeting:
        return Found(min(meeting, key=lambda sketch: sketch.n_edges), True)
    seen = [sketch for ranking in rankings for sketch in ranking.seen.values()]
    return Found(min(seen, key=lambda sketch: (sketch.loss, sketch.n_edges)), False)


def by_seeds(case: Case, hyperparameters: Mapping[str, float], n: int) -> list[Found]:
    """The circuits of one set of hyperparameters and ``n`` seeds of the initial noise, searched for at once."""
    known = case.config.centres[0].model_validate(dict(hyperparameters))
    seeds = [seed_of(case.seed, "stability", str(i)) for i in range(n)]
    orders: Mapping[int, Float[Tensor, " unit"]] = search(
        case.masking, case.train, case.config, [known] * n, seeds, seed_of(case.seed, "stability batches"), None
    )
    rankings = [Ranking(case.judge, case.masking.layout, torch.clone(orders[i])) for i in range(n)]
    return [best_of([ranking], case.config.target_loss) for ranking in rankings]
