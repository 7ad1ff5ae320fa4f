"""Controls on the method itself: does it find circuits where there is nothing to be found? (METHOD §6)

The same search, discretisation and calibration on models without the algorithm and on labels without meaning. What a
reader needs is the ratio of sizes to the true task's, found by the same steps in the same run.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.config import PruneConfig
from pipeline.data.pairs import PairBatch
from pipeline.model.held_at import Held
from pipeline.model.initial import new_model
from pipeline.model.means import node_means
from pipeline.model.transformer import Transformer
from pipeline.prune.prune import make_case
from pipeline.seeds import seed_of
from pipeline.validate.claim import Claim, check
from pipeline.validate.searching import by_tuner

NEVER = 0.1  # of the vocabulary, the least likely tokens, count as those that never follow
Batches = Mapping[str, PairBatch]


def controls(claim: Claim, prune: PruneConfig) -> dict[str, Any]:
    """Control → the circuit that the method finds: ``met``, sizes, losses; and ``ratio_edges`` to the true task's.

    Where none meets the target (``met`` false), the one of least loss that was seen, and no ratio.

    ``true``; ``random_weights``, the model as it was initialised, with the trained model's pattern of zeros;
    ``shuffled_weights``, each matrix's nonzero weights in another order; ``shuffled_labels``, right and wrong answer
    swapped in random pairs; ``nonsense``, two tokens as answers that never follow. ``tests``: the true task's circuit
    has to be smaller than any that a control finds.
    """
    seed, batches = seed_of(claim.seed, "controls"), claim.batches
    found = {
        "true": one_control(claim, claim.model, batches, prune),
        "random_weights": one_control(claim, random_weights(claim.model, seed), batches, prune),
        "shuffled_weights": one_control(claim, shuffled_weights(claim.model, seed), batches, prune),
        "shuffled_labels": one_control(claim, claim.model, shuffled_labels(batches, seed), prune),
        "nonsense": one_control(claim, claim.model, nonsense(claim, seed), prune),
    }
    true = found["true"]["n_edges"]
    for row in found.values():
        row["ratio_edges"] = row["n_edges"] / max(1, true) if row["met"] else None
    return found | {"tests": [verdict(name, row, true) for name, row in found.items() if name != "true"]}


def verdict(name: str, row: Mapping[str, Any], true: int) -> dict[str, Any]:
    """Whether the method finds nothing under a control, or nothing as small."""
    said = f"{row['n_edges']} edges at loss {row['validation_loss']:.3f} nats, the true task {true}"
    met = "meets" if row["met"] else "does not meet"
    passed = not row["met"] or row["n_edges"] > true
    return check(f"control_{name}", passed, float(row["n_edges"]), float(true), f"{met} the target: {said}")


def one_control(claim: Claim, model: Transformer, batches: Batches, prune: PruneConfig) -> dict[str, Any]:
    """What the method finds in a model for the pairs, all else held at that model's means."""
    held = claim.circuit.outside if model is claim.model else Held.at_means(means_of(model, claim.windows))
    case = make_case(model, held, batches, prune, claim.seed)
    return by_tuner(case).row(case, batches["test"])


def means_of(model: Transformer, windows: Int[Tensor, "window pos"]) -> dict[str, Tensor]:
    """Each node's mean over windows of the pretraining distribution."""
    return {key: mean.to(model.device) for key, mean in node_means(model, [windows]).items()}


@torch.no_grad()
def random_weights(model: Transformer, seed: int) -> Transformer:
    """The model as initialised, but for its zeros and its bigram table, which are the trained model's."""
    drawn = new_model(model.config, model.vocab_size, seed, bigram=None).to(model.device)
    for (name, parameter), trained in zip(drawn.named_parameters(), model.parameters(), strict=True):
        parameter.copy_(trained if name == "bigram_table" else parameter * (trained != 0))
    return drawn.requires_grad_(False).eval()


@torch.no_grad()
def shuffled_weights(model: Transformer, seed: int) -> Transformer:
    """The nonzero weights of every matrix but the bigram table in another order, at the same places."""
    generator, shuffled = torch.Generator().manual_seed(seed), copy.deepcopy(model)
    shuffled.checkpoint = None
    for name, parameter in shuffled.named_parameters():
        if parameter.ndim == 2 and name != "bigram_table":
            values = parameter[parameter != 0]
            parameter[parameter != 0] = values[torch.randperm(len(values), generator=generator).to(values.device)]
    return shuffled


def shuffled_labels(batches: Batches, seed: int) -> dict[str, PairBatch]:
    """The same prompts; in a random half of the pairs, each prompt's right answer is the wrong one."""
    found = {}
    for split, batch in batches.items():
        generator = torch.Generator().manual_seed(seed_of(seed, "labels", split))
        swap = (torch.rand(batch.n_pairs, generator=generator) < 0.5).repeat_interleave(2).to(batch.answers.device)
        found[split] = PairBatch(
            batch.tokens, batch.last, torch.where(swap[:, None], batch.answers.flip(1), batch.answers)
        )
    return found


def nonsense(claim: Claim, seed: int) -> dict[str, PairBatch]:
    """The same prompts; one token is right after every first side, another after every second, and neither follows."""
    first, second = never_follow(claim.model, claim.batches["train"], seed)
    one = torch.tensor([[first, second], [second, first]], device=claim.model.device)
    return {
        split: PairBatch(batch.tokens, batch.last, one.repeat(batch.n_pairs, 1))
        for split, batch in claim.batches.items()
    }


@torch.no_grad()
def never_follow(model: Transformer, batch: PairBatch, seed: int) -> tuple[int, int]:
    """Two of the tokens that the model thinks least likely after any prompt."""
    likely = model(batch.tokens, at=batch.last).softmax(-1).amax(0).cpu()
    least = likely.argsort(stable=True)[: max(2, int(NEVER * len(likely)))]
    picked = least[torch.randperm(len(least), generator=torch.Generator().manual_seed(seed))[:2]]
    return int(picked[0]), int(picked[1])
