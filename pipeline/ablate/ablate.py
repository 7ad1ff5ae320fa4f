"""Is a circuit sufficient, is it necessary, by nodes and by edges, on pairs never seen before (§6)."""

from __future__ import annotations

from statistics import median
from typing import Any, cast

import torch

from pipeline.circuit import Circuit
from pipeline.circuit.conditions import Ablator, Answers, Condition, accuracy
from pipeline.circuit.random_circuits import edge_pools, random_edges, random_nodes
from pipeline.config import AblateConfig
from pipeline.data.pairs import PairBatch, of_pairs, prompt_losses
from pipeline.model.scoring import calibrated, score
from pipeline.model.transformer import Transformer
from pipeline.rows import AblationRow
from pipeline.seeds import seed_of
from pipeline.stats import interval

# Condition → under which name the losses of its random controls are reported.
RANDOM_NAMES = {
    Condition.CIRCUIT: "random_circuit",
    Condition.NODES_ONLY: "random_nodes_only",
    Condition.ABLATED_NODES: "random_nodes",
    Condition.ABLATED_EDGES: "random_edges",
}


def ablate_task(
    *, model: Transformer, circuit: Circuit, batch: PairBatch, config: AblateConfig, seed: int
) -> AblationRow:
    """Loss (nats) and accuracy of the model and of the circuit under every condition, with random controls.

    ``batch`` holds the test pairs. The circuit says what its complement is ablated to (``Circuit.ablation_values``);
    over several draws, losses and accuracies are means. Where the circuit is what remains, its calibration is applied;
    the loss without it is reported too. Each loss has a 95 % bootstrap interval over pairs. Controls:
    ``config.n_random`` random sets of the same size per site or kind of edge, uncalibrated, on the first
    ``config.random_pairs`` pairs. Raises WrongModelError where the model is not the circuit's.
    """
    circuit.check_model(model)
    ablator = Ablator(model, circuit.ablation_values)
    generator = torch.Generator().manual_seed(seed_of(seed, "ablate"))
    row = scored("unpruned", score(model, batch).cpu()[None], config, generator)
    some = batch.take(torch.arange(min(config.random_pairs, batch.n_pairs), device=batch.tokens.device))
    for condition in Condition:
        answers = ablator.answers(circuit, condition, batch)
        if condition.keeps:
            row[f"{condition.value}_loss_uncalibrated"] = float(prompt_losses(answers).mean())
            answers = calibrated(answers, circuit.calibration)
        row |= scored(condition.value, answers, config, generator)
        losses = random_losses(ablator, circuit, condition, some, config.n_random, generator)
        name = RANDOM_NAMES[condition]
        row |= {f"{name}_losses": losses, f"{name}_loss_median": median(losses)}
    return cast(AblationRow, row)


def scored(name: str, answers: Answers, config: AblateConfig, generator: torch.Generator) -> dict[str, Any]:
    """Loss, its interval and accuracy, under the condition's name."""
    losses = prompt_losses(answers).mean(0)
    return {
        f"{name}_loss": float(losses.mean()),
        f"{name}_loss_interval": interval(of_pairs(losses), config.n_bootstrap, generator),
        f"{name}_accuracy": accuracy(answers),
    }


def random_losses(
    ablator: Ablator, circuit: Circuit, condition: Condition, batch: PairBatch, n: int, generator: torch.Generator
) -> list[float]:
    """Task losses of ``n`` random sets of the circuit's size under the same condition."""
    losses, pools = [], edge_pools(ablator.model) if condition.of_edges else {}
    for _ in range(n):
        drawn = random_edges(circuit, pools, generator) if condition.of_edges else random_nodes(circuit, generator)
        losses.append(float(prompt_losses(ablator.answers(drawn, condition, batch)).mean()))
    return losses
