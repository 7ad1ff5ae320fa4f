"""Folders of contrast pairs, as the stages tasks and generalisation write them: a table of pairs and a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts import ArtifactError, read_json, whole_folder, write_json

PAIRS_FILE = "pairs.parquet"
REPORT_FILE = "report.json"

PairRow = dict[str, Any]  # a pair; its columns are those of the stage's schema


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
    return report, _rows(folder / PAIRS_FILE, schema, stage)


def _rows(path: Path, schema: pa.Schema, stage: str) -> list[PairRow]:
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; run the stage that makes it (dvc repro {stage})")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); delete it and run {stage} again") from error
    if not table.schema.equals(schema):
        found = ", ".join(table.schema.names)
        raise ArtifactError(f"{path}: columns {found}, not those of the stage {stage}; run {stage} again")
    rows: list[PairRow] = table.to_pylist()
    return rows
