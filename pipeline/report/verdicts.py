"""Is a circuit sufficient, is it necessary: the outcomes that stand beside its losses, by the checks of validate.

A circuit that was not validated, or an empty one, in which there is nothing to test, has none.
"""

from __future__ import annotations

from typing import Any

from pipeline.ablation import Ablation
from pipeline.report.validation import checks_of
from pipeline.rows import Check, TaskSummary


def verdict(task: TaskSummary, ablation: Ablation) -> dict[str, Any]:
    """``sufficient`` (under the ablation that the circuit was made for), ``necessary_nodes`` and ``necessary_edges``,
    each with ``passed`` (None: not tested) and ``says``, a sentence; ``by``: "validate", None where nothing was tested.
    """
    lines = {line["name"]: line for line in checks_of(task["validation"])}
    names = {"sufficient": f"sufficient_{ablation.as_tested}"}
    names |= {f"necessary_{parts}": f"necessary_{parts}" for parts in ("nodes", "edges")}
    return {"by": "validate" if lines else None} | {what: said(lines.get(name)) for what, name in names.items()}


def said(line: Check | None) -> dict[str, Any]:
    """A check's outcome and sentence."""
    return {"passed": line and line["passed"], "says": line["says"] if line else "not tested"}
