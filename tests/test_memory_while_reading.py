"""Memory that ends while a file is read: the file is not called damaged, nor skipped, nor forgotten."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.artifacts import memory_ended

ROOT = Path(__file__).parents[1]
ENTRIES = 1 << 24  # of 4 bytes, 64 MiB: more than there is room for

READ = """
import resource, sys
from pathlib import Path
import psutil, torch, pyarrow as pa, pyarrow.parquet as pq
from safetensors.torch import load_file, save_file
from pipeline.config import FilesSource
from pipeline.data.corpus_table import read_corpus
from pipeline.data.sources.files import FileFunctions
from pipeline.formats.tensors import load_pt
from pipeline.model.checkpoint import load_means, load_model, save_means
from pipeline.pretrain.kept import Kept

n, what = int(sys.argv[1]), sys.argv[2]
place = Path("here")
place.mkdir()
if what == "training checkpoint":
    kept = Kept(place / "checkpoint.pt")
    kept.write({"step": 1, "w": torch.zeros(n)})
    read = lambda: kept.last_whole(torch.device("cpu"))
elif what == "weights of others":
    torch.save({"w": torch.zeros(n)}, place / "x.pt")
    read = lambda: load_pt(place / "x.pt")
elif what == "means":
    (place / "config.json").write_text("{}")
    save_file({"0.attn_in": torch.zeros(n)}, place / "means.safetensors")
    read = lambda: load_means(place)
else:
    text = "def f(x):\\n    return x\\n" + "#" * (4 * n)
    pq.write_table(pa.table({"text": [text]}), place / "x.parquet", compression=None)
    del text
    settings = FilesSource(kind="files", weight=1, min_lines=1, max_lines=9, globs=["*.parquet"], column="text")
    found = {
        "corpus": lambda: list(read_corpus(place / "x.parquet", "text")),
        "source": lambda: list(FileFunctions(settings, place, seed=0).documents(set())),
    }
    read = found[what]
pa.default_memory_pool().release_unused()
limit = psutil.Process().memory_info().vms + n
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    print("read", read() is None)
except Exception as error:
    print(type(error).__name__, str(error)[:300])
"""


@pytest.mark.parametrize("what", ["training checkpoint", "weights of others", "means", "corpus", "source"])
def test_want_of_memory_is_said_as_such(what: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", READ, str(ENTRIES), what]
    variables = {
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "damaged" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert "memory" in done.stdout or "realloc" in done.stdout or "malloc" in done.stdout, done.stdout


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        pa.lib.ArrowMemoryError("malloc of size 500 failed"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 500 bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_librarys_error_is_known(error: Exception) -> None:
    assert memory_ended(error)
    assert not memory_ended(RuntimeError("shapes differ"))


def test_a_damaged_file_that_asks_for_far_more_than_it_holds_is_to_blame(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(10))
    assert memory_ended(RuntimeError("can't allocate memory: you tried to allocate 10000 bytes"), tmp_path / "x")
    assert not memory_ended(RuntimeError("can't allocate memory: you tried to allocate 10001 bytes"), tmp_path / "x")
