"""Is a circuit sufficient, is it necessary, by nodes and by edges, on pairs never seen before (§6)."""

from __future__ import annotations

from statistics import median
from typing import Any, cast

import torch

from pipeline.ablation import Ablation
from pipeline.circuit import Circuit
from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.conditions import Ablator, Answers, Condition, accuracy
from pipeline.circuit.random_circuits import Complement
from pipeline.config import AblateConfig
from pipeline.data.pairs import PairBatch, of_pairs, prompt_losses
from pipeline.model.scoring import calibrated, score
from pipeline.model.transformer import Transformer
from pipeline.rows import AblationRow
from pipeline.seeds import seed_of
from pipeline.stats import interval


def ablate_task(
    *, model: Transformer, circuit: Circuit, batch: PairBatch, config: AblateConfig, seed: int
) -> AblationRow:
    """Loss (nats) and accuracy of the model and of the circuit under every condition, with random controls.

    ``batch`` holds the test pairs. The circuit says what its complement is ablated to (``Circuit.ablation_values``);
    over several draws, losses and accuracies are means. Where the circuit is what remains, its calibration is applied;
    the loss without it is reported too. Each loss has a 95 % bootstrap interval over pairs. Controls:
    ``config.n_random`` random sets of the complement, of the circuit's size per site or kind of edge
    (``Complement.random_set``), uncalibrated, on the first ``config.random_pairs`` pairs. ``counterfactual_loss``: of
    the circuit alone before the pair's other prompt, whatever it was made for. Raises WrongModelError where the model
    is not the circuit's.
    """
    circuit.check_model(model)
    ablator, complement = Ablator(model, circuit.ablation_values), Complement(model, circuit)
    seeds = seed_of(seed, "ablate"), seed_of(seed, "ablate", "random sets")
    resampling, drawing = (torch.Generator().manual_seed(one) for one in seeds)
    row = scored("unpruned", score(model, batch).cpu()[None], config, resampling)
    for condition in Condition:
        answers = ablator.answers(circuit, condition, batch)
        if condition.keeps:
            row[f"{condition.value}_loss_uncalibrated"] = float(prompt_losses(answers).mean())
            answers = calibrated(answers, circuit.calibration)
        row |= scored(condition.value, answers, config, resampling)
        sets = [complement.random_set(circuit, drawing, of_edges=condition.of_edges) for _ in range(config.n_random)]
        some = batch.first(config.random_pairs)
        losses = [float(prompt_losses(ablator.answers(drawn, condition, some)).mean()) for drawn in sets]
        name = f"random_{condition.value.removeprefix('ablated_')}"
        row |= {f"{name}_losses": losses, f"{name}_loss_median": median(losses)}
    return cast(AblationRow, row | decides(ablator, circuit, batch, config, resampling))


def decides(
    ablator: Ablator, circuit: Circuit, batch: PairBatch, config: AblateConfig, generator: torch.Generator
) -> dict[str, Any]:
    """Loss and accuracy of the circuit alone with every other node at its value on the pair's other prompt; by the
    ``ablator`` that it has, where that ablates so."""
    if ablator.ablated_to.kind is not Ablation.COUNTERFACTUAL:
        ablator = Ablator(ablator.model, AblationValues.of(Ablation.COUNTERFACTUAL, circuit.means))
    answers = ablator.answers(circuit, Condition.CIRCUIT, batch)
    return scored("counterfactual", calibrated(answers, circuit.calibration), config, generator)


def scored(name: str, answers: Answers, config: AblateConfig, generator: torch.Generator) -> dict[str, Any]:
    """Loss, its interval and accuracy, under the condition's name."""
    losses = prompt_losses(answers).mean(0)
    return {
        f"{name}_loss": float(losses.mean()),
        f"{name}_loss_interval": interval(of_pairs(losses), config.n_bootstrap, generator),
        f"{name}_accuracy": accuracy(answers),
    }
