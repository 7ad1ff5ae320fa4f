"""Laws of the bigram table and of the stage that makes it, with counts worked out by hand."""

from __future__ import annotations

import inspect
import math
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifacts import ArtifactError, read_json
from pipeline.config import TokeniseConfig
from pipeline.data import bigram, tokenise
from pipeline.data.bigram import (
    bigram_log_probs,
    check_table_fits,
    count_bigrams,
    count_tokens,
    cross_entropies,
    load_bigram,
    unigram_probs,
)
from pipeline.data.shards import TokenStream
from pipeline.data.tokenise import read_documents, tokenise_corpus
from pipeline.data.tokenizer import Tokenizer, TokenizerError

TOKENS = np.array([0, 1, 0, 1, 1], np.uint16)  # of a vocabulary of 3: token 2 never occurs


def test_counts_are_those_made_by_hand() -> None:
    assert count_bigrams(TOKENS, 3).tolist() == [[0, 2, 0], [1, 1, 0], [0, 0, 0]]
    assert count_tokens(TOKENS, 3).tolist() == [2, 3, 0]


def test_probabilities_are_those_made_by_hand() -> None:
    unigram = unigram_probs(count_tokens(TOKENS, 3))
    np.testing.assert_allclose(unigram, [3 / 8, 4 / 8, 1 / 8])
    probs = np.exp(bigram_log_probs(count_bigrams(TOKENS, 3), unigram, smoothing=2.0))
    by_hand = [  # (count + 2 · unigram) / (row sum + 2)
        [(0 + 0.75) / 4, (2 + 1) / 4, (0 + 0.25) / 4],
        [(1 + 0.75) / 4, (1 + 1) / 4, (0 + 0.25) / 4],
        [0.75 / 2, 1 / 2, 0.25 / 2],  # never seen: the unigram
    ]
    np.testing.assert_allclose(probs, by_hand, rtol=1e-6)


def test_losses_are_those_made_by_hand() -> None:
    unigram = np.array([0.5, 0.25, 0.25])
    table = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])).astype(np.float32)
    counts = count_bigrams(np.array([1, 0, 1, 1], np.uint16), 3)  # predicts 0, 1, 1
    unigram_loss, bigram_loss = cross_entropies(counts, unigram, table)
    assert unigram_loss == pytest.approx(-(math.log(0.5) + 2 * math.log(0.25)) / 3)
    assert bigram_loss == pytest.approx(-(math.log(0.1) + math.log(0.25) + math.log(0.8)) / 3, rel=1e-6)
    with pytest.raises(ValueError, match="no bigrams"):
        cross_entropies(np.zeros((3, 3), np.int64), unigram, table)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.floats(0.01, 100))
def test_every_row_is_a_distribution_without_zeros(tokens: list[int], smoothing: float) -> None:
    stream = np.array(tokens, np.uint16)
    table = bigram_log_probs(count_bigrams(stream, 5), unigram_probs(count_tokens(stream, 5)), smoothing)
    assert np.isfinite(table).all()
    np.testing.assert_allclose(np.exp(table.astype(np.float64)).sum(axis=1), 1, rtol=1e-5)  # float32 logarithms


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_counting_by_chunks_loses_no_bigram(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.random.default_rng(0).integers(0, 6, 50).astype(np.uint16)
    whole = count_bigrams(tokens, 6)
    assert whole.sum() == 49
    monkeypatch.setattr(bigram, "_CHUNK", chunk)
    assert np.array_equal(count_bigrams(tokens, 6), whole)
    assert count_tokens(tokens, 6).tolist() == np.bincount(tokens, minlength=6).tolist()


def test_a_vocabulary_whose_table_would_not_fit_is_refused() -> None:
    check_table_fits(16_384)
    with pytest.raises(ValueError, match="16385 makes a bigram table of 1.0 GiB; allowed: at most 16384"):
        check_table_fits(16_385)


# --- the stage ---

FUNCTIONS = [
    inspect.getsource(function) for _, function in inspect.getmembers(inspect, inspect.isfunction) if function.__doc__
]
CONFIG = TokeniseConfig(vocab_size=400, bigram_smoothing=1.0)


def write_corpus(folder: Path, validation: list[str], train: list[str]) -> Path:
    path = folder / "corpus.parquet"
    splits = ["validation"] * len(validation) + ["train"] * len(train)
    pq.write_table(pa.table({"text": validation + train, "split": splits}), path)
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path, FUNCTIONS[:10], FUNCTIONS[10:])


def test_the_streams_are_the_documents(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    stats = tokenise_corpus(corpus, CONFIG, folder)
    tokenizer = Tokenizer.load(folder)
    for split, documents in (("train", FUNCTIONS[10:]), ("validation", FUNCTIONS[:10])):
        stream = TokenStream.open(folder, split)
        text = tokenizer.decode(stream.tokens.tolist())
        assert text == "<|endoftext|>" + "".join(document + "<|endoftext|>" for document in documents)
        assert stats["n_documents"][split] == len(documents)
        assert stream.tokenizer_hash == tokenizer.hash == stats["tokenizer_hash"]
    assert read_json(folder / "stats.json") == stats
    n_bytes = sum(len(document.encode()) for document in FUNCTIONS[:10])
    assert stats["bytes_per_token"] == n_bytes / stats["n_tokens"]["validation"]
    assert {path.name for path in folder.iterdir()} == {
        "tokenizer.tiktoken", "tokenizer.json", "train.bin", "validation.bin", "bigram.safetensors", "stats.json",
    }  # fmt: skip


def test_the_losses_are_those_of_predicting_token_by_token(corpus: Path, tmp_path: Path) -> None:
    stats = tokenise_corpus(corpus, CONFIG, tmp_path / "tokens")
    table = load_bigram(tmp_path / "tokens")
    assert table.shape == (400, 400) and table.dtype == torch.float32
    tokens = torch.from_numpy(TokenStream.open(tmp_path / "tokens", "validation").tokens.astype(np.int64))
    loss = torch.nn.functional.cross_entropy(table[tokens[:-1]], tokens[1:])  # rows are already normalised
    assert stats["bigram_loss_nats"] == pytest.approx(float(loss), rel=1e-5)  # a float32 mean against a float64 one
    assert stats["bigram_loss_nats"] < stats["unigram_loss_nats"] < math.log(400)


def test_the_validation_split_teaches_nothing(corpus: Path, tmp_path: Path) -> None:
    tokenise_corpus(corpus, CONFIG, tmp_path / "one")
    (tmp_path / "other").mkdir()
    changed = write_corpus(tmp_path / "other", ["zzz zzz zzz zzz\n" * 200], FUNCTIONS[10:])
    tokenise_corpus(changed, CONFIG, tmp_path / "two")
    for name in ("tokenizer.tiktoken", "train.bin", "bigram.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_same_corpus_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        tokenise_corpus(corpus, CONFIG, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_merges_are_learnt_from_an_even_sample(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_chars = sum(map(len, FUNCTIONS[10:]))
    assert list(tokenise._training_sample(corpus, n_chars)) == FUNCTIONS[10:]
    monkeypatch.setattr(tokenise, "TRAINING_CHARS", n_chars // 3)
    sample = list(tokenise._training_sample(corpus, n_chars))
    assert 0.8 * n_chars / 3 < sum(map(len, sample)) <= n_chars / 3 + 1
    places = [FUNCTIONS[10:].index(document) for document in sample]
    assert places[0] < 10 and places[-1] > len(FUNCTIONS) - 30  # from the beginning to the end


def test_a_corpus_that_cannot_be_used_is_refused_and_nothing_written(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    with pytest.raises(TokenizerError, match="9000 cannot be reached"):
        tokenise_corpus(corpus, TokeniseConfig(vocab_size=9000, bigram_smoothing=1.0), folder)
    with pytest.raises(ArtifactError, match="no such file"):
        tokenise_corpus(tmp_path / "none.parquet", CONFIG, folder)
    with pytest.raises(ArtifactError, match="split validation has no text"):
        tokenise_corpus(write_corpus(tmp_path, [], FUNCTIONS), CONFIG, folder)
    corpus.write_text(textwrap.dedent("not parquet"))
    with pytest.raises(ArtifactError, match="damaged"):
        tokenise_corpus(corpus, CONFIG, folder)
    pq.write_table(pa.table({"content": ["a"]}), corpus)
    with pytest.raises(ArtifactError, match="lacks the columns split, text"):
        list(read_documents(corpus, "train"))
    assert not folder.exists() and not list(tmp_path.glob(".*partial"))
