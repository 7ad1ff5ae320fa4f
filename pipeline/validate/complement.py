"""Sufficiency against more than the mean: what is outside the circuit at other values, or partly alive (METHOD §6).

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

from pipeline.ablate.conditions import Condition, Runner
from pipeline.circuit import Circuit
from pipeline.config import Ablation
from pipeline.data.pairs import PairBatch, answer_logits
from pipeline.model.ablation import hold_at_means
from pipeline.model.held_at import Held, Values
from pipeline.model.masked import Masked
from pipeline.model.prompts import pick
from pipeline.model.transformer import Intervene
from pipeline.validate.claim import MARGIN, UNCALIBRATED, Answers, Claim, check, margins
from pipeline.validate.norms import frozen_norms
from pipeline.validate.runs import few_edges, padded_answers, watched
from pipeline.validate.subsets import subsets

FROZEN = "frozen_norms"
# Of single edges, an adversary can leave alive one side only of what cancels outside the circuit: circuits that are
# known to be true fail. So it is measured, and nothing is asked.
MEASURED = "adversarial_edges"


def complement(claim: Claim) -> dict[str, Any]:
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
    for name, held in kinds_of_held(claim).items():
        found[name] = held_at(claim, held, claim.batches["test"] if name == made_for(claim) else claim.test)
        found[f"{name}_{FROZEN}"] = with_frozen_norms(claim, held)
    found["resample_examples"] = resample_examples(claim)
    found |= {name: of_few(claim, answers) | more for name, (answers, more) in subsets(claim).items()}
    return found | {"tests": [verdict(claim, name, row) for name, row in found.items() if asked_for(claim, name)]}


def made_for(claim: Claim) -> str:
    return claim.circuit.outside.kind.as_tested


def asked_for(claim: Claim, name: str) -> bool:
    return not name.endswith(FROZEN) or name == f"{made_for(claim)}_{FROZEN}"


def verdict(claim: Claim, name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the circuit still does the task: within MARGIN of its target, as it was made; otherwise nearer to the
    target than to chance. Of MEASURED nothing is asked."""
    found, limit = row["loss"], claim.target + MARGIN if name == made_for(claim) else still(claim.target)
    says = f"loss {found['mean']:.3f} nats with all else at {name.replace('_', ' ')}"
    if "random" in row:
        says += f"; as many random nodes or edges kept: {row['random']['low']:.1f} to {row['random']['high']:.1f}"
    passed = None if name == MEASURED else found["mean"] <= limit
    return check(f"sufficient_{name}", passed, found["mean"], limit, says)


def still(target: float) -> float:
    """The loss in nats up to which a task still counts as done: nearer to the target than to chance."""
    return (target + math.log(2)) / 2


def kinds_of_held(claim: Claim) -> dict[str, Held]:
    """What the complement is held at, by the name of the ablation; as it was made, at what it was made with."""
    generator = claim.generator("draws")
    n = len(next(iter(claim.samples.values())))
    places = torch.randperm(n, generator=generator)[: claim.config.draws]
    mixed = [mixed_draw(claim.samples, generator) for _ in range(claim.config.draws)]
    return {
        "mean": Held.at_means(claim.circuit.means),
        "zero": Held.at_zero(claim.circuit.means),
        "resample_places": Held.resampled({key: values[places] for key, values in claim.samples.items()}),
        "resample_nodes": Held(Ablation.RESAMPLE, tuple(mixed)),
    } | {made_for(claim): claim.circuit.outside}


def mixed_draw(samples: Mapping[str, Float[Tensor, "draw width"]], generator: torch.Generator) -> Values:
    """One value a node, each from a place of its own."""
    return {
        key: values[torch.randint(len(values), values.shape[1:], generator=generator), torch.arange(values.shape[1])]
        for key, values in samples.items()
    }


def held_at(claim: Claim, held: Held, batch: PairBatch) -> dict[str, Any]:
    """The circuit alone on a batch, with all else held at the values of each draw."""
    runner = Runner(claim.model, held)
    answers = runner.answers(claim.circuit, Condition.CIRCUIT, batch)
    nothing = runner.answers(claim.nothing, Condition.CIRCUIT, batch)
    found = claim.faithfulness(margins(answers), margins(nothing), margins(claim.model_answers(batch)))
    return summary(claim, answers) | {"faithfulness": found}


def summary(claim: Claim, draws: Float[Tensor, "draw prompt 2"]) -> dict[str, Any]:
    """Loss with and without the circuit's calibration, over draws and pairs."""
    losses = claim.losses(draws)
    return {
        "loss": claim.estimate(losses),
        "loss_uncalibrated": claim.estimate(claim.losses(draws, UNCALIBRATED)),
        "worst_draw": float(losses.mean(1).max()),
        "n_draws": len(draws),
    }


def with_frozen_norms(claim: Claim, held: Held) -> dict[str, Any]:
    """The circuit alone, and nothing alone, every norm with the scale that the unpruned model has at the same place."""
    with frozen_norms(claim.model, claim.few):
        circuit, nothing = (
            torch.stack([masked_answers(claim, circuit, draw) for draw in held.draws])
            for circuit in (claim.circuit, claim.nothing)
        )
    return of_few(claim, circuit, nothing)


def masked_answers(claim: Claim, circuit: Circuit, draw: Values) -> Answers:
    """Answers to the few pairs of the masked model, in one pass over all of them."""
    model, batch = claim.model, claim.few
    masked = Masked(model, circuit.nodes, circuit.edges, draw)
    cuts = few_edges(model, masked.cuts)
    with torch.no_grad():
        logits = model(batch.tokens, at=batch.last, intervene=masked.intervene, cuts=cuts)
    return answer_logits(logits, batch).cpu()


@torch.no_grad()
def resample_examples(claim: Claim) -> dict[str, Any]:
    """All nodes outside as they are in another sequence of the pretraining distribution, at the same positions; another
    one for every prompt and draw."""
    generator, batch = claim.generator("examples"), claim.few
    kept = {key: mask.to(claim.model.device) for key, mask in claim.circuit.node_masks().items()}
    nothing = {key: torch.zeros_like(mask) for key, mask in kept.items()}
    answers = []
    for _ in range(claim.config.draws):
        chosen = torch.randint(len(claim.windows), (len(batch.tokens),), generator=generator)
        sequences = claim.windows[chosen, : batch.tokens.shape[1]].to(claim.model.device)
        values = watched(claim.model, sequences, cuts=claim.whole)[1]
        answers.append([given_outside(claim, masks, values) for masks in (kept, nothing)])
    circuit, empty = (torch.stack(draws) for draws in zip(*answers, strict=True))
    return of_few(claim, circuit, empty)


def given_outside(claim: Claim, masks: Values, values: Mapping[str, Float[Tensor, "prompt pos width"]]) -> Answers:
    """Answers to the few pairs with values of other sequences in all nodes but the masked ones."""
    batch = claim.few

    def intervene(key: str, x: Tensor) -> Tensor:
        other = values[key] if values[key].shape[1] == x.shape[1] else pick(values[key], batch.last)
        kept: Intervene = hold_at_means(masks, {key: other})
        return kept(key, x)

    return padded_answers(claim.model, batch, intervene, claim.whole)


def of_few(
    claim: Claim, draws: Sequence[Answers] | Tensor, nothing: Float[Tensor, "draw prompt 2"] | None = None
) -> dict[str, Any]:
    """``summary``, and faithfulness on the few pairs; ∅ is the model with all nodes held, unless it is given."""
    answers, empty = torch.stack(list(draws)), claim.nothing_of_few if nothing is None else nothing
    found = claim.faithfulness(margins(answers), margins(empty), margins(claim.model_of_few))
    return summary(claim, answers) | {"faithfulness": found}
