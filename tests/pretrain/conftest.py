"""Real tokens, and what trains on them in a second."""

from __future__ import annotations

import inspect
import json
import textwrap
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.tokenise import tokenise_corpus
from pipeline.pretrain import kept

STEPS = 24


@pytest.fixture(autouse=True)
def _no_checkpoint_by_time(monkeypatch) -> None:
    """Checkpoints at the steps that settings name alone, however slow the machine is."""
    monkeypatch.setattr(kept, "MIN_SECONDS", 1e9)


@pytest.fixture(scope="session")
def tokens(tmp_path_factory, params) -> Path:
    """The functions of three modules of the standard library, tokenised."""
    folder = tmp_path_factory.mktemp("data")
    texts = [
        textwrap.dedent(inspect.getsource(function))
        for module in (json.decoder, inspect, textwrap)
        for _, function in inspect.getmembers(module, inspect.isfunction)
    ]
    splits = ["validation" if i % 6 == 0 else "train" for i in range(len(texts))]
    pq.write_table(pa.table({"text": texts, "split": splits}), folder / "corpus.parquet")
    tokenise_corpus(
        folder / "corpus.parquet", params.tokenise.model_copy(update={"vocab_size": 300}), folder / "tokens"
    )
    return folder / "tokens"


@pytest.fixture
def tiny_run(params, tiny_config, tokens) -> dict[str, Any]:
    """Arguments of ``pretrain`` for 24 steps of a sparse model, without its folders and its log."""
    shared = params.pretrain.model_copy(
        update={"batch": 4, "validate_every": 4, "checkpoint_every": 8, "keep_alive": 1}
        | {"validation_tokens": 256, "mean_tokens": 256}
    )
    config = tiny_config(tokens=STEPS * 4 * 32, block_density=0.25, embed_density=0.5, afrac=0.25, sink=True, lr=0.02)
    return {
        "name": "tiny", "config": config, "shared": shared, "compute": params.compute, "seed": 0, "tokens": tokens
    }  # fmt: skip
