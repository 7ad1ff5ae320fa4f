"""Readers of files under a fuzzer that is guided by coverage: atheris, which is no package of this project's lock.

``pip install --target .scratch/atheris atheris``, then
``PYTHONPATH=.scratch/atheris python -m benchmarks.fuzz_guided READER -runs=100000 -rss_limit_mb=4096 -timeout=10``:
libFuzzer's options after the reader's name. It begins with a valid file, and ends at the first input that the reader
neither takes nor refuses by its own error, that takes ten seconds, or more memory; the input is left as crash-*.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Read = Callable[[Path], object]
PAIR = {"a": {"prompt": "f(", "answer": ")"}, "b": {"prompt": "f[", "answer": "]"}}
CIRCUIT = {
    "format": 2, "about": {}, "ablations": ["mean"], "calibration": {"scale": 1.0, "shift": 0.0}, "certificate": None,
    "nodes": {"0.attn_in": [0, 1], "0.attn_v": [1]}, "edges": {"0.attn_in->attn_v": [[0, 1]]},
}  # fmt: skip


def settings() -> tuple[bytes, Read, type[Exception]]:
    from pipeline.config import ConfigError, load_params

    return Path("params.yaml").read_bytes(), load_params, ConfigError


def pairs() -> tuple[bytes, Read, type[Exception]]:
    from pipeline.data.pairs_file import PairsFileError, read_pairs
    from pipeline.data.tokenizer import PATTERN, Tokenizer

    tokenizer = Tokenizer({bytes([value]): value for value in range(256)}, PATTERN)
    lines = (json.dumps(PAIR) + "\n").encode() * 4
    return lines, lambda path: read_pairs(path, tokenizer, n_ctx=32, seed=0), PairsFileError


def circuit() -> tuple[bytes, Read, type[Exception]]:
    import torch
    from safetensors.torch import save_file

    from pipeline.artifacts import ArtifactError
    from pipeline.circuit import Circuit

    def read(path: Path) -> object:
        path.replace(path.with_name("circuit.json"))
        weights = path.with_name("circuit.safetensors")
        if not weights.exists():
            save_file({f"mean.0.{site}": torch.zeros(2) for site in ("attn_in", "attn_v")}, weights)
        return Circuit.load(path.parent)

    return json.dumps(CIRCUIT).encode(), read, ArtifactError


def ranks() -> tuple[bytes, Read, type[Exception]]:
    from pipeline.artifacts import ArtifactError
    from pipeline.data.tokenizer import RANKS_FILE, SETTINGS_FILE, Tokenizer

    whole = Tokenizer({bytes([value]): value for value in range(256)}, "x")

    def read(path: Path) -> object:
        whole.save(path.parent)
        path.replace(path.with_name(RANKS_FILE))
        return Tokenizer.load(path.parent)

    with tempfile.TemporaryDirectory() as folder:
        whole.save(Path(folder))
        assert (Path(folder) / SETTINGS_FILE).is_file()
        return (Path(folder) / RANKS_FILE).read_bytes(), read, ArtifactError


READERS: dict[str, Callable[[], tuple[bytes, Read, type[Exception]]]] = {
    "settings": settings, "pairs": pairs, "circuit": circuit, "ranks": ranks,
}  # fmt: skip


def main() -> None:
    """Fuzz the reader that the first argument names, as long as libFuzzer's options say."""
    if len(sys.argv) < 2 or sys.argv[1] not in READERS:
        sys.exit(f"a reader, then options of libFuzzer; readers: {', '.join(READERS)}")
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        sys.exit("atheris is not installed: pip install --target .scratch/atheris atheris")
    with atheris.instrument_imports(include=["pipeline"]):
        valid, read, refusal = READERS[sys.argv[1]]()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (folder / "seeds").mkdir()
    (folder / "seeds" / "valid").write_bytes(valid)

    def on_one(content: bytes) -> None:
        (folder / "input").write_bytes(content)
        try:
            read(folder / "input")
        except refusal:
            pass

    atheris.Setup([sys.argv[0], *sys.argv[2:], str(folder / "seeds")], on_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
