"""Sufficiency against more than the mean: what is outside the circuit at other values, or partly alive (METHOD §6).

Published criticism of mean ablation (Drori 2026) is that a circuit can lean on everything else being at its mean. Here
the complement is at its mean, at zero, at values of other inputs, partly alive at random, and partly alive in the way
that hurts most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.ablate.conditions import Condition, Runner
from pipeline.config import Ablation
from pipeline.data.pairs import answer_logits, prompt_losses
from pipeline.model.ablation import hold_at_means
from pipeline.model.held_at import Held, Values
from pipeline.model.scoring import calibrated, score
from pipeline.validate.claim import UNCALIBRATED, Answers, Claim, check, margins
from pipeline.validate.norms import frozen_norms

STEP = 0.25  # of the adversary, in how alive a node is
Masks = Mapping[str, Float[Tensor, " width"]]


def complement(claim: Claim) -> dict[str, Any]:
    """Ablation → ``loss`` (calibrated, nats), ``loss_uncalibrated`` and ``faithfulness``, each an estimate.

    ``mean``, ``zero``, ``resample_places`` (all nodes as they are at one random place of the pretraining distribution),
    ``resample_nodes`` (each node as at a place of its own): by nodes and edges, over ``draws``, on all test pairs.
    ``random_subset`` (nodes outside alive by a share U(0, 1) each), ``adversarial_subset`` and ``frozen_norms``: by
    nodes alone but for the last, on the first ``few_pairs`` pairs. ``tests``: ``verdict``.
    """
    found = {name: held_at(claim, held) for name, held in kinds_of_held(claim).items()}
    found["random_subset"] = random_subset(claim)
    found["adversarial_subset"] = adversarial_subset(claim)
    found["frozen_norms"] = with_frozen_norms(claim)
    tests = [verdict(claim, name, row) for name, row in found.items()]
    return found | {"tests": tests}


def verdict(claim: Claim, name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the circuit still does the task: at the mean, as it was made, not surely worse than its target (by the
    lower end of the interval); under other ablations, nearer to the target than to chance."""
    made_for = name == "mean"
    value = row["loss"]["interval"][0] if made_for else row["loss"]["mean"]
    limit = claim.target if made_for else still(claim.target)
    says = f"loss {row['loss']['mean']:.3f} nats with all else at {name.replace('_', ' ')}"
    return check(f"sufficient_{name}", value <= limit, value, limit, says)


def still(target: float) -> float:
    """The loss in nats up to which a task still counts as done: nearer to the target than to chance."""
    return (target + math.log(2)) / 2


def kinds_of_held(claim: Claim) -> dict[str, Held]:
    """What the complement is held at, by the name of the ablation."""
    generator = claim.generator("draws")
    n = len(next(iter(claim.samples.values())))
    places = torch.randperm(n, generator=generator)[: claim.config.draws]
    mixed = [mixed_draw(claim.samples, generator) for _ in range(claim.config.draws)]
    return {
        "mean": Held.at_means(claim.circuit.means),
        "zero": Held.at_zero(claim.circuit.means),
        "resample_places": Held.resampled({key: values[places] for key, values in claim.samples.items()}),
        "resample_nodes": Held(Ablation.RESAMPLE, tuple(mixed)),
    }


def mixed_draw(samples: Mapping[str, Float[Tensor, "draw width"]], generator: torch.Generator) -> Values:
    """One value a node, each from a place of its own."""
    return {
        key: values[torch.randint(len(values), values.shape[1:], generator=generator), torch.arange(values.shape[1])]
        for key, values in samples.items()
    }


def held_at(claim: Claim, held: Held) -> dict[str, Any]:
    """The circuit alone, with all else held at values of ``held``; means over its draws."""
    runner = Runner(claim.model, held)
    answers = runner.answers(claim.circuit, Condition.CIRCUIT, claim.test)
    nothing = runner.answers(claim.nothing, Condition.CIRCUIT, claim.test)
    found = summary(claim, list(answers))
    found["faithfulness"] = claim.faithfulness(mean_of(answers), mean_of(nothing), margins(claim.of_model))
    return found


def mean_of(draws: Sequence[Answers] | Tensor) -> Float[Tensor, " pair"]:
    """Margins, averaged over draws."""
    return torch.stack([margins(answers) for answers in draws]).mean(0)


def summary(claim: Claim, draws: Sequence[Answers]) -> dict[str, Any]:
    """Loss with and without the circuit's calibration, averaged over draws pair by pair."""
    calibrated_losses = torch.stack([claim.losses(answers) for answers in draws])
    plain = torch.stack([claim.losses(answers, UNCALIBRATED) for answers in draws])
    return {
        "loss": claim.estimate(calibrated_losses.mean(0)),
        "loss_uncalibrated": claim.estimate(plain.mean(0)),
        "worst_draw": float(calibrated_losses.mean(1).max()),
        "n_draws": len(draws),
    }


def random_subset(claim: Claim) -> dict[str, Any]:
    """Nodes outside the circuit between held and alive: m = g + (1 − g)·U, one U a node and draw, over ``draws``."""
    generator, kept = claim.generator("random subset"), claim.circuit.node_masks()
    answers = []
    for _ in range(claim.config.draws):
        masks = {key: mask + (1 - mask) * torch.rand(mask.shape, generator=generator) for key, mask in kept.items()}
        answers.append(partly_alive(claim, masks))
    return of_few(claim, answers)


def adversarial_subset(claim: Claim) -> dict[str, Any]:
    """How alive nodes outside are, one choice for all pairs, chosen to raise the loss on these very pairs.

    Projected gradient ascent on the loss with the circuit's calibration, from held (0) with steps of the gradient's
    sign; the worst of all steps counts.
    """
    kept = {key: mask.to(claim.model.device) for key, mask in claim.circuit.node_masks().items()}
    alive = {key: torch.zeros_like(mask) for key, mask in kept.items()}
    worst, answers = -math.inf, torch.empty(0)
    for step in range(claim.config.adversary_steps + 1):
        loss, found, gradient = ascent(claim, kept, alive)
        if loss > worst:
            worst, answers = loss, found
        if step < claim.config.adversary_steps:
            alive = {key: (value + STEP * gradient[key].sign()).clamp(0, 1) for key, value in alive.items()}
    return of_few(claim, [answers])


def ascent(claim: Claim, kept: Masks, alive: Masks) -> tuple[float, Answers, Masks]:
    """Loss and answers with nodes outside as alive as given, and the loss's slope in that."""
    leaves = {key: value.clone().requires_grad_(True) for key, value in alive.items()}
    masks = {key: kept[key] + (1 - kept[key]) * leaf for key, leaf in leaves.items()}
    batch = claim.few
    logits = claim.model(batch.tokens, at=batch.last, intervene=hold_at_means(masks, claim.runner.held.first))
    answers = answer_logits(logits, batch)
    loss = prompt_losses(calibrated(answers, claim.circuit.calibration)).mean()
    slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    found = {
        key: torch.zeros_like(alive[key]) if slope is None else slope * (1 - kept[key])
        for key, slope in zip(leaves, slopes, strict=True)
    }
    return float(loss.detach()), answers.detach().cpu(), found


def partly_alive(claim: Claim, masks: Masks) -> Answers:
    """Answers to the few pairs with every node at m·x + (1 − m)·held."""
    on_device = {key: mask.to(claim.model.device) for key, mask in masks.items()}
    return score(claim.model, claim.few, intervene=hold_at_means(on_device, claim.runner.held.first)).cpu()


def with_frozen_norms(claim: Claim) -> dict[str, Any]:
    """The circuit alone, every norm with the scale that the unpruned model has at the same place."""
    batch, circuit = claim.few, claim.circuit(claim.model)
    with frozen_norms(claim.model, batch):
        answers = answer_logits(circuit(batch.tokens, at=batch.last), batch).cpu()
    return of_few(claim, [answers])


def of_few(claim: Claim, draws: Sequence[Answers]) -> dict[str, Any]:
    """``summary``, and faithfulness on the few pairs; ∅ is the model with all nodes held."""
    nothing = claim.runner.answers(claim.nothing, Condition.CIRCUIT, claim.few)
    found = claim.faithfulness(mean_of(draws), mean_of(nothing), margins(score(claim.model, claim.few).cpu()))
    return summary(claim, draws) | {"faithfulness": found}
