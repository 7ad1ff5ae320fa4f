"""The report's counts of validation: every test over all circuits, sparse against dense, and every control."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.report.solved import solved_tasks
from pipeline.report.spread import middle, spread
from pipeline.rows import Check, ModelSummary, TaskSummary, ValidationRow

KINDS = ("sparse", "dense")
MOST_ITEMS = 6  # of a list in the summary; longer ones (a point a size, a row a node) are in validations/ only

Validated = tuple[ModelSummary, str, TaskSummary]  # model, task, its entry


def brief(value: Any) -> Any:
    """A row of validations/<model>.json without its curves and long lists; tests and verdicts are kept whole."""
    if isinstance(value, Mapping):
        whole = ("tests", "verdict")
        return {
            key: part if key in whole else brief(part)
            for key, part in value.items()
            if key in whole or not is_long(part)
        }
    return [brief(part) for part in value] if isinstance(value, list) else value


def is_long(part: Any) -> bool:
    return isinstance(part, list) and len(part) > MOST_ITEMS


def lines_of(validation: ValidationRow | None) -> list[Check]:
    """Every line of a circuit's verdict, in the order of the sections."""
    sections = (validation or {}).values()
    return [test for section in sections if isinstance(section, Mapping) for test in section.get("tests", ())]


def check_of(validation: ValidationRow | None, name: str) -> Check | None:
    """One line of a circuit's verdict, None where that test was not taken."""
    return next((test for test in lines_of(validation) if test["name"] == name), None)


def validated(models: Sequence[ModelSummary]) -> list[Validated]:
    """(model, task, its entry) of every circuit of a solved task that was validated; without empty ones, of tasks that
    the bigram table does, since their tests would test nothing."""
    return [
        (model, name, task)
        for model in models
        for name, task in solved_tasks(model["tasks"]).items()
        if task["n_nodes"] and task["validation"] is not None
    ]


def summarise_validation(models: Sequence[ModelSummary]) -> dict[str, Any]:
    """``by_test``: test → per kind of model how many circuits were tested and pass; ``controls``: a row of each;
    ``n_circuits``, ``n_whole`` (pass every test), ``median_failed``, per kind."""
    circuits = validated(models)
    names = dict.fromkeys(test["name"] for _, _, task in circuits for test in lines_of(task["validation"]))
    return {
        "by_test": [{"name": name} | {kind: outcomes(circuits, kind, name) for kind in KINDS} for name in names],
        "circuits": {kind: counts(task for model, _, task in circuits if model["kind"] == kind) for kind in KINDS},
        "controls": [
            {"model": model["name"], "task": name, "kind": model["kind"], "control": control} | dict(row)
            for model, name, task in circuits
            for control, row in (task["validation"].get("controls") or {}).items()
            if control != "tests"
        ],
    }


def outcomes(circuits: Iterable[Validated], kind: str, name: str) -> dict[str, Any]:
    """How many circuits of a kind of model took a test, how many pass, how many were only measured, and the median
    value."""
    found = [check_of(task["validation"], name) for model, _, task in circuits if model["kind"] == kind]
    own = [test for test in found if test is not None]
    taken = [test for test in own if test["passed"] is not None]
    return {
        "n_tested": len(taken),
        "n_passed": sum(test["passed"] for test in taken),
        "n_measured": sum(test["passed"] is None and test["value"] is not None for test in own),
        "median": middle(test["value"] for test in own),
    }


def counts(tasks: Iterable[TaskSummary]) -> dict[str, Any]:
    """Circuits, those that pass every test, and the median number of tests failed."""
    failed = [task["validation"]["verdict"]["n_failed"] for task in tasks]
    return {"n_circuits": len(failed), "n_whole": failed.count(0), "median_failed": middle(failed)}


def spreads_of_model(model: ModelSummary) -> dict[str, dict[str, Any]]:
    """Spreads over a model's circuits: binarisation's loss, overlap of seeds' edges, the circuit's faithfulness f, and
    the areas under and beside the curve of faithfulness."""
    found = [task["validation"] for _, _, task in validated([model])]
    paths = {
        "binarised_loss": ("features", "binarised", "mean"),
        "jaccard_edges": ("stability", "jaccard_edges", "median"),
        "faithfulness": ("faithfulness", "circuit", "f"),
        "cpr": ("faithfulness", "cpr"),
        "cmd": ("faithfulness", "cmd"),
    }
    return {name: spread(at(row, path) for row in found) for name, path in paths.items()}


def at(row: Any, path: Sequence[str]) -> float | None:
    """A number inside nested mappings, None where there is none."""
    for key in path:
        row = row.get(key) if isinstance(row, Mapping) else None
    return row
