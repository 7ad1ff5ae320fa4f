"""A small study for commands that work on any model (closing.py says what is in it)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from closing import TASK, write_study

from pipeline.prune import Pruned
from pipeline.prune.checkpoint import prune_checkpoint

if TYPE_CHECKING:
    from flows.tracking_store import Store
    from pipeline.config import Params


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables but without experiments: making the tables takes seconds."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    from flows.tracking_store import Store  # takes seconds to import

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        Store("unused").connect()
    return path


@pytest.fixture
def store(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch, params: Params) -> Iterator[Store]:
    """The store of a fresh workspace in ``tmp_path``, connected."""
    from flows.tracking_store import Store  # takes seconds to import

    database = tmp_path / ".mlflow" / "mlflow.db"
    database.parent.mkdir()
    shutil.copy(empty_database, database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    store = Store(params.tracking.experiment)
    store.connect()
    yield store


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """As the command has it; tensors here are too small to share out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A workspace with models/tiny, which does the task of closing.jsonl."""
    root = tmp_path_factory.mktemp("study")
    write_study(root)
    return root


@pytest.fixture(scope="module")
def pruned(study: Path) -> Pruned:
    """What pruning finds of the task; its circuit lies in ``study / "found"``."""
    return prune_checkpoint(study / "models/tiny", study / TASK, out=study / "found")
