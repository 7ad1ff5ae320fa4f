"""Newton's method for the scale and the shift of calibration (``pipeline.model.scoring.calibrate``), on a CPU."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

RIDGE = 1e-9  # This keeps Newton's system solvable where all margins are equal.
MIN_STEP = 1e-3  # Newton's step is halved down to this share of itself before calibration stops.


@numba.njit(nogil=True, cache=True)
def margin_loss(margin: Any, scale: float, shift: float) -> float:
    total = 0.0
    for i in range(len(margin)):
        z = scale * margin[i] + (shift if i % 2 == 0 else -shift)
        total += np.log1p(np.exp(-abs(z))) + max(-z, 0.0)
    return total / len(margin)


@numba.njit(nogil=True, cache=True)
def newton(margin: Any, steps: int, least: float, most: float) -> tuple[float, float]:
    """Newton's steps, each halved until the loss falls; at a bound that the scale would leave, only the shift moves."""
    scale, shift = 1.0, 0.0
    now = margin_loss(margin, scale, shift)
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
            new = margin_loss(margin, new_scale, new_shift)
            better = new < now
            step /= 2
        if not better:
            break
        scale, shift, now = new_scale, new_shift, new
    return scale, shift
