"""The table of claims that the stage report leaves in Prefect: of solved tasks, about the deciding circuit."""

from __future__ import annotations

from typing import Any, cast

from flows.report import claims_table
from pipeline.rows import Summary

CLAIMS = {"alone": "supported", "decides": "not supported"}


def task(solved: bool, deciding: dict[str, Any] | None, claims: dict[str, str] | None) -> dict[str, Any]:
    return {"solved": solved, "n_edges": 7, "circuits": {"deciding": deciding}, "claims": claims}


def test_every_circuit_of_a_solved_task_has_a_row_with_its_claims_as_signs() -> None:
    tasks = {
        "quotes": task(True, {"n_edges": 30}, CLAIMS),
        "lists": task(True, None, None),
        "with_as": task(False, None, None),
    }
    first, second = claims_table(cast(Summary, {"models": [{"name": "m", "tasks": tasks}]}))
    assert list(first.values()) == ["quotes", "m", 7, 30, "✓", "✗", "–", "–", "–", "–"]
    assert list(second.values()) == ["lists", "m", 7, None, *"––––––"]
    assert first.keys() == second.keys() and list(first)[4:] == [
        "alone", "decides", "needed", "mechanism", "elsewhere", "not artefact",
    ]  # fmt: skip
