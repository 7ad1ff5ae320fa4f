"""Every file that crosses a stage border: where it lies, and how it is written whole or not at all.

Paths are relative to a *workspace* (the folder that holds dvc.yaml). Formats have one home each: corpora and tokens in
``pipeline.data``, checkpoints in ``pipeline.model.checkpoint``, circuits in ``pipeline.circuit``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DECIDING = "deciding"  # the folder in a circuit's with the deciding circuit of the same task


class ArtifactError(RuntimeError):
    """A file of an earlier stage is missing, damaged or belongs to something else."""


@dataclass(frozen=True)
class Workspace:
    """The layout of a study's folder."""

    root: Path

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def corpus(self) -> Path:
        """corpus.parquet, report.json"""
        return self.root / "data" / "corpus"

    @property
    def tokens(self) -> Path:
        """tokenizer.tiktoken, tokenizer.json, train.bin, validation.bin, bigram.safetensors, stats.json"""
        return self.root / "data" / "tokens"

    @property
    def tasks(self) -> Path:
        """pairs.parquet, report.json"""
        return self.root / "data" / "tasks"

    @property
    def generalisation(self) -> Path:
        """pairs.parquet, report.json"""
        return self.root / "data" / "generalisation"

    def model(self, name: str) -> Path:
        """model.safetensors, config.json, means.safetensors, history.jsonl, summary.json"""
        return self.root / "models" / name

    def circuits(self, name: str) -> Path:
        """summary.json and a folder a solved task: circuit.json, circuit.safetensors, and DECIDING with the same"""
        return self.root / "circuits" / name

    def ablations(self, name: str) -> Path:
        return self.root / "ablations" / f"{name}.json"

    def validations(self, name: str) -> Path:
        return self.root / "validations" / f"{name}.json"

    def explanations(self, name: str) -> Path:
        return self.root / "explanations" / f"{name}.json"

    @property
    def example(self) -> Path:
        """A small workspace of its own: one model and its circuits, committed for a first look."""
        return self.root / "example"

    @property
    def results(self) -> Path:
        """summary.json, index.html, frontier.svg, …"""
        return self.root / "results"

    @property
    def scratch(self) -> Path:
        """Files from which an interrupted stage goes on; never an output, safe to delete."""
        return self.root / ".scratch"


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A fresh temporary folder beside ``path`` that takes its place when the block ends well, and vanishes if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file name beside ``path`` that takes its place, atomically, when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any, *, compact: bool = False) -> None:
    """``value`` as JSON, indented or on one line, written atomically. NaN and infinity are refused (ValueError)."""
    layout: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    with whole_file(path) as partial:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, **layout)
        partial.write_text(text + "\n", encoding="utf-8")


def existing(path: Path, stage: str = "") -> Path:
    """The path of a file that a stage made. Raises ArtifactError where there is no such file."""
    if not path.is_file():
        command = f"dvc repro {stage}".strip()
        raise ArtifactError(f"{path}: no such file; run the stage that makes it ({command})")
    return path


def read_json(path: Path) -> Any:
    """The value in a JSON file of an earlier stage. Raises ArtifactError where it is missing or damaged."""
    try:
        return json.loads(existing(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path}: damaged ({error}); delete it and run its stage again") from error


def file_hash(*paths: Path) -> str:
    """Short sha256 over the bytes of files, in the order given: the identity of an artifact."""
    digest = hashlib.sha256()
    for path in paths:
        with existing(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
