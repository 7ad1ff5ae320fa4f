"""The schedules of a training run: the annealing of L0 and the learning rate (§2)."""

from __future__ import annotations

import math

from pipeline.config import PretrainConfig


def anneal_progress(step: int, n_steps: int, config: PretrainConfig) -> float:
    """How much of the way from dense to the target L0 is gone after ``step``: 0 … 1, linear between them."""
    start, end = config.anneal_start * n_steps, config.anneal_end * n_steps
    if step >= end:  # also where both are the same step: all at once
        return 1.0
    if step <= start:
        return 0.0
    return max(0.0, (step - start) / (end - start))


def learning_rate(step: int, n_steps: int, base: float, l0_frac: float, config: PretrainConfig) -> float:
    """The "sharkfin": warm-up, linear decay to 0, times sqrt(target L0 / present L0) = sqrt(``l0_frac``)."""
    warmup = max(1.0, config.warmup * n_steps)
    return base * min(1.0, (step + 1) / warmup) * (1 - step / n_steps) * math.sqrt(l0_frac)
