"""Means of the nodes of a foreign model: over the tokens asked for, from text, tokens or a source of the settings."""

from __future__ import annotations

import gzip
import json

import datasets
import numpy as np
import pytest
import torch

from pipeline import load_model
from pipeline.data.batches import CorpusTooSmallError
from pipeline.data.shards import write_stream
from pipeline.formats import FormatError
from pipeline.formats.means import make_means, source_of, token_stream
from pipeline.formats.stored_means import read_means, write_means
from pipeline.model.record import record

CODE = "def f(x):\n    return [x, 1]\n\n\ndef g(name):\n    for one in name:\n        print(one)\n"


@pytest.fixture
def model(small_model):
    return small_model()


def test_means_over_a_file_of_ids_are_the_means_of_all_windows(model, tokenizer, params, tmp_path):
    ids = np.random.default_rng(0).integers(280, size=25 * 6)
    np.save(tmp_path / "ids.npy", ids)
    found = make_means(model, tokenizer, str(tmp_path / "ids.npy"), params, 24 * 6)
    _, values = record(model, torch.from_numpy(ids.reshape(6, 25)[:, :-1]))
    assert found.keys() == values.keys()
    for key, value in values.items():
        assert (found[key] - value.mean((0, 1))).abs().max() < 1e-6


def test_text_gives_the_tokens_that_training_would_see(model, tokenizer, params, tmp_path):
    (tmp_path / "a.txt").write_text(CODE)
    expected = [tokenizer.eot, *tokenizer.encode(CODE), tokenizer.eot]
    stream = token_stream(model, tokenizer, str(tmp_path / "a.txt"), params, 100)
    assert stream.tokens.tolist() == expected[:125]
    (tmp_path / "a.py").write_text(CODE)
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": CODE}) + "\n")
    for name in ("a.py", "b.jsonl"):
        tokens = token_stream(model, tokenizer, str(tmp_path / name), params, 100).tokens
        assert tokenizer.decode(tokens.tolist()).count("return [x, 1]") == 1


def test_packed_files_of_the_datasets_library_are_read(model, tokenizer, params, tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((json.dumps({"text": CODE}) + "\n").encode()))
    datasets.Dataset.from_dict({"text": [CODE]}).save_to_disk(str(tmp_path / "arrow"))
    [arrow] = (tmp_path / "arrow").glob("*.arrow")
    for path in (tmp_path / "a.jsonl.gz", arrow):
        tokens = token_stream(model, tokenizer, str(path), params, 100).tokens
        assert tokenizer.decode(tokens.tolist()).count("return [x, 1]") == 1
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"code": "x"}\n'))
    with pytest.raises(FormatError, match="no column 'text'; it has code"):
        token_stream(model, tokenizer, str(tmp_path / "b.jsonl.gz"), params, 100)


def test_packed_tokens_and_the_settings_sources_are_read(model, tokenizer, params, tmp_path):
    n_tokens, _ = write_stream(tmp_path / "train.bin", [tokenizer.encode(CODE)] * 3, tokenizer.eot, 280)
    stats = {"dtype": "uint16", "n_tokens": {"train": n_tokens}, "tokenizer_hash": tokenizer.hash}
    (tmp_path / "stats.json").write_text(json.dumps(stats))
    assert token_stream(model, tokenizer, str(tmp_path), params, 50).n_tokens == n_tokens
    assert token_stream(model, tokenizer, str(tmp_path / "train.bin"), params, 50).n_tokens == n_tokens
    (tmp_path / "stats.json").write_text(json.dumps(stats | {"tokenizer_hash": "other"}))
    with pytest.raises(FormatError, match="in the tokens of tokenizer other"):
        token_stream(model, tokenizer, str(tmp_path), params, 50)
    assert source_of("idioms", params).kind == "idioms"
    assert token_stream(model, tokenizer, "idioms", params, 500).n_tokens == 525
    assert source_of("org/name", params).path == "org/name"


def test_means_are_read_from_beside_the_model(released, tokenizer, params, tmp_path):
    folder = released()
    tokenizer.save(folder)
    loaded = load_model(folder)
    (tmp_path / "a.txt").write_text(CODE * 10)
    found = make_means(loaded.model, tokenizer, str(tmp_path / "a.txt"), params, 200)
    write_means(found, folder)
    assert all(mean.equal(found[key]) for key, mean in load_model(folder).means.items())


def test_means_of_another_model_are_refused(small_model, model, tmp_path):
    other = small_model(n_layer=1)
    write_means({key: torch.zeros(n) for key, n in other.widths().items()}, tmp_path)
    with pytest.raises(FormatError, match="sites do not fit"):
        read_means(tmp_path, model)
    write_means({key: torch.zeros(3) for key in model.widths()}, tmp_path)
    with pytest.raises(FormatError, match="other widths"):
        read_means(tmp_path, model)
    (tmp_path / "means.safetensors").write_bytes(b"no")
    with pytest.raises(FormatError, match="damaged"):
        read_means(tmp_path, model)


@pytest.mark.parametrize(
    ("ids", "said"),
    [([[1, 2]], "allowed: a list of token ids"), ([0.5], "allowed: a list of token ids"), ([1, 280], "ids up to 280")],
)
def test_files_that_are_no_ids_of_the_model_are_refused(model, tokenizer, params, tmp_path, ids, said):
    np.save(tmp_path / "ids.npy", np.array(ids))
    with pytest.raises(FormatError, match=said):
        token_stream(model, tokenizer, str(tmp_path / "ids.npy"), params, 10)


def test_data_that_is_missing_or_too_little_is_refused(model, tokenizer, params, tmp_path):
    for name in ("none.npy", "none.txt"):
        with pytest.raises(FormatError, match="no such file"):
            token_stream(model, tokenizer, str(tmp_path / name), params, 10)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(CorpusTooSmallError, match="allowed: at least n_ctx"):
        token_stream(model, tokenizer, str(tmp_path / "a.txt"), params, 10)
    with pytest.raises(ValueError, match="matches no file"):
        token_stream(model, tokenizer, str(tmp_path / "none.py"), params, 10)
