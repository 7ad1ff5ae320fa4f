"""The verdict on a circuit: which tests it passes and which it fails, with the numbers."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.rows import Check, SectionRow, VerdictRow

NOTHING = "not tested: the circuit is empty, the bigram table alone does the task"


def check(name: str, passed: bool | None, value: float | None, limit: float | None, says: str) -> Check:
    """A test's outcome, one line of the verdict. ``passed`` None: with a ``value``, it was only measured, without a
    limit; without one, it was not tested. ``says``: in words, what was found or why it was not tested."""
    return {"name": name, "passed": passed, "value": value, "limit": limit, "says": says}


def untested(name: str, why: str, limit: float | None = None) -> Check:
    """The outcome of a test that this circuit could not be put to."""
    return check(name, None, None, limit, why)


def verdict(sections: Mapping[str, SectionRow]) -> VerdictRow:
    """``n_passed``, ``n_failed``, the names of tests that ``passed``, ``failed``, were only ``measured`` or were
    ``not_tested``, and the ``line``, of all checks in the ``tests`` of all sections."""
    tests: list[Check] = [test for section in sections.values() for test in section.get("tests", ())]
    passed, failed, neither = ([test for test in tests if test["passed"] is outcome] for outcome in (True, False, None))
    return {
        "n_passed": len(passed),
        "n_failed": len(failed),
        "passed": [test["name"] for test in passed],
        "failed": [test["name"] for test in failed],
        "measured": [test["name"] for test in neither if test["value"] is not None],
        "not_tested": [test["name"] for test in neither if test["value"] is None],
        "line": line(passed, failed) if sections else NOTHING,
    }


def line(passed: list[Check], failed: list[Check]) -> str:
    """``passes 9 of 12; fails sufficient_zero (loss 1.292 nats with all else at zero)``."""
    counted = f"passes {len(passed)} of {len(passed) + len(failed)}"
    if not failed:
        return counted
    return f"{counted}; fails " + ", ".join(f"{test['name']} ({test['says']})" for test in failed)
