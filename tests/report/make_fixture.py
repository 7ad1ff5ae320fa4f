"""Makes fixture/<kind>.json from a finished smoke study: ``make smoke``, then ``python -m tests.report.make_fixture``.

A file has the rows that the stages left of one model, for three tasks: one that both models solve, one that neither
does, and one that is not expressible. Long lists are cut. Another workspace than .smoke is named behind the command.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pipeline.artifacts import Workspace, read_json, write_json

FOLDER = Path(__file__).parent / "fixture"
MOST_ITEMS = 8  # of a list
WHOLE = ("tests", "verdict", "history")
MODELS = {"dense": "dense_d64", "sparse": "sparse_d96"}  # of profiles/smoke.yaml
SOLVED, UNSOLVED, NOT_EXPRESSIBLE = "single_double_quote", "set_or_string", "class_init"
NODES = 2  # of an explanation


def cut(value: Any) -> Any:
    """The value with the first of each long list's items; checks and verdicts are whole."""
    if isinstance(value, dict):
        return {key: part if key in WHOLE else cut(part) for key, part in value.items()}
    return [cut(part) for part in value[:MOST_ITEMS]] if isinstance(value, list) else value


def of_tasks(path: Path, *names: str) -> Any:
    """A file of rows by task, with the named tasks only."""
    found = read_json(path)
    return found | {"tasks": {name: found["tasks"][name] for name in names}}


def explanation_of(path: Path) -> Any:
    """An explanation of one circuit with few nodes and prompts."""
    found = read_json(path)
    circuit = found["circuits"][SOLVED]
    circuit |= {key: circuit[key][:NODES] for key in ("prompts", "heads")}
    circuit["nodes"] = dict(list(circuit["nodes"].items())[:NODES])
    nodes = {name: found["nodes"][name] for name in circuit["nodes"]}
    return found | {"circuits": {SOLVED: circuit}, "nodes": nodes}


def rows_of(workspace: Workspace, model: str) -> dict[str, Any]:
    """All rows of one model."""
    history = (workspace.model(model) / "history.jsonl").read_text(encoding="utf-8").splitlines()
    circuit = workspace.circuits(model) / SOLVED
    return {
        "model": read_json(workspace.model(model) / "summary.json"),
        "history": [json.loads(line) for line in history],
        "circuits": of_tasks(workspace.circuits(model) / "summary.json", SOLVED, UNSOLVED, NOT_EXPRESSIBLE),
        "trials": read_json(circuit / "trials.json"),
        "certificate": cut(read_json(circuit / "circuit.json")["certificate"]),
        "ablations": of_tasks(workspace.ablations(model), SOLVED),
        "validations": cut(of_tasks(workspace.validations(model), SOLVED)),
        "explanation": explanation_of(workspace.explanations(model)),
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for kind, name in MODELS.items():
        write_json(FOLDER / f"{kind}.json", rows_of(Workspace(Path(*sys.argv[1:] or [".smoke"])), name), compact=True)
