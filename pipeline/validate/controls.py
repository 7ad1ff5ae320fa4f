"""Controls on the method itself: does it find circuits where there is nothing to be found? (§6)

The same search, discretisation and calibration on models without the algorithm and on labels without meaning. The
number to look at is the ratio of sizes to the true task's, found by the same steps in the same run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from pipeline.config import PruneConfig
from pipeline.data.pairs import PairBatch
from pipeline.model.initial import new_model
from pipeline.model.transformer import Transformer
from pipeline.rows import Check
from pipeline.seeds import seed_of
from pipeline.validate.circuit_under_test import CircuitUnderTest, PairsBySplit
from pipeline.validate.searching import one_trial, problem_of
from pipeline.validate.sections import SectionWork
from pipeline.validate.verdict import check, untested

Control = Callable[[], tuple[Transformer, PairsBySplit]]
LEAST_LIKELY = 0.1  # of the vocabulary, the least likely tokens, count as those that never follow


def controls(tested: CircuitUnderTest, prune: PruneConfig) -> SectionWork:
    """Control → the circuit that the method finds: ``met``, sizes, losses; and ``ratio_edges`` to the true task's.

    Where none meets the target (``met`` false), the one of least loss that was seen, and no ratio.

    ``true``; ``random_weights``, the model as it was initialised, with the trained model's pattern of zeros;
    ``shuffled_weights``, each matrix's nonzero weights in another order; ``shuffled_labels``, right and wrong answer
    swapped in half of the pairs: met, where masks can learn the labels of the train pairs by heart; ``nonsense``, two
    tokens as answers that never follow. ``tests``: the true task's circuit has to be smaller than any that a control
    finds; not tested, where the true task has none.

    n = 1: each is one draw of a model or of labels and one trial of the search, with the hyperparameters of the first
    centre, for the true task too: nothing is tuned for any of the five. A piece of work for each control.
    """
    model, batches, seed = tested.model, tested.batches, seed_of(tested.seed, "controls")
    made: dict[str, Control] = {
        "true": lambda: (model, batches),
        "random_weights": lambda: (random_weights(model, seed), batches),
        "shuffled_weights": lambda: (shuffled_weights(model, seed), batches),
        "shuffled_labels": lambda: (model, shuffled_labels(batches, seed)),
        "nonsense": lambda: (model, nonsense(tested, seed)),
    }
    pieces = [partial(control_found, tested, control, prune, seed) for control in made.values()]
    return SectionWork(pieces, lambda rows: compared(dict(zip(made, rows, strict=True))))


def compared(found: dict[str, Any]) -> dict[str, Any]:
    """The rows of all controls with ``ratio_edges``, and the checks."""
    true = found["true"]
    for row in found.values():
        row["ratio_edges"] = row["n_edges"] / max(1, true["n_edges"]) if row["met"] and true["met"] else None
    return found | {"tests": [check_control(name, row, true) for name, row in found.items() if name != "true"]}


def check_control(name: str, row: Mapping[str, Any], true: Mapping[str, Any]) -> Check:
    """Whether the method finds nothing under a control, or nothing as small."""
    if not true["met"]:
        why = f"by the same trial the true task's circuit misses the target too, at loss {true['validation_loss']:.3f}"
        return untested(f"control_{name}", why)
    said = f"{row['n_edges']} edges at loss {row['validation_loss']:.3f} nats, the true task {true['n_edges']}"
    met = "meets" if row["met"] else "does not meet"
    passed = not row["met"] or row["n_edges"] > true["n_edges"]
    return check(
        f"control_{name}", passed, float(row["n_edges"]), float(true["n_edges"]), f"{met} the target: {said}; one seed"
    )


def control_found(tested: CircuitUnderTest, control: Control, prune: PruneConfig, seed: int) -> dict[str, Any]:
    """The row of the circuit that one trial of the first centre finds in a control's model for its pairs."""
    model, batches = control()
    problem = problem_of(tested, model, batches, prune, seed)
    found = one_trial(problem, prune.centres[0], "control")
    return found.row(tested, problem, batches["test"]) | {"seed": seed}


@torch.no_grad()
def random_weights(model: Transformer, seed: int) -> Transformer:
    """The model as initialised, but for its zeros and its bigram table, which are the trained model's."""
    drawn = new_model(model.config, model.vocab_size, seed, bigram=None).to(model.device)
    for (name, parameter), trained in zip(drawn.named_parameters(), model.parameters(), strict=True):
        parameter.copy_(trained if name == "bigram_table" else parameter * (trained != 0))
    return drawn.freeze()


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


def shuffled_labels(batches: PairsBySplit, seed: int) -> dict[str, PairBatch]:
    """The same prompts; in a random half of the pairs, each prompt's right answer is the wrong one.

    The train pairs are the validation pairs too. No labels of other pairs follow from theirs, so that by other pairs no
    circuit would be found even where the search had learnt the labels by heart.
    """
    train, test = (half_swapped(batches[split], seed_of(seed, "labels", split)) for split in ("train", "test"))
    return {"train": train, "validation": train, "test": test}


def half_swapped(batch: PairBatch, seed: int) -> PairBatch:
    """Right and wrong answer swapped in both prompts of a random half of the pairs, rounded up."""
    chosen = torch.randperm(batch.n_pairs, generator=torch.Generator().manual_seed(seed)) < (batch.n_pairs + 1) // 2
    swap = chosen.repeat_interleave(2).to(batch.answers.device)
    return PairBatch(batch.tokens, batch.last, torch.where(swap[:, None], batch.answers.flip(1), batch.answers))


def nonsense(tested: CircuitUnderTest, seed: int) -> dict[str, PairBatch]:
    """The same prompts; one token is right after every first side, another after every second, and neither follows."""
    first, second = never_follow(tested.model, tested.batches["train"], seed)
    one = torch.tensor([[first, second], [second, first]], device=tested.model.device)
    return {
        split: PairBatch(batch.tokens, batch.last, one.repeat(batch.n_pairs, 1))
        for split, batch in tested.batches.items()
    }


@torch.no_grad()
def never_follow(model: Transformer, batch: PairBatch, seed: int) -> tuple[int, int]:
    """Two of the tokens that the model thinks least likely after any prompt."""
    likely = model(batch.tokens, at=batch.last).softmax(-1).amax(0).cpu()
    least = likely.argsort(stable=True)[: max(2, int(LEAST_LIKELY * len(likely)))]
    picked = least[torch.randperm(len(least), generator=torch.Generator().manual_seed(seed))[:2]]
    return int(picked[0]), int(picked[1])
