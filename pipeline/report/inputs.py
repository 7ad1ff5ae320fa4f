"""The files that pretrain, prune, ablate, validate and explain left of each model, checked to belong together."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import ArtifactError, Workspace, existing, read_json
from pipeline.rows import AblationRow, Explanation, HistoryRow, ModelRow, OfModel, PruneRow, ValidationRow

NOT_VALIDATED: OfModel[ValidationRow] = {"model": "", "model_hash": "", "tasks": {}}


@dataclass(frozen=True)
class ModelRecord:
    """The raw summaries of one model, as their stages wrote them."""

    pretrained: ModelRow
    pruned: OfModel[PruneRow]
    ablated: OfModel[AblationRow]
    validated: OfModel[ValidationRow]
    history: tuple[HistoryRow, ...]  # the lines of history.jsonl

    @property
    def name(self) -> str:
        return str(self.pretrained["name"])


def read_record(workspace: Workspace, name: str) -> ModelRecord:
    """The summaries of one model.

    Only the validations may be missing. Raises ArtifactError where another is, or where one is damaged, holds a number
    that is not finite, or belongs to another checkpoint.
    """
    folder, validations = workspace.model(name), workspace.validations(name)
    pretrained = _finite(folder / "summary.json", read_json(folder / "summary.json"))
    of_circuits = (workspace.circuits(name) / "summary.json", workspace.ablations(name))
    pruned, ablated = (_of_model(path, folder) for path in of_circuits)
    validated = _of_model(validations, folder) if validations.is_file() else NOT_VALIDATED
    return ModelRecord(pretrained, pruned, ablated, validated, _read_history(folder / "history.jsonl"))


def read_explanation(workspace: Workspace, name: str) -> Explanation | None:
    """The stage explain's file of one model; None where the stage did not run.

    Raises ArtifactError where the file is damaged or belongs to another checkpoint.
    """
    path = workspace.explanations(name)
    return _of_model(path, workspace.model(name)) if path.is_file() else None


def _of_model(path: Path, model: Path) -> Any:
    """A later stage's file, with finite numbers and made from the model's checkpoint."""
    found, identity = read_json(path), read_json(model / "summary.json")["model_hash"]
    if found["model_hash"] != identity:
        raise ArtifactError(
            f"{path}: made from checkpoint {found['model_hash']}, but {model} holds {identity}; run dvc repro"
        )
    return _finite(path, found)


def _finite(path: Path, value: Any) -> Any:
    for key, number in _numbers(value):
        if not math.isfinite(number):
            raise ArtifactError(f"{path}: {key} is {number}; a finite number or null is allowed; run its stage again")
    return value


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Every number inside ``value``, with its path."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _numbers(part, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _numbers(part, f"{key}[{index}]")
    elif isinstance(value, float):
        yield key, value


def _read_history(path: Path) -> tuple[HistoryRow, ...]:
    """The lines of a training history. Raises ArtifactError where the file is missing or a line is damaged."""
    try:
        return tuple(
            json.loads(line) for line in existing(path).read_text(encoding="utf-8").splitlines() if line.strip()
        )
    except ValueError as error:
        raise ArtifactError(f"{path}: damaged ({error}); delete it and run pretrain again") from error
