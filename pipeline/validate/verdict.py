"""The verdict on a circuit: which of six claims its checks support, and its stress tests apart from them."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.rows import Check, SectionRow, VerdictRow
from pipeline.validate.claims import CLAIMS, NOT_SUPPORTED, NOT_TESTED, SUPPORTED, claim_row, place_of

NOTHING = "not tested: the circuit is empty, the bigram table alone does the task"


def check(name: str, passed: bool | None, value: float | None, limit: float | None, says: str) -> Check:
    """A test's outcome. ``passed`` None: with a ``value``, it was only measured, without a limit; without one, it was
    not tested. ``says``: in words, what was found or why it was not tested. The claim that it belongs to follows from
    its name."""
    claim, essential = place_of(name)
    return {
        "name": name, "claim": claim, "essential": essential,
        "passed": passed, "value": value, "limit": limit, "says": says,
    }  # fmt: skip


def untested(name: str, why: str, limit: float | None = None) -> Check:
    """The outcome of a test that this circuit could not be put to."""
    return check(name, None, None, limit, why)


def verdict(sections: Mapping[str, SectionRow]) -> VerdictRow:
    """``claims``, by name; how many are supported and how many tested; the ``line`` that says it. Of all checks in the
    ``tests`` of all sections."""
    checks: list[Check] = [test for section in sections.values() for test in section.get("tests", ())]
    claims = {name: claim_row(name, checks) for name in CLAIMS}
    by_outcome: dict[str, list[str]] = {SUPPORTED: [], NOT_SUPPORTED: [], NOT_TESTED: []}
    for name, row in claims.items():
        by_outcome[row["outcome"]].append(name)
    return {
        "claims": claims,
        "n_supported": len(by_outcome[SUPPORTED]),
        "n_tested": len(claims) - len(by_outcome[NOT_TESTED]),
        "line": line(by_outcome) if sections else NOTHING,
    }


def line(by_outcome: Mapping[str, list[str]]) -> str:
    """``supports 4 of 6 claims; not supported: mechanism; 1 not tested``."""
    said = f"supports {len(by_outcome[SUPPORTED])} of {len(CLAIMS)} claims"
    if refuted := by_outcome[NOT_SUPPORTED]:
        said += f"; not supported: {', '.join(name.replace('_', ' ') for name in refuted)}"
    return said + (f"; {len(by_outcome[NOT_TESTED])} not tested" if by_outcome[NOT_TESTED] else "")
