"""Calibration of a circuit's answer logits: a scale, and a shift of one answer against the other (§4).

The paper takes 16 steps of LBFGS. The loss is convex in these two numbers, so Newton's steps reach the same minimum in
a thousandth of the time, and Phases 5 and 6 calibrate after every removal. Where a circuit prefers the right answer in
all fit pairs there is no minimum, since the loss falls with any larger scale: the scale stops at a bound.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from jaxtyping import Float
from torch import Tensor

from pipeline.prune.limits import MIN_SCALE, MIN_STEP, RIDGE


def calibrate(answers: Float[Tensor, "prompt 2"], steps: int, most_scale: float) -> tuple[float, float]:
    """(scale, shift) that minimise the task loss of ``answers``, after ``steps`` of Newton; never worse than (1, 0).

    The shift is added to the logit of side a's answer; a second one, for side b's, would add nothing. The scale stays
    within [``MIN_SCALE``, ``most_scale``].
    """
    margin = (answers[:, 0] - answers[:, 1]).double().cpu().numpy()
    scale, shift = _newton(margin, steps, MIN_SCALE, most_scale)
    return (scale, shift) if _loss(margin, scale, shift) < _loss(margin, 1.0, 0.0) else (1.0, 0.0)


@numba.njit(nogil=True, cache=True)
def _loss(margin: Any, scale: float, shift: float) -> float:
    total = 0.0
    for i in range(len(margin)):
        z = scale * margin[i] + (shift if i % 2 == 0 else -shift)
        total += np.log1p(np.exp(-abs(z))) + max(-z, 0.0)
    return total / len(margin)


@numba.njit(nogil=True, cache=True)
def _newton(margin: Any, steps: int, least: float, most: float) -> tuple[float, float]:
    """Newton's steps, each halved until the loss falls; at a bound that the scale would leave, only the shift moves."""
    scale, shift = 1.0, 0.0
    now = _loss(margin, scale, shift)
    for _ in range(steps):
        g0 = g1 = h00 = h01 = 0.0
        h11 = RIDGE
        for i in range(len(margin)):
            sign = 1.0 if i % 2 == 0 else -1.0
            wrong = 1 / (1 + np.exp(scale * margin[i] + shift * sign))
            curve = wrong * (1 - wrong)
            g0 -= wrong * margin[i]
            g1 -= wrong * sign
            h00 += curve * margin[i] * margin[i]
            h01 += curve * margin[i] * sign
            h11 += curve
        h00 += RIDGE
        at_bound = (scale <= least and g0 > 0) or (scale >= most and g0 < 0)
        if at_bound:
            d0, d1 = 0.0, g1 / h11
        else:
            det = h00 * h11 - h01 * h01 + RIDGE
            d0, d1 = (h11 * g0 - h01 * g1) / det, (h00 * g1 - h01 * g0) / det
        step, better = 1.0, False
        while step > MIN_STEP and not better:
            new_scale, new_shift = min(max(scale - step * d0, least), most), shift - step * d1
            new = _loss(margin, new_scale, new_shift)
            better = new < now
            step /= 2
        if not better:
            break
        scale, shift, now = new_scale, new_shift, new
    return scale, shift
