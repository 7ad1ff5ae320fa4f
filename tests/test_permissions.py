"""A file that one may only not read is not called damaged, and what others could go on with is not thrown away."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline import Circuit
from pipeline.artifacts import ArtifactError, readable
from pipeline.data.corpus_table import read_corpus
from pipeline.data.pair_tables import read_tables
from pipeline.data.tasks.encode import SCHEMA
from pipeline.formats.tensors import load_pt
from pipeline.model.checkpoint import load_model
from pipeline.pretrain.kept import Kept
from pipeline.prune.tune import JOURNAL, open_study

EXAMPLE = Path(__file__).parent.parent / "example"
NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users of this machine can enter."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """As a user who may not read a file: for root, that is another one."""
    path.chmod(0o000)
    me = os.geteuid()
    if me == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(me)
        path.chmod(0o600)


def copied(name: str, folder: Path) -> Path:
    shutil.copytree(EXAMPLE / name, folder / "copy")
    return folder / "copy"


@pytest.mark.parametrize("name", ["circuit.json", "circuit.safetensors", "model.safetensors", "config.json"])
def test_what_may_not_be_read_is_not_called_damaged(folder: Path, name: str) -> None:
    of_circuit = name.startswith("circuit")
    place = copied("circuits/sparse_d1024/bracket_brace" if of_circuit else "models/sparse_d1024", folder)
    with unreadable(place / name), pytest.raises((RuntimeError, OSError)) as said:
        Circuit.load(place) if of_circuit else load_model(place)
    assert name in str(said.value) and "ermission denied" in str(said.value) and "damaged" not in str(said.value)


def test_tables_and_weights_of_others_that_may_not_be_read_are_not_called_damaged(folder: Path) -> None:
    (folder / "report.json").write_text('{"tasks": {}}', encoding="utf-8")
    for name, read in {
        "corpus.parquet": lambda path: list(read_corpus(path, "text")),
        "pairs.parquet": lambda path: read_tables(folder, SCHEMA, "tasks"),
        "model.pt": load_pt,
    }.items():
        (folder / name).touch()
        with unreadable(folder / name), pytest.raises((RuntimeError, OSError)) as said:
            read(folder / name)
        assert name in str(said.value) and "ermission denied" in str(said.value) and "damaged" not in str(said.value)


def test_a_journal_and_a_checkpoint_that_may_not_be_read_are_kept(folder: Path) -> None:
    open_study(folder)
    before = (folder / JOURNAL).read_bytes()
    kept = Kept(folder / "checkpoint.pt")
    kept.write({"step": 3})
    ranking = folder / "scores-0.safetensors"
    save_file({"scores": torch.zeros(2)}, ranking)
    with unreadable(ranking), pytest.raises(ArtifactError, match="cannot be read"):
        readable(ranking)
    for path, read in ((folder / JOURNAL, open_study), (kept.path, lambda _: kept.last_whole(torch.device("cpu")))):
        with unreadable(path), pytest.raises(PermissionError):
            read(folder)
    assert (folder / JOURNAL).read_bytes() == before and kept.last_whole(torch.device("cpu")) == {"step": 3}
