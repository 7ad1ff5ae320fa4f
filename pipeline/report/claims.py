"""What the circuits' checks say of the six claims: of one circuit, and over all circuits, sparse against dense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pipeline.report.averages import middle
from pipeline.report.chips import NOT_TESTED
from pipeline.report.solved import KINDS, SolvedTask
from pipeline.rows import ClaimRow, Claims, ValidationRow


def claim_rows(validation: ValidationRow | None) -> Mapping[str, ClaimRow]:
    """Claim → what a circuit's checks say of it; none for a circuit that was not validated."""
    return validation["verdict"]["claims"] if validation else {}


def claims_of(validation: ValidationRow | None) -> Claims:
    """Claim → its outcome; of a circuit that was not validated, not tested."""
    rows = claim_rows(validation)
    found = {name: rows[name]["outcome"] if name in rows else NOT_TESTED for name in Claims.__annotations__}
    return cast(Claims, found)


def by_claim(circuits: Sequence[SolvedTask]) -> list[dict[str, Any]]:
    """Every claim: ``name``, ``statement``, ``measure``, and per kind of model what is said of its circuits."""
    first = claim_rows(circuits[0][2]["validation"]) if circuits else {}
    return [
        {"name": name, "statement": row["statement"], "measure": row["measure"]}
        | {kind: supported(circuits, kind, name) for kind in KINDS}
        for name, row in first.items()
    ]


def supported(circuits: Sequence[SolvedTask], kind: str, claim: str) -> dict[str, Any]:
    """Of how many circuits of a kind of model a claim was tested, how many support it, and the claim's median
    number."""
    rows = [claim_rows(task["validation"])[claim] for model, _, task in circuits if model["kind"] == kind]
    return {
        "n_tested": sum(row["outcome"] != NOT_TESTED for row in rows),
        "n_supported": sum(row["outcome"] == "supported" for row in rows),
        "median": middle(row["number"] for row in rows),
    }


def counts(circuits: Sequence[SolvedTask], kind: str) -> dict[str, Any]:
    """``n_circuits`` of a kind of model, the median number of claims that they support, and ``n_at_least``: how many
    circuits support at least none, one, … all claims."""
    found = [task["validation"]["verdict"]["n_supported"] for model, _, task in circuits if model["kind"] == kind]
    n_claims = len(Claims.__annotations__)
    return {
        "n_circuits": len(found),
        "median_supported": middle(found),
        "n_at_least": [sum(n >= least for n in found) for least in range(n_claims + 1)],
    }
