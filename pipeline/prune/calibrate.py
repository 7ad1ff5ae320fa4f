"""Calibration of a circuit's answer logits: a scale, and a shift of one answer against the other (§4).

The paper takes 16 steps of LBFGS. The loss is convex in these two numbers, so Newton's steps reach the same minimum in
a thousandth of the time, and Phases 5 and 6 calibrate after every removal. Where a circuit prefers the right answer in
all fit pairs there is no minimum, since the loss falls with any larger scale: the scale stops at a bound.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from pipeline.kernels.calibrate_cpu import loss, newton
from pipeline.prune.limits import MIN_SCALE


def calibrate(answers: Float[Tensor, "prompt 2"], steps: int, most_scale: float) -> tuple[float, float]:
    """(scale, shift) that minimise the task loss of ``answers``, after ``steps`` of Newton; never worse than (1, 0).

    The shift is added to the logit of side a's answer; a second one, for side b's, would add nothing. The scale stays
    within [``MIN_SCALE``, ``most_scale``].
    """
    margin = (answers[:, 0] - answers[:, 1]).double().cpu().numpy()
    scale, shift = newton(margin, steps, MIN_SCALE, most_scale)
    return (scale, shift) if loss(margin, scale, shift) < loss(margin, 1.0, 0.0) else (1.0, 0.0)
