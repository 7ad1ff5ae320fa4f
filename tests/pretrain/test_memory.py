"""Memory that ends is a line that says what to lower, with status 1."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from flows import environment

ROOT = Path(__file__).parents[2]
TRAIN = """
import resource, sys
from pathlib import Path
import psutil
from flows import environment
from pipeline.config import ModelConfig, load_params
from pipeline.pretrain.loop import pretrain

params = load_params(Path(sys.argv[1]) / "params.yaml")
config = ModelConfig(
    n_layer=1, d_model=64, d_head=16, n_ctx=32, afrac=1, block_density=1, embed_density=1, sink=True, positions=True,
    lr=0.01, tokens=1_000_000,
)
shared = params.pretrain.model_copy(update={"batch": 1024, "validation_tokens": 256})
compute = params.compute.model_copy(update={"threads": 1, "device": "cpu"})
limit = psutil.Process().memory_info().vms + 64 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

def train():
    folders = {"tokens": Path(sys.argv[2]), "folder": Path("model"), "scratch": Path("scratch")}
    pretrain(name="m", config=config, shared=shared, compute=compute, seed=0, on_log=print, **folders)
    return 0

sys.exit(environment.guarded(train))
"""


def test_a_training_that_has_too_little_is_one_line(tokens: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", TRAIN, str(ROOT), str(tokens)]
    variables = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert last.startswith("error: out of memory") and "raise pretrain.accumulate" in last
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("allocate", [torch.empty, np.empty, bytearray], ids=["torch", "numpy", "python"])
def test_each_librarys_error_is_known(allocate, capsys: pytest.CaptureFixture[str]) -> None:
    def use() -> int:
        allocate(1 << 50)
        return 0

    assert environment.guarded(use) == 1
    assert "error: out of memory" in capsys.readouterr().err


def test_another_error_is_not_taken_for_it() -> None:
    assert environment.out_of_memory(RuntimeError("shapes differ")) is None
