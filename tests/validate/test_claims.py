"""Six claims: which checks decide them, and the line that says how many are supported."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.rows import Claims
from pipeline.validate.claims import CLAIMS, STRESS, among, claim_row, place_of
from pipeline.validate.verdict import check, untested, verdict

STRESS_TESTS = (
    "sufficient_zero", "sufficient_resample_places", "sufficient_resample_nodes", "sufficient_resample_examples",
    "sufficient_random_subset", "sufficient_random_edges", "sufficient_adversarial_subset",
    "sufficient_adversarial_edges", "sufficient_mean_frozen_norms", "sufficient_zero_frozen_norms", "binarisation",
)  # fmt: skip
PAGE = Path(__file__).parents[2] / "docs" / "validation.md"


def passed(name: str, value: float = 1.0):
    return check(name, True, value, 2.0, f"{name} is well")


def failed(name: str, value: float = 3.0):
    return check(name, False, value, 2.0, f"{name} is not")


def test_the_six_are_those_of_the_rows():
    assert tuple(CLAIMS) == tuple(Claims.__annotations__)


@pytest.mark.parametrize("name", STRESS_TESTS)
def test_a_stress_test_decides_no_claim(name):
    assert place_of(name) == (STRESS, False)


def test_a_check_belongs_to_one_claim_at_most():
    patterns = [pattern for claim in CLAIMS.values() for pattern in (*claim.essential, *claim.extra)]
    assert all(sum(among(name, [pattern]) for pattern in patterns) == 1 for name in patterns)
    assert place_of("generalises_natural") == ("elsewhere", True) and place_of("stable") == ("not_artefact", False)


@pytest.mark.parametrize(
    ("checks", "outcome", "number", "said"),
    [
        ([passed("necessary_nodes"), passed("necessary_edges", 0.7)], "supported", 0.7, "necessary_edges is well"),
        ([passed("necessary_nodes"), failed("necessary_edges", 0.4)], "not supported", 0.4, "necessary_edges is not"),
        (
            [passed("necessary_nodes"), untested("necessary_edges", "no edges")],
            "supported",
            None,
            "necessary_nodes is well",
        ),
        ([passed("minimality"), failed("independence")], "supported", None, "minimality is well"),  # an extra check
        ([untested("necessary_nodes", "none"), untested("necessary_edges", "no")], "not tested", None, "no"),
        ([failed("sufficient_zero")], "not tested", None, "none of its checks was made"),  # a stress test
        ([], "not tested", None, "none of its checks was made"),
    ],
)
def test_a_claim_is_supported_where_all_essential_checks_that_were_made_are_passed(checks, outcome, number, said):
    row = claim_row("needed", checks)
    assert (row["outcome"], row["number"], row["says"]) == (outcome, number, said)


def test_the_number_of_elsewhere_is_the_share_of_test_sets_that_are_followed():
    checks = [passed("generalises_names"), failed("generalises_longer"), untested("generalises_natural", "hard")]
    row = claim_row("elsewhere", [*checks, failed("prediction")])
    assert (row["outcome"], row["number"], row["says"]) == ("not supported", 0.5, "generalises_longer is not")


def test_the_line_counts_what_is_supported_and_names_what_is_not():
    good = {"tests": [passed("sufficient_mean", 0.1), untested("control_nonsense", "no")]}
    bad = {"tests": [failed("necessary_nodes"), failed("attention"), failed("sufficient_zero")]}
    found = verdict({"one": good, "two": bad, "three": {}})
    assert found["line"] == "supports 1 of 6 claims; not supported: needed, mechanism; 3 not tested"
    assert (found["n_supported"], found["n_tested"]) == (1, 3)
    assert found["claims"]["alone"]["number"] == 0.1
    artefact = verdict({"one": {"tests": [failed("control_nonsense")]}})["line"]
    assert artefact == "supports 0 of 6 claims; not supported: not artefact; 5 not tested"
    every = [passed(claim.essential[0].replace("*", "x")) for claim in CLAIMS.values()]
    assert verdict({"all": {"tests": every}})["line"] == "supports 6 of 6 claims"


def test_nothing_is_claimed_of_an_empty_circuit():
    found = verdict({})
    assert found["line"].startswith("not tested: the circuit is empty") and found["n_tested"] == 0


def test_the_documentation_has_every_claim_with_its_checks():
    rows = {
        line.split("|")[1].strip(" *`"): line for line in PAGE.read_text(encoding="utf-8").splitlines() if "|" in line
    }
    for name, claim in CLAIMS.items():
        named = [pattern.removesuffix("_*") for pattern in (*claim.essential, *claim.extra)]
        assert all(f"`{check}" in rows[name] for check in named), name
