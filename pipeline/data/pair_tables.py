"""Folders of contrast pairs, as the stages tasks and generalisation write them: a table of pairs and a report."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts import ArtifactError, existing, memory_ended, read_json, whole_folder, write_json
from pipeline.refusal import RefusalError

PAIRS_FILE = "pairs.parquet"
REPORT_FILE = "report.json"

PairRow = dict[str, Any]  # a pair; its columns are those of the stage's schema


class TaskError(RefusalError, ValueError):
    """A task that is unknown, cannot be expressed, or whose prompts have too little variety."""


@dataclass(frozen=True)
class PairTables:
    """Pairs of tasks in tokens, and the report about them, as a stage wrote them."""

    report: dict[str, Any]
    rows: dict[Any, list[PairRow]]  # in the file's order

    @property
    def names(self) -> tuple[str, ...]:
        """Every task, in the order of the paper's Table 1."""
        return tuple(self.report["tasks"])

    @property
    def tokenizer_hash(self) -> str:
        """The hash of the tokenizer that made the tokens."""
        return str(self.report["tokenizer"])

    def about(self, name: str) -> dict[str, Any]:
        """A task's part of the report. Raises TaskError for an unknown name."""
        if name not in self.report["tasks"]:
            raise TaskError(f"unknown task {name!r}; allowed: {', '.join(self.names)}")
        return dict(self.report["tasks"][name])


def pair_schema(part: str, answers: Sequence[str]) -> pa.Schema:
    """The columns of a table: task, ``part`` of the task's pairs, texts and tokens of both prompts, answer tokens."""
    return pa.schema(
        [("task", pa.string()), (part, pa.string()), ("index", pa.int32())]
        + [(f"{side}_{text}", pa.string()) for side in "ab" for text in ("prompt", "answer")]
        + [(f"{side}_tokens", pa.list_(pa.int32())) for side in "ab"]
        + [(answer, pa.int32()) for answer in answers]
    )


def write_tables(folder: Path, schema: pa.Schema, rows: Sequence[PairRow], report: dict[str, Any]) -> None:
    """Write pairs and report into ``folder``, whole or not at all."""
    with whole_folder(folder) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial / PAIRS_FILE)
        write_json(partial / REPORT_FILE, report)


def read_tables(folder: Path, schema: pa.Schema, stage: str) -> tuple[dict[str, Any], list[PairRow]]:
    """The report and the rows that a stage wrote. Raises ArtifactError where they are missing or damaged."""
    report = read_json(folder / REPORT_FILE)
    if not isinstance(report, dict) or not isinstance(report.get("tasks"), dict):
        raise ArtifactError(f"{folder / REPORT_FILE}: has no tasks; run the stage {stage} again (dvc repro {stage})")
    path = existing(folder / PAIRS_FILE, stage)
    try:
        table = pq.read_table(path)
        if not table.schema.equals(schema):
            found = ", ".join(table.schema.names)
            raise ArtifactError(f"{path}: columns {found}, not those of the stage {stage}; run {stage} again")
        return report, table.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if memory_ended(error, path):
            raise
        raise ArtifactError(f"{path}: damaged ({error}); delete it and run {stage} again") from error


def group_rows(
    rows: Iterable[PairRow], keys: Sequence[str], n_pairs: Mapping[Any, int], folder: Path, stage: str
) -> dict[tuple[str, ...], list[PairRow]]:
    """The rows by what they have in the columns ``keys``. Raises ArtifactError where they are not ``n_pairs`` each."""
    groups: dict[tuple[str, ...], list[PairRow]] = {group: [] for group in n_pairs}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    for group, part in groups.items():
        if len(part) != (expected := n_pairs.get(group, 0)):
            raise ArtifactError(
                f"{folder}: {len(part)} pairs of {', '.join(group)}, its report says {expected}; run {stage} again"
            )
    return groups


def rows_hash(name: str, rows: Iterable[PairRow], schema: pa.Schema) -> str:
    """The identity of a task's pairs: every prompt and answer, in tokens."""
    digest = hashlib.sha256(name.encode())
    for row in rows:
        digest.update(repr([row[key] for key in schema.names]).encode())
    return digest.hexdigest()[:16]
