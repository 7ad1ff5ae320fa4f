"""The report's counts of validation over all circuits, sparse against dense: claims, checks, controls, ablations, test
sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from pipeline.report.averages import middle, spread
from pipeline.report.claims import by_claim, counts
from pipeline.report.solved import KINDS, SolvedTask, all_solved
from pipeline.rows import Check, ModelSummary, TaskSummary, ValidationRow

WHOLE = ("tests", "verdict")  # parts of a row that the summary keeps as they are
MOST_ITEMS = 6  # of a list in the summary; longer ones (a point a size, a row a node) are in validations/ only


def brief(value: Any) -> Any:
    """A row of validations/<model>.json without its curves and long lists; tests and verdicts are kept whole."""
    if isinstance(value, list):
        return [brief(part) for part in value]
    if not isinstance(value, Mapping):
        return value
    value = {key: part for key, part in value.items() if key != "deciding"}  # has a place of its own
    long = {key for key, part in value.items() if isinstance(part, list) and len(part) > MOST_ITEMS}
    kept = {key: part for key, part in value.items() if key in WHOLE or key not in long}
    return {key: part if key in WHOLE else brief(part) for key, part in kept.items()}


def checks_of(validation: ValidationRow | None) -> list[Check]:
    """Every check of a circuit, in the order of the sections."""
    sections = (validation or {}).values()
    return [test for section in sections if isinstance(section, Mapping) for test in section.get("tests", ())]


def places_of(validation: ValidationRow | None, at: str = "") -> dict[str, str]:
    """Check → its path in the row: ``necessity/tests/necessary_nodes``; ``at``: the path of the row, before it."""
    sections = [(name, part) for name, part in (validation or {}).items() if isinstance(part, Mapping)]
    return {
        test["name"]: f"{at}{name}/tests/{test['name']}" for name, part in sections for test in part.get("tests", ())
    }


def validated(models: Sequence[ModelSummary]) -> list[SolvedTask]:
    """(model, task, its entry) of every circuit of a solved task that was validated; without empty ones, of tasks that
    the bigram table does, since their tests would test nothing."""
    return [found for found in all_solved(models) if found[2]["n_nodes"] and found[2]["validation"] is not None]


def summarise_validation(models: Sequence[ModelSummary]) -> dict[str, Any]:
    """``by_claim``: claim → per kind of model of how many circuits it was tested and supported; ``circuits``: how many
    claims they support, per kind; ``deciding``: both of the deciding circuits. ``by_test``: check → its claim, and per
    kind how many circuits were tested and pass; ``controls``, ``complement``, ``generalisation``: a row of each
    control, ablation, test set."""
    circuits = validated(models)
    return {
        "by_claim": by_claim(circuits),
        "circuits": {kind: counts(circuits, kind) for kind in KINDS},
        "deciding": claims_of_deciding(models),
        "by_test": by_test(circuits),
        "controls": [
            {"model": model["name"], "task": name, "kind": model["kind"], "control": control} | dict(row)
            for model, name, task in circuits
            for control, row in (task["validation"].get("controls") or {}).items()
            if control != "tests"
        ],
        "complement": complement(circuits),
        "generalisation": generalisation(circuits),
    }


def claims_of_deciding(models: Sequence[ModelSummary]) -> dict[str, Any]:
    """``by_claim`` and ``circuits`` of the deciding circuits that were validated."""
    found: list[SolvedTask] = []
    for model, name, task in all_solved(models):
        deciding = task["circuits"]["deciding"]
        if deciding and deciding["n_nodes"] and deciding["validation"]:
            found.append((model, name, cast(TaskSummary, {"validation": deciding["validation"]})))
    return {"by_claim": by_claim(found), "circuits": {kind: counts(found, kind) for kind in KINDS}}


def by_test(circuits: Sequence[SolvedTask]) -> list[dict[str, Any]]:
    """Every check: ``name``, the ``claim`` that it belongs to, whether it is ``essential``, and its outcomes per kind
    of model."""
    known = {test["name"]: test for _, _, task in circuits for test in checks_of(task["validation"])}
    return [
        {"name": name, "claim": test["claim"], "essential": test["essential"]}
        | {kind: outcomes(circuits, kind, name) for kind in KINDS}
        for name, test in known.items()
    ]


def outcomes(circuits: Iterable[SolvedTask], kind: str, name: str) -> dict[str, Any]:
    """How many circuits of a kind of model took a test, how many pass, how many were only measured, and the median
    value."""
    checks = [check for model, _, task in circuits if model["kind"] == kind for check in checks_of(task["validation"])]
    own = [test for test in checks if test["name"] == name]
    taken = [test for test in own if test["passed"] is not None]
    return {
        "n_tested": len(taken),
        "n_passed": sum(test["passed"] for test in taken),
        "n_measured": sum(test["passed"] is None and test["value"] is not None for test in own),
        "median": middle(test["value"] for test in own),
    }


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


def complement(circuits: Sequence[SolvedTask]) -> list[dict[str, Any]]:
    """Every ablation of the complement: ``name``, and per kind of model the spread over circuits of the ``loss`` in
    nats and of the ``faithfulness``."""
    names = dict.fromkeys(
        name
        for row in sections(circuits, "complement")
        for name, part in row.items()
        if at(part, ("loss", "mean")) is not None
    )
    return [{"name": name} | {kind: ablated(circuits, kind, name) for kind in KINDS} for name in names]


def ablated(circuits: Sequence[SolvedTask], kind: str, name: str) -> dict[str, Any]:
    """The spread of losses in nats, and of faithfulness, under one ablation of the complement."""
    own = sections(circuits, "complement", [kind])
    return {what: spread(at(row, (name, what, "mean")) for row in own) for what in ("loss", "faithfulness")}


def generalisation(circuits: Sequence[SolvedTask]) -> list[dict[str, Any]]:
    """Every generalisation set: ``family``, and per kind of model the results of its circuits on that set."""
    families = dict.fromkeys(name for row in sections(circuits, "generalisation") for name in row.get("families", ()))
    return [{"family": family} | {kind: followed(circuits, kind, family) for kind in KINDS} for family in families]


def followed(circuits: Sequence[SolvedTask], kind: str, family: str) -> dict[str, Any]:
    """``n_circuits`` whose task has the set, on the fewest and most ``n_pairs``; median loss in nats of the model and
    of the circuit; of the ``n_tested`` where the model does the task there, ``n_passed`` follow it."""
    rows = [row.get("families", {}) for row in sections(circuits, "generalisation", [kind])]
    own = [row[family] for row in rows if family in row]
    pairs = [row["model"]["n"] for row in own]
    taken = outcomes(circuits, kind, f"generalises_{family}")
    return {
        "n_circuits": len(own),
        "n_pairs": [min(pairs), max(pairs)] if pairs else None,
        "model_loss": middle(row["model"]["mean"] for row in own),
        "circuit_loss": middle(row["circuit"]["mean"] for row in own),
        "n_tested": taken["n_tested"],
        "n_passed": taken["n_passed"],
    }


def sections(circuits: Sequence[SolvedTask], name: str, kinds: Sequence[str] = KINDS) -> list[Mapping[str, Any]]:
    """One section of each circuit that has it, of models of some kinds."""
    rows: list[Any] = [task["validation"].get(name) for model, _, task in circuits if model["kind"] in kinds]
    return [row for row in rows if row]
