"""Ways to rank nodes without learning a mask: what learned pruning has to beat (the paper's Fig 31)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import Baseline
from pipeline.data.pairs import PairBatch
from pipeline.prune.search import Masking, attribution

STEPS = 5  # of the integral


def baseline_order(kind: Baseline, masking: Masking, pairs: PairBatch, seed: int, chunk: int) -> Float[Tensor, " unit"]:
    """The order of all units by a baseline, the more needed the larger; ``pairs`` are passed ``chunk`` at a time.

    Attributions are of the task loss; what lowers it is needed.
    """
    ones = torch.ones(masking.layout.n_units)
    if kind is Baseline.RANDOM:
        return torch.rand(len(ones), generator=torch.Generator().manual_seed(seed))
    if kind is Baseline.ATTRIBUTION:
        return attribution(masking, ones, pairs, chunk)
    places = (torch.arange(STEPS) + 0.5) / STEPS
    return torch.stack([attribution(masking, place * ones, pairs, chunk) for place in places]).mean(0)
