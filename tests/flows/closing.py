"""A workspace of a model trained here in seconds, and of a task in a file that it does: for commands on any model."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from flows import cli
from pipeline.artifacts import Workspace, write_json
from pipeline.config import load_params
from pipeline.data.pairs import PairBatch, answer_logits, prompt_losses
from pipeline.data.pairs_file import read_pairs
from pipeline.data.shards import token_dtype, write_stream
from pipeline.data.tokenizer import PATTERN, Tokenizer
from pipeline.model.checkpoint import save_means, save_model
from pipeline.model.initial import new_model
from pipeline.model.means import node_means
from pipeline.model.transformer import Transformer
from pipeline.shape import ModelShape

ROOT = Path(__file__).parent.parent.parent
TOKENIZER = Tokenizer({bytes([value]): value for value in range(256)}, PATTERN)
TASK = "closing.jsonl"


def closing_pairs(n: int) -> list[dict[str, Any]]:
    """The first character decides with which one the prompt ends; letters in between."""
    rng = random.Random(1)
    middles = {"".join(rng.choices("abcdefgh", k=rng.randint(2, 5))) + str(i) for i in range(n)}
    return [
        {"a": {"prompt": "<" + middle, "answer": ">"}, "b": {"prompt": "{" + middle, "answer": "}"}}
        for middle in sorted(middles)
    ]


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, *arguments: object
) -> tuple[int, str, str]:
    """Status, stdout and stderr of a command of ``sparse-circuits``."""
    monkeypatch.setattr(sys, "argv", ["sparse-circuits", command, *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    said = capsys.readouterr()
    return int(left.value.code or 0), said.out, said.err


def write_study(root: Path) -> None:
    """A workspace: settings, tokenizer and tokens, models/tiny trained to do the task of closing.jsonl."""
    write_settings(root)
    (root / TASK).write_text("".join(json.dumps(pair) + "\n" for pair in closing_pairs(48)), encoding="utf-8")
    batches = [
        read_pairs(root / TASK, TOKENIZER, n_ctx=32, seed=0).batch("closing", split)
        for split in ("train", "validation")
    ]
    write_tokens(Workspace(root).tokens, batches[0])
    write_model(Workspace(root).model("tiny"), batches)


def write_settings(root: Path) -> None:
    """The laptop profile, with a shorter search."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    centre = raw["prune"]["centres"][0] | {"lr": 0.1, "k_coef": 0.01}
    raw["prune"] |= {"steps": 60, "centres": [centre], "curve_losses": [], "baselines": [], "draws": 2}
    raw["tasks"] |= {"n_train": 8, "n_validation": 8, "n_test": 8}
    (root / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")


def write_tokens(folder: Path, batch: PairBatch) -> None:
    """The tokenizer, and the prompts as packed tokens."""
    folder.mkdir(parents=True)
    TOKENIZER.save(folder)
    counts = {}
    for split in ("train", "validation"):
        documents = [tokens[1:] for tokens in batch.tokens.tolist()]
        counts[split], _ = write_stream(folder / f"{split}.bin", documents, TOKENIZER.eot, TOKENIZER.vocab_size)
    dtype = token_dtype(TOKENIZER.vocab_size).__name__
    write_json(folder / "stats.json", {"dtype": dtype, "n_tokens": counts, "tokenizer_hash": TOKENIZER.hash})


def trained(shape: ModelShape, batches: list[PairBatch], n_steps: int) -> Transformer:
    """A model of a shape that does the pairs' task."""
    model = new_model(shape, TOKENIZER.vocab_size, seed=0, bigram=None)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(n_steps):
        loss = sum(prompt_losses(answer_logits(model(b.tokens, at=b.last), b)).mean() for b in batches)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.freeze()


def write_model(folder: Path, batches: list[PairBatch]) -> None:
    """A model trained on pairs: only the circuit is of interest here, not how the model came to be."""
    config = load_params(ROOT / "params.yaml").models["dense_d32"]
    config = config.model_validate(config.model_dump() | {"n_layer": 1, "d_model": 8, "d_head": 4, "n_ctx": 32})
    model = trained(config, batches, n_steps=60)
    folder.mkdir(parents=True)
    save_model(model, folder, {"name": "tiny", "tokenizer": TOKENIZER.hash})
    save_means(node_means(model, [batches[0].tokens]), folder)
