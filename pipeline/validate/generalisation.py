"""Does the circuit still do what its model does on generalisation sets? (§6)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.circuit.conditions import Condition, accuracy
from pipeline.data.pairs import PairBatch
from pipeline.rows import Check
from pipeline.validate.circuit_under_test import UNCALIBRATED, CircuitUnderTest
from pipeline.validate.limits import half_way
from pipeline.validate.verdict import check, untested


def follows(tested: CircuitUnderTest, generalisation: Mapping[str, PairBatch]) -> dict[str, Any]:
    """Family of inputs → ``model`` and ``circuit``: loss in nats (estimates) and accuracy.

    ``generalisation``: family → pairs, of those that the task has: other names, longer contexts, distractors, other
    surroundings, natural code. ``tests``: where the model still does the task, its circuit has to.
    """
    found = {family: one_family(tested, batch) for family, batch in generalisation.items()}
    tests = [check_family(family, row, half_way(tested.target)) for family, row in found.items()]
    return {"families": found, "tests": tests or [untested("generalises", "the task has no second test set")]}


def one_family(tested: CircuitUnderTest, batch: PairBatch) -> dict[str, Any]:
    """Losses of the unpruned model (without calibration) and of the circuit (with its own)."""
    of_model = tested.model_answers(batch)
    of_circuit = tested.ablator.answers(tested.circuit, Condition.CIRCUIT, batch)
    return {
        "model": tested.estimate(tested.losses(of_model, UNCALIBRATED)) | {"accuracy": accuracy(of_model)},
        "circuit": tested.estimate(tested.losses(of_circuit)) | {"accuracy": accuracy(of_circuit)},
    }


def check_family(family: str, row: Mapping[str, Any], limit: float) -> Check:
    """Whether the circuit does what its model does there; not tested where the model does not do the task."""
    model, circuit, inputs = row["model"]["mean"], row["circuit"]["mean"], family.replace("_", " ")
    if model > limit:
        says = f"the model does not do the task on {inputs}: loss {model:.3f} nats"
        return untested(f"generalises_{family}", says, limit)
    says = f"loss {circuit:.3f} nats on {row['circuit']['n']} pairs of {inputs}, the model's is {model:.3f}"
    return check(f"generalises_{family}", circuit <= limit, circuit, limit, says)
