"""Training on real tokens: it learns, ends exactly sparse, repeats bit for bit, and survives an interruption."""

from __future__ import annotations

import inspect
import json
import textwrap

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.data.tokenise import tokenise_corpus
from pipeline.model.checkpoint import load_means, load_model
from pipeline.pretrain.loop import pretrain

STEPS = 24


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, params):
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
def train(tokens, tmp_path, params, tiny_config):
    shared = params.pretrain.model_copy(
        update={"batch": 4, "validate_every": 4, "checkpoint_every": 8, "keep_alive": 1}
        | {"validation_tokens": 256, "mean_tokens": 256}
    )
    config = tiny_config(tokens=STEPS * 4 * 32, block_density=0.25, embed_density=0.5, afrac=0.25, sink=True, lr=0.02)

    def run(name="tiny", into="a", on_log=lambda step, metrics: None):
        folder = tmp_path / into
        summary = pretrain(
            name=name, config=config, shared=shared, compute=params.compute, seed=0, tokens=tokens,
            folder=folder / name, scratch=tmp_path / "scratch", on_log=on_log,
        )  # fmt: skip
        return folder / name, summary

    return run


def weights(folder):
    return dict(load_model(folder).named_parameters())


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_loss_falls_below_that_of_the_first_steps(train):
    folder, summary = train()
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert history[-1]["val_loss"] < history[0]["val_loss"]
    assert summary["val_loss_nats"] == history[-1]["val_loss"]


def test_the_checkpoint_has_exactly_the_nonzeros_of_its_density(train):
    folder, summary = train()
    for name, weight in weights(folder).items():
        if name.endswith("c_fc.weight"):
            assert int(torch.count_nonzero(weight)) == round(0.25 * weight.numel()) == summary["l0_by_matrix"][name]
    assert not torch.isnan(torch.cat([value for value in load_means(folder).values()])).any()


def test_the_same_seed_gives_the_same_weights_bit_for_bit(train):
    assert same(weights(train(into="a")[0]), weights(train(into="b")[0]))


def test_an_interrupted_run_ends_equal_to_an_unbroken_one(train, tmp_path):
    class InterruptedRunError(Exception):
        pass

    def stop_late(step, metrics):
        if step == 20:
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        train(into="broken", on_log=stop_late)
    assert not (tmp_path / "broken" / "tiny").exists()
    seen = []
    resumed, _ = train(into="broken", on_log=lambda step, metrics: seen.append(step))
    assert seen[0] == 20  # the checkpoint of step 16 was used: 16 steps were not repeated
    unbroken, _ = train(into="whole")
    assert same(weights(resumed), weights(unbroken))
    assert not list((tmp_path / "scratch").rglob("checkpoint.pt"))
