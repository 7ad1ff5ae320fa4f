"""Does the circuit still do what its model does on generalisation sets? (§6)

The question is the one of the claim *alone*, with all else at its mean, on other inputs. A circuit that was made to
hold before the pair's other prompt is asked for that there too, which decides no claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.ablation import Ablation
from pipeline.circuit.conditions import Ablator, Condition, accuracy
from pipeline.data.pairs import PairBatch
from pipeline.model.scoring import calibrated
from pipeline.rows import Check
from pipeline.validate.circuit_under_test import UNCALIBRATED, CircuitUnderTest
from pipeline.validate.limits import half_way
from pipeline.validate.verdict import check, untested


def follows(tested: CircuitUnderTest, generalisation: Mapping[str, PairBatch]) -> dict[str, Any]:
    """Family of inputs → ``model`` and ``circuit``: loss in nats (estimates) and accuracy; of a circuit made for
    counterfactual ablation, ``counterfactual``: the same of the circuit before the pair's other prompt.

    ``generalisation``: family → pairs, of those that the task has: other names, longer contexts, distractors, other
    surroundings, natural code. ``tests``: where the model still does the task, its circuit has to.
    """
    found = {family: one_family(tested, batch) for family, batch in generalisation.items()}
    ways = {"generalises": "circuit", "decides_on": "counterfactual"}
    tests = [
        check_family(name, family, row["model"]["mean"], row[way], half_way(tested.target))
        for name, way in ways.items()
        for family, row in found.items()
        if way in row
    ]
    return {"families": found, "tests": tests or [untested("generalises", "the task has no second test set")]}


def one_family(tested: CircuitUnderTest, batch: PairBatch) -> dict[str, Any]:
    """Losses of the unpruned model (without calibration) and of the circuit (with its own)."""
    of_model, circuit = tested.model_answers(batch), tested.circuit
    rows = {"model": tested.estimate(tested.losses(of_model, UNCALIBRATED)) | {"accuracy": accuracy(of_model)}}
    ways = {"circuit": circuit.constant_ablation}
    ways |= {one.kind.value: one for one in circuit.all_ablations if one.kind is Ablation.COUNTERFACTUAL}
    for way, ablated_to in ways.items():
        answers = Ablator(tested.model, ablated_to).answers(circuit, Condition.CIRCUIT, batch)
        right = accuracy(calibrated(answers, circuit.calibration))
        rows[way] = tested.estimate(tested.losses(answers)) | {"accuracy": right}
    return rows


def check_family(name: str, family: str, model: float, of_circuit: Mapping[str, Any], limit: float) -> Check:
    """Whether the circuit does what its model, with a loss of ``model`` nats, does on a family; not tested where the
    model does not do the task."""
    name, inputs, circuit = f"{name}_{family}", family.replace("_", " "), of_circuit["mean"]
    if model > limit:
        return untested(name, f"the model does not do the task on {inputs}: loss {model:.3f} nats", limit)
    says = f"loss {circuit:.3f} nats on {of_circuit['n']} pairs of {inputs}, the model's is {model:.3f}"
    return check(name, circuit <= limit, circuit, limit, says)
