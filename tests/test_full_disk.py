"""A disk that takes no more: a line that names the file, nothing half written, and what was there before stays."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from pipeline.artifacts import whole_file, whole_folder, write_json
from pipeline.pretrain.kept import Kept

BYTES = 64 * 1024  # that a file may have, or the whole disk
LARGE = torch.arange(BYTES)  # eight times as many bytes
OLD = {"step": torch.tensor(1)}


@pytest.fixture(params=["a limit on files", "a full disk"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder in which no file of more than BYTES can be written, but smaller ones, and those before."""
    if request.param == "a limit on files":
        yield from limited(tmp_path)
        return
    mount = ["mount", "-t", "tmpfs", "-o", f"size={BYTES}", "tmpfs", str(tmp_path)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def limited(folder: Path) -> Iterator[Path]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES, hard))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write(kind: str, path: Path) -> None:
    """More than BYTES, by each of the writers that this project uses."""
    if kind == "json":
        write_json(path, LARGE.tolist())
    elif kind == "text":
        with whole_file(path) as partial:
            partial.write_text("x" * 8 * BYTES)
    elif kind == "safetensors":
        with whole_file(path) as partial:
            save_file({"x": LARGE}, partial)
    elif kind == "parquet":
        with whole_file(path) as partial:
            pq.write_table(pa.table({"x": torch.randperm(BYTES).numpy()}), partial)
    else:
        Kept(path).write({"model": LARGE})


@pytest.mark.parametrize("kind", ["json", "text", "safetensors", "parquet", "checkpoint"])
def test_what_cannot_be_written_is_named_and_what_was_there_stays(kind: str, place: Path) -> None:
    path = place / "out"
    path.write_text("old")
    with pytest.raises(OSError, match=r"out: cannot be written \(") as caught:
        write(kind, path)
    assert len(str(caught.value).splitlines()) == 1
    assert path.read_text() == "old" and os.listdir(place) == ["out"]
    path.write_text("new")  # room is there again


def test_a_folder_is_written_whole_or_not_at_all(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "old").touch()
    with pytest.raises(OSError, match=r"out: cannot be written \("), whole_folder(place / "out") as partial:
        save_file({"x": LARGE}, partial / "model.safetensors")
    assert [str(path.relative_to(place)) for path in place.rglob("*")] == ["out", "out/old"]


def test_training_goes_on_from_the_checkpoint_before_the_disk_was_full(place: Path) -> None:
    kept = Kept(place / "checkpoint.pt")
    kept.write(OLD)
    with pytest.raises(OSError, match="cannot be written"):
        kept.write({"model": LARGE})
    assert kept.last_whole(torch.device("cpu")) == OLD


def test_an_error_of_another_kind_keeps_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(json.JSONDecodeError), whole_file(tmp_path / "out"):
        json.loads("{")
    with pytest.raises(FileNotFoundError, match="nothing"), whole_file(tmp_path / "out"):
        (tmp_path / "nothing").read_text()
