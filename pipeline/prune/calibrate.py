"""Calibration of a circuit's answer logits: a scale, and a shift of one answer against the other (METHOD §4)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.data.pairs import prompt_losses
from pipeline.model.scoring import mean_loss


def calibrate(answers: Float[Tensor, "prompt 2"], steps: int) -> tuple[float, float]:
    """(scale, shift) that minimise the task loss of ``answers``, after ``steps`` of LBFGS; never worse than (1, 0).

    The shift is added to the answer of side a; one for each answer token would change nothing more.
    """
    if steps == 0:
        return 1.0, 0.0
    parameters = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=steps, line_search_fn="strong_wolfe")
    logits = answers.double().cpu()

    def closure() -> Tensor:
        optimizer.zero_grad()
        signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(len(logits) // 2)
        margin = parameters[0] * (logits[:, 0] - logits[:, 1]) + parameters[1] * signs
        loss = prompt_losses(torch.stack([margin, torch.zeros_like(margin)], dim=-1)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    scale, shift = parameters.tolist()
    return (scale, shift) if mean_loss(answers, (scale, shift)) < mean_loss(answers) else (1.0, 0.0)
