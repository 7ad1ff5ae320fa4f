"""Does the circuit still follow its model on inputs that tell the task's algorithm from its rivals? (§6)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.circuit.conditions import Condition, accuracy
from pipeline.data.pairs import PairBatch
from pipeline.model.scoring import score
from pipeline.rows import Check
from pipeline.validate.circuit_under_test import UNCALIBRATED, CircuitUnderTest
from pipeline.validate.complement import still
from pipeline.validate.verdict import check


def follows(tested: CircuitUnderTest, generalisation: Mapping[str, PairBatch]) -> dict[str, Any]:
    """Family of inputs → ``model`` and ``circuit``: loss in nats (estimates) and accuracy.

    ``generalisation``: other names, longer contexts, distractors, other surroundings, natural code; the families that
    the task has. ``tests``: where the model still does the task, its circuit has to.
    """
    found = {family: one_family(tested, batch) for family, batch in generalisation.items()}
    tests = [check_family(family, row, still(tested.target)) for family, row in found.items()]
    if not found:
        tests = [check("generalises", None, None, None, "the task has no second test set")]
    return {"families": found, "tests": tests}


def one_family(tested: CircuitUnderTest, batch: PairBatch) -> dict[str, Any]:
    """Losses of the unpruned model (without calibration) and of the circuit (with its own)."""
    of_model = score(tested.model, batch).cpu()
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
        return check(f"generalises_{family}", None, None, limit, says)
    says = f"loss {circuit:.3f} nats on {row['circuit']['n']} pairs of {inputs}, the model's is {model:.3f}"
    return check(f"generalises_{family}", circuit <= limit, circuit, limit, says)
