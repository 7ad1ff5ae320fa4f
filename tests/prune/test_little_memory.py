"""Memory that ends while a circuit is searched is a line that says what to lower, and nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PRUNE = """
import resource, sys
import psutil
from flows import cli
from pipeline.prune.checkpoint import prune_checkpoint

model, tokenizer = sys.argv[1:]
prune_checkpoint(model, "var_if", params="short.yaml", tokenizer=tokenizer)  # loads libraries and kernels
limit = psutil.Process().memory_info().vms + 64 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.argv = "sparse-circuits prune --task var_if --out out".split() + ["--model", model, "--tokenizer", tokenizer]
cli.main()
"""
SHORT = {
    "steps": 2, "train_pairs": 8, "validation_pairs": 8, "calibration_pairs": 4, "baselines": [],
    "curve_losses": [0.15], "max_minimised_edges": 1,
}  # fmt: skip


def test_a_search_that_has_too_little_is_one_line(tmp_path: Path) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["prune"] |= SHORT | {"centres": params["prune"]["centres"][:1]}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    folders = [str(ROOT / "example/models/sparse_d1024"), str(ROOT / "example/data/tokens")]
    variables = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PRUNE, *folders]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert last.startswith("error: out of memory") and "lower prune.at_once or prune.batch_pairs" in last
    assert not (tmp_path / "out").exists()
