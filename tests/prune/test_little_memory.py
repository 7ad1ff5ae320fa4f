"""Memory that ends while a circuit is searched is a line that says what to lower, and nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRUNE = """
import resource, sys
import psutil
import pipeline.face, pipeline.prune  # the libraries, which take room before the limit
from flows import cli

limit = psutil.Process().memory_info().vms + 400 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.argv = ["sparse-circuits", "prune", "--task", "var_if", "--out", "out", *sys.argv[1:]]
sys.exit(cli.main())
"""


def test_a_search_that_has_too_little_is_one_line(tmp_path: Path) -> None:
    model = ["--model", str(ROOT / "example/models/sparse_d1024"), "--tokenizer", str(ROOT / "example/data/tokens")]
    variables = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PRUNE, *model]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert last.startswith("error: out of memory") and "lower prune.at_once or prune.batch_pairs" in last
    assert not (tmp_path / "out").exists()
