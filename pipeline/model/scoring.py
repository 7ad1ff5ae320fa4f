"""The answers of a model, changed or not, to contrast pairs: the one way to score for all stages."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.data.pairs import PairBatch, answer_logits, prompt_losses
from pipeline.kernels.calibrate_cpu import margin_loss, newton
from pipeline.model.layout import PackedPrompts, pick
from pipeline.model.transformer import Cuts, Intervene, Transformer, is_position_free, refuse_compiled

CHUNK = 64  # prompts of one forward pass: few enough for the caches, enough that many begin alike

# Calibration has at least this scale: a circuit whose answers must be reversed does not do the task.
MIN_SCALE = 1e-3


@torch.no_grad()
def score(
    model: Transformer, batch: PairBatch, *, intervene: Intervene | None = None, cuts: Cuts | None = None
) -> Float[Tensor, "prompt 2"]:
    """Logits of the right and the wrong answer of every prompt, in the batch's order, computed in chunks.

    ``intervene`` sees [prompt, pos, width] of a chunk, sorted by length; see ``answers_of``. Raises CompiledModelError.
    """
    refuse_compiled(model)
    scored = torch.empty(batch.answers.shape, device=model.device)
    by_length = batch.last.argsort(stable=True)
    for rows in by_length.split(CHUNK):
        part = batch.prompts(rows).to(model.device)
        scored[rows.to(model.device)] = answers_of(model, part, intervene=intervene, cuts=cuts)
    return scored


def answers_of(
    model: Transformer, batch: PairBatch, copies: int = 1, *, prompts: PackedPrompts | None = None, **changes: Any
) -> Float[Tensor, "row 2"]:
    """Logits of the right and the wrong answer by one pass over a batch, for every copy of it one after the other.

    ``changes``: ``intervene`` and ``cuts`` of ``Transformer.forward``. Where one of them is not marked as
    ``position_free``, sites hold [copy · prompt, pos, width], padded, on every device. Else prompts are packed on a
    CPU. ``prompts``: the batch as the changes want it packed.
    """
    if prompts is not None:
        logits = model(prompts, copies=copies, **changes)
    elif not is_position_free(changes.get("intervene"), changes.get("cuts")):
        logits = pick(model(batch.tokens, copies=copies, **changes), batch.last.repeat(copies))[:, 0]
    elif model.device.type == "cpu":  # where packing pays, and sums have one order
        logits = model(PackedPrompts.of(batch.tokens, batch.last), copies=copies, **changes)
    else:
        logits = model(batch.tokens, at=batch.last, copies=copies, **changes)
    return answer_logits(logits, batch, copies)


def calibrate(answers: Float[Tensor, "prompt 2"], steps: int, most_scale: float) -> tuple[float, float]:
    """(scale, shift) that minimise the task loss of ``answers``, after ``steps`` of Newton; never worse than (1, 0).

    The paper takes 16 steps of LBFGS (§4). The loss is convex in these two numbers, so Newton's steps reach the same
    minimum in a thousandth of the time, and Phases 5 and 6 calibrate after every removal. Where a circuit prefers the
    right answer in all fit pairs there is no minimum, since the loss falls with any larger scale: the scale stops at a
    bound.

    The shift is added to the logit of side a's answer; a second one, for side b's, would add nothing. The scale stays
    within [``MIN_SCALE``, ``most_scale``].
    """
    margin = (answers[:, 0] - answers[:, 1]).double().cpu().numpy()
    scale, shift = newton(margin, steps, MIN_SCALE, most_scale)
    return (scale, shift) if margin_loss(margin, scale, shift) < margin_loss(margin, 1.0, 0.0) else (1.0, 0.0)


def calibrated(
    answers: Float[Tensor, "*draw prompt 2"], calibration: tuple[float, float]
) -> Float[Tensor, "*draw prompt 2"]:
    """Answer logits times a scale, plus a shift on the answer of side a: right in rows 2i, wrong in rows 2i + 1."""
    scale, shift = calibration
    shifts = torch.zeros_like(answers)
    shifts[..., 0::2, 0] = shift
    shifts[..., 1::2, 1] = shift
    return answers * scale + shifts


def mean_loss(answers: Float[Tensor, "prompt 2"], calibration: tuple[float, float] = (1.0, 0.0)) -> float:
    """The task loss in nats: mean over both prompts of every pair (§3)."""
    return float(prompt_losses(calibrated(answers, calibration)).mean())
