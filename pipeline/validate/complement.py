"""Sufficiency against more than the mean: what is outside the circuit at other values, or partly alive (§6).

Published criticism of mean ablation (Drori 2026) is that a circuit can lean on everything else being at its mean. Here
the complement is at its mean, at zero, at values of other inputs, partly alive at random, and partly alive in the way
that hurts most (``subsets``); with norms live, or frozen at the scales that the unpruned model has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.ablation_values import AblationValues, Values
from pipeline.circuit.conditions import Ablator, Condition
from pipeline.circuit.cut_linear import sparse_cuts
from pipeline.circuit.interventions import mask_nodes
from pipeline.circuit.masked import Masked
from pipeline.config import Ablation
from pipeline.data.pairs import PairBatch, answer_logits
from pipeline.model.layout import pick
from pipeline.model.record import record
from pipeline.model.transformer import Intervene
from pipeline.rows import Check
from pipeline.validate.circuit_under_test import MARGIN, UNCALIBRATED, Answers, CircuitUnderTest, margins
from pipeline.validate.norms import frozen_norms
from pipeline.validate.runs import padded_answers
from pipeline.validate.subsets import subsets
from pipeline.validate.verdict import check

FROZEN = "frozen_norms"
# Of single edges, an adversary can leave alive one side only of what cancels outside the circuit: circuits that are
# known to be true fail. So it is measured, and nothing is asked.
MEASURED = "adversarial_edges"


def complement(tested: CircuitUnderTest) -> dict[str, Any]:
    """Ablation → ``loss`` (calibrated, nats), ``loss_uncalibrated`` and ``faithfulness``, each an estimate.

    ``mean``, ``zero``, ``resample_places`` (all nodes as they are at one random place of the pretraining distribution),
    ``resample_nodes`` (each node as at a place of its own): by nodes and edges, on the claim's test pairs, and as the
    circuit was made on every one that the task has; and, with ``_frozen_norms`` behind the name, on the first
    ``few_pairs`` with the unpruned model's norm scales.
    ``resample_examples``: by nodes, all nodes outside as another sequence has them, position by position. The rest is
    ``subsets``'. The ablation that the circuit was made for has the values that it was made with. ``tests``: one of
    each but for frozen norms, which are asked for under that ablation only.
    """
    found = {}
    for name, ablated_to in kinds_of_ablation(tested).items():
        found[name] = ablated_at(
            tested, ablated_to, tested.batches["test"] if name == made_for(tested) else tested.test
        )
        found[f"{name}_{FROZEN}"] = with_frozen_norms(tested, ablated_to)
    found["resample_examples"] = resample_examples(tested)
    found |= {name: of_few(tested, answers) | more for name, (answers, more) in subsets(tested).items()}
    return found | {
        "tests": [check_sufficient(tested, name, row) for name, row in found.items() if asked_for(tested, name)]
    }


def made_for(tested: CircuitUnderTest) -> str:
    return tested.circuit.ablation_values.kind.as_tested


def asked_for(tested: CircuitUnderTest, name: str) -> bool:
    return not name.endswith(FROZEN) or name == f"{made_for(tested)}_{FROZEN}"


def check_sufficient(tested: CircuitUnderTest, name: str, row: Mapping[str, Any]) -> Check:
    """Whether the circuit still does the task: within MARGIN of its target, as it was made; otherwise nearer to the
    target than to chance. Of MEASURED nothing is asked."""
    found, limit = row["loss"], tested.target + MARGIN if name == made_for(tested) else still(tested.target)
    says = f"loss {found['mean']:.3f} nats with all else at {name.replace('_', ' ')}"
    if "random" in row:
        says += f"; as many random nodes or edges kept: {row['random']['low']:.1f} to {row['random']['high']:.1f}"
    passed = None if name == MEASURED else found["mean"] <= limit
    return check(f"sufficient_{name}", passed, found["mean"], limit, says)


def still(target: float) -> float:
    """The loss in nats up to which a task still counts as done: nearer to the target than to chance."""
    return (target + math.log(2)) / 2


def kinds_of_ablation(tested: CircuitUnderTest) -> dict[str, AblationValues]:
    """What the complement is held at, by the name of the ablation; as it was made, at what it was made with."""
    generator = tested.generator("draws")
    n = len(next(iter(tested.samples.values())))
    places = torch.randperm(n, generator=generator)[: tested.config.draws]
    mixed = [mixed_draw(tested.samples, generator) for _ in range(tested.config.draws)]
    return {
        "mean": AblationValues.at_means(tested.circuit.means),
        "zero": AblationValues.at_zero(tested.circuit.means),
        "resample_places": AblationValues.resampled({key: values[places] for key, values in tested.samples.items()}),
        "resample_nodes": AblationValues(Ablation.RESAMPLE, tuple(mixed)),
    } | {made_for(tested): tested.circuit.ablation_values}


def mixed_draw(samples: Mapping[str, Float[Tensor, "draw width"]], generator: torch.Generator) -> Values:
    """One value a node, each from a place of its own."""
    return {
        key: values[torch.randint(len(values), values.shape[1:], generator=generator), torch.arange(values.shape[1])]
        for key, values in samples.items()
    }


def ablated_at(tested: CircuitUnderTest, ablated_to: AblationValues, batch: PairBatch) -> dict[str, Any]:
    """The circuit alone on a batch, with all else held at the values of each draw."""
    ablator = Ablator(tested.model, ablated_to)
    answers = ablator.answers(tested.circuit, Condition.CIRCUIT, batch)
    nothing = ablator.answers(tested.nothing, Condition.CIRCUIT, batch)
    found = tested.faithfulness(margins(answers), margins(nothing), margins(tested.model_answers(batch)))
    return summary(tested, answers) | {"faithfulness": found}


def summary(tested: CircuitUnderTest, draws: Float[Tensor, "draw prompt 2"]) -> dict[str, Any]:
    """Loss with and without the circuit's calibration, over draws and pairs."""
    losses = tested.losses(draws)
    return {
        "loss": tested.estimate(losses),
        "loss_uncalibrated": tested.estimate(tested.losses(draws, UNCALIBRATED)),
        "worst_draw": float(losses.mean(1).max()),
        "n_draws": len(draws),
    }


def with_frozen_norms(tested: CircuitUnderTest, ablated_to: AblationValues) -> dict[str, Any]:
    """The circuit alone, and nothing alone, every norm with the scale that the unpruned model has at the same place."""
    with frozen_norms(tested.model, tested.few):
        circuit, nothing = (
            torch.stack([masked_answers(tested, circuit, draw) for draw in ablated_to.draws])
            for circuit in (tested.circuit, tested.nothing)
        )
    return of_few(tested, circuit, nothing)


def masked_answers(tested: CircuitUnderTest, circuit: Circuit, draw: Values) -> Answers:
    """Answers to the few pairs of the masked model, in one pass over all of them."""
    model, batch = tested.model, tested.few
    masked = Masked(model, circuit.nodes, circuit.edges, draw)
    cuts = sparse_cuts(model, masked.cuts)
    with torch.no_grad():
        logits = model(batch.tokens, at=batch.last, intervene=masked.intervene, cuts=cuts)
    return answer_logits(logits, batch).cpu()


@torch.no_grad()
def resample_examples(tested: CircuitUnderTest) -> dict[str, Any]:
    """All nodes outside as they are in another sequence of the pretraining distribution, at the same positions; another
    one for every prompt and draw."""
    generator, batch = tested.generator("examples"), tested.few
    kept = {key: mask.to(tested.model.device) for key, mask in tested.circuit.node_masks().items()}
    nothing = {key: torch.zeros_like(mask) for key, mask in kept.items()}
    answers = []
    for _ in range(tested.config.draws):
        chosen = torch.randint(len(tested.windows), (len(batch.tokens),), generator=generator)
        sequences = tested.windows[chosen, : batch.tokens.shape[1]].to(tested.model.device)
        values = record(tested.model, sequences)[1]
        answers.append([given_complement(tested, masks, values) for masks in (kept, nothing)])
    circuit, empty = (torch.stack(draws) for draws in zip(*answers, strict=True))
    return of_few(tested, circuit, empty)


def given_complement(
    tested: CircuitUnderTest, masks: Values, values: Mapping[str, Float[Tensor, "prompt pos width"]]
) -> Answers:
    """Answers to the few pairs with values of other sequences in all nodes but the masked ones."""
    batch = tested.few

    def intervene(key: str, x: Tensor) -> Tensor:
        other = values[key] if values[key].shape[1] == x.shape[1] else pick(values[key], batch.last)
        kept: Intervene = mask_nodes(masks, {key: other})
        return kept(key, x)

    return padded_answers(tested.model, batch, intervene)


def of_few(
    tested: CircuitUnderTest, draws: Sequence[Answers] | Tensor, nothing: Float[Tensor, "draw prompt 2"] | None = None
) -> dict[str, Any]:
    """``summary``, and faithfulness on the few pairs; ∅ is the model with all nodes held, unless it is given."""
    answers, empty = torch.stack(list(draws)), tested.nothing_of_few if nothing is None else nothing
    found = tested.faithfulness(margins(answers), margins(empty), margins(tested.model_of_few))
    return summary(tested, answers) | {"faithfulness": found}
