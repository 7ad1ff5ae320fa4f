"""A tokenizer that is given is taken as it is, and refused where its size is another."""

from __future__ import annotations

import pytest

from pipeline.artifacts import ArtifactError
from pipeline.config import TokeniseConfig
from pipeline.data.shards import TokenStream
from pipeline.data.tokenise import given_tokenizer, tokenise_corpus
from pipeline.data.tokenizer import Tokenizer
from tests.data.test_bigram import FUNCTIONS, write_corpus


def config(folder, vocab_size):
    return TokeniseConfig(vocab_size=vocab_size, bigram_smoothing=1.0, tokenizer=str(folder))


def test_the_tokens_are_those_of_the_tokenizer_that_was_given(tmp_path):
    words = Tokenizer.train(["zz zz zz yy yy yy"] * 3, 260)
    words.save(tmp_path)
    corpus = write_corpus(tmp_path, FUNCTIONS, FUNCTIONS)
    stats = tokenise_corpus(corpus, config(tmp_path, 260), tmp_path / "tokens")
    assert stats["tokenizer_hash"] == words.hash == TokenStream.open(tmp_path / "tokens", "train").tokenizer_hash
    assert Tokenizer.load(tmp_path / "tokens") == words


def test_one_of_another_size_or_a_missing_one_is_refused(tmp_path):
    Tokenizer.train(["zz zz zz yy yy yy"] * 3, 260).save(tmp_path)
    with pytest.raises(ArtifactError, match="a tokenizer of 260 ids, but tokenise.vocab_size is 300; set that to 260"):
        given_tokenizer(config(tmp_path, 300))
    with pytest.raises(ArtifactError, match="no such file"):
        given_tokenizer(config(tmp_path / "none", 260))


def test_settings_without_one_are_dumped_as_before():
    assert set(TokeniseConfig(vocab_size=300, bigram_smoothing=1.0).model_dump()) == {"vocab_size", "bigram_smoothing"}
