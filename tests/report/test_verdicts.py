"""One verdict a circuit: validate's where there is one, ablate's elsewhere."""

from __future__ import annotations

import pytest

from pipeline.config import Ablation
from pipeline.report.page import outcome
from pipeline.report.verdicts import CircuitTarget, verdict

TARGET = CircuitTarget(0.15, 0.03, Ablation.MEAN)
BY_ABLATE = {"sufficient": True, "necessary_nodes": True, "necessary_edges": False}


def entry(*tests, **changes):
    """A task whose losses say BY_ABLATE, with checks of validate (name, passed), or without validation."""
    lines = [{"name": name, "passed": passed, "value": 0.2, "limit": 0.18, "says": name} for name, passed in tests]
    return {
        "n_nodes": 3, "n_edges": 4, "circuit_loss": 0.15 + 0.03,
        "ablated_nodes_loss_interval": [0.9, 1.2], "random_nodes_loss_range": [0.1, 0.8],
        "ablated_edges_loss_interval": [0.7, 1.2], "random_edges_loss_range": [0.1, 0.8],
        "validation": {"complement": {"tests": lines}, "verdict": {}} if tests else None,
    } | changes  # fmt: skip


def passed(found):
    return {name: line["passed"] for name, line in found.items() if name != "by"}


def test_without_validation_losses_are_compared_with_the_most_allowed_and_the_worst_random_set():
    found = verdict(entry(), TARGET)
    assert found["by"] == "ablate" and passed(found) == BY_ABLATE
    assert verdict(entry(circuit_loss=0.181), TARGET)["sufficient"]["passed"] is False
    assert verdict(entry(random_nodes_loss_range=None), TARGET)["necessary_nodes"]["passed"] is None
    assert verdict(entry(circuit_loss=None), TARGET)["by"] is None


def test_validate_overrules_what_the_losses_say():
    checks = ("sufficient_mean", False), ("necessary_nodes", False), ("necessary_edges", True)
    found = verdict(entry(*checks), TARGET)
    assert passed(found) == {name: not outcome for name, outcome in BY_ABLATE.items()}
    assert found["by"] == "validate" and found["sufficient"]["says"] == "sufficient_mean"


def test_a_check_that_validate_lacks_is_not_made_up_from_losses():
    found = verdict(entry(("sufficient_mean", True)), TARGET)
    assert passed(found) == {"sufficient": True, "necessary_nodes": None, "necessary_edges": None}


@pytest.mark.parametrize(
    ("ablation", "name"), [(Ablation.ZERO, "sufficient_zero"), (Ablation.RESAMPLE, "sufficient_resample_places")]
)
def test_sufficient_is_asked_under_the_ablation_that_circuits_are_made_for(ablation, name):
    found = verdict(entry(("sufficient_mean", True), (name, False)), CircuitTarget(0.15, 0.03, ablation))
    assert found["sufficient"]["passed"] is False


def test_an_empty_circuit_has_nothing_to_remove():
    untested = {"verdict": {"line": "not tested: empty"}, "seconds": {}}
    found = verdict(entry(n_nodes=0, n_edges=0, validation=untested), TARGET)
    assert passed(found) == {"sufficient": True, "necessary_nodes": None, "necessary_edges": None}
    assert found["necessary_nodes"]["says"] == "no nodes to remove"


def test_signs_tell_what_is_only_measured_from_what_is_not_tested():
    tests = [(True, 1.0), (False, 1.0), (None, 1.0), (None, None)]
    assert [outcome({"passed": passed, "value": value}) for passed, value in tests] == ["✓", "✗", "·", "–"]
