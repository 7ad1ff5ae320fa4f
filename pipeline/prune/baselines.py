"""Ways to score nodes without learning a mask: learned pruning has to give smaller circuits (the paper's Fig 31)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import Baseline
from pipeline.data.pairs import PairBatch
from pipeline.prune.evaluator import sizes
from pipeline.prune.limits import BASELINE_PAIRS, INTEGRAL_STEPS
from pipeline.prune.problem import PruneProblem
from pipeline.prune.search import NodeMasking, attribution
from pipeline.rows import Sizes
from pipeline.seeds import seed_of


def baselines(problem: PruneProblem) -> dict[str, Sizes]:
    """Baseline → size of the circuit that Phase 3 makes of its scores at the target loss."""
    pairs, found = problem.train.first(BASELINE_PAIRS), {}
    for kind in problem.config.baselines:
        seed = seed_of(problem.seed, "baseline", kind.value)
        scores = baseline_scores(kind, problem.masking, pairs, seed, problem.config.batch_pairs)
        found[kind.value] = sizes(problem.ranking(scores).smallest(problem.config.target_loss))
    return found


def baseline_scores(
    kind: Baseline, masking: NodeMasking, pairs: PairBatch, seed: int, chunk: int
) -> Float[Tensor, " unit"]:
    """Every unit's score by a baseline, the larger the more needed; ``pairs`` are run ``chunk`` at a time.

    Attributions are of the task loss: a unit that lowers it is needed.
    """
    ones = torch.ones(masking.layout.n_units)
    if kind is Baseline.RANDOM:
        return torch.rand(len(ones), generator=torch.Generator().manual_seed(seed))
    if kind is Baseline.ATTRIBUTION:
        return attribution(masking, ones, pairs, chunk)
    shares = (torch.arange(INTEGRAL_STEPS) + 0.5) / INTEGRAL_STEPS
    return torch.stack([attribution(masking, share * ones, pairs, chunk) for share in shares]).mean(0)
