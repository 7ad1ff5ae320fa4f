"""One verdict a circuit: validate's, or none."""

from __future__ import annotations

import pytest

from pipeline.ablation import Ablation
from pipeline.report.page import outcome
from pipeline.report.verdicts import verdict

UNTESTED = {"passed": None, "says": "not tested"}


def entry(*tests):
    """A task whose losses alone would say sufficient and necessary, with checks of validate (name, passed)."""
    lines = [{"name": name, "passed": passed, "value": 0.2, "limit": 0.18, "says": name} for name, passed in tests]
    return {
        "n_nodes": 3, "n_edges": 4, "circuit_loss": 0.1,
        "ablated_nodes_loss_interval": [0.9, 1.2], "random_nodes_loss_range": [0.1, 0.8],
        "validation": {"complement": {"tests": lines}, "verdict": {}} if tests else None,
    }  # fmt: skip


def test_each_part_is_what_validates_check_found():
    checks = ("sufficient_mean", True), ("necessary_nodes", False), ("necessary_edges", None)
    assert verdict(entry(*checks), Ablation.MEAN) == {
        "by": "validate",
        "sufficient": {"passed": True, "says": "sufficient_mean"},
        "necessary_nodes": {"passed": False, "says": "necessary_nodes"},
        "necessary_edges": {"passed": None, "says": "necessary_edges"},
    }


def test_a_check_that_validate_lacks_is_not_made_up_from_losses():
    found = verdict(entry(("sufficient_mean", True)), Ablation.MEAN)
    assert found["sufficient"]["passed"] and found["necessary_nodes"] == found["necessary_edges"] == UNTESTED


@pytest.mark.parametrize(
    "untested",
    [None, {"verdict": {"line": "not tested: the circuit is empty"}, "seconds": {}}],
    ids=["no row", "empty"],
)
def test_a_circuit_in_which_nothing_was_tested_has_no_verdict(untested):
    found = verdict(entry() | {"validation": untested}, Ablation.MEAN)
    assert found == {"by": None} | dict.fromkeys(("sufficient", "necessary_nodes", "necessary_edges"), UNTESTED)


@pytest.mark.parametrize(
    ("ablation", "name"), [(Ablation.ZERO, "sufficient_zero"), (Ablation.RESAMPLE, "sufficient_resample_places")]
)
def test_sufficient_is_asked_under_the_ablation_that_circuits_are_made_for(ablation, name):
    assert verdict(entry(("sufficient_mean", True), (name, False)), ablation)["sufficient"]["passed"] is False


def test_signs_tell_what_is_only_measured_from_what_is_not_tested():
    tests = [(True, 1.0), (False, 1.0), (None, 1.0), (None, None)]
    assert [outcome({"passed": passed, "value": value}) for passed, value in tests] == ["✓", "✗", "·", "–"]
