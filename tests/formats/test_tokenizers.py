"""Tokenizers of other projects: the same ids for every text, both ways, and refusals by name."""

from __future__ import annotations

import base64
import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HubTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from pipeline.formats import FormatError
from pipeline.formats.vocabulary import (
    GPT2,
    find_tokenizer,
    merges_of,
    read_tokenizer,
    write_encoder,
    write_hugging_face,
)

TEXTS = st.text(st.sampled_from(string.printable + "äπ漢😀"), max_size=60)


def gpt2_like(tmp_path, special="<|endoftext|>", vocab_size=300):
    """A tokenizer as GPT-2's was made, by the tokenizers library, with the special token last."""
    learner = HubTokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    learner.train_from_iterator(["def f(x):\n    return x\n", "it's what they'll have had"] * 20, trainer)
    learner.add_special_tokens([special])
    return learner


def test_a_tokenizer_json_has_the_same_ids_as_the_library(tmp_path):
    learner = gpt2_like(tmp_path)
    learner.save(str(tmp_path / "tokenizer.json"))
    ours = find_tokenizer(tmp_path)
    assert ours.pattern == GPT2 and ours.vocab_size == learner.get_vocab_size()

    @given(TEXTS)
    def same(text):
        assert ours.encode(text) == learner.encode(text, add_special_tokens=False).ids
        assert ours.decode(ours.encode(text)) == text

    same()


def test_ours_written_as_tokenizer_json_has_the_same_ids(tokenizer, tmp_path):
    write_hugging_face(tokenizer, tmp_path)
    theirs = HubTokenizer.from_file(str(tmp_path / "tokenizer.json"))

    @given(TEXTS)
    def same(text):
        assert theirs.encode(text).ids == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text

    same()
    assert find_tokenizer(tmp_path) == tokenizer


def test_encoder_and_merges_are_read_as_they_were_written(tokenizer, tmp_path):
    write_encoder(tokenizer, tmp_path)
    ids = json.loads((tmp_path / "encoder.json").read_text())
    assert ids["<|endoftext|>"] == 279 and len(ids) == 280
    back = read_tokenizer(tmp_path, "ours")
    assert back == tokenizer and back.hash == tokenizer.hash
    assert read_tokenizer(tmp_path).pattern == GPT2


def test_gpt2s_two_files_have_the_ids_of_the_library(tmp_path):
    learner = gpt2_like(tmp_path)
    learner.model.save(str(tmp_path))
    ids = json.loads((tmp_path / "vocab.json").read_text()) | {"<|endoftext|>": learner.get_vocab_size() - 1}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    ours = find_tokenizer(tmp_path)
    for text in ("def f(x):\n        return x", "they'll  have", "x\n\n\ty"):
        assert ours.encode(text) == learner.encode(text).ids


def test_a_tiktoken_file_is_read_with_the_pattern_named(tokenizer, tmp_path):
    lines = (base64.b64encode(token) + b" %d" % rank for token, rank in tokenizer.ranks.items())
    path = tmp_path / "any.tiktoken"
    path.write_bytes(b"\n".join(lines))
    assert read_tokenizer(path, tokenizer.pattern) == tokenizer
    assert read_tokenizer(path, "cl100k").vocab_size == 280
    path.write_text("AA== 0\nnot a rank\n")
    with pytest.raises(FormatError, match="line 2: not 'base64 rank'"):
        read_tokenizer(path)
    path.write_text("AA== 0\n")
    with pytest.raises(FormatError, match="1 ranks that are not 0, 1, 2"):
        read_tokenizer(path)


def test_merges_are_those_that_a_token_is_made_by(tokenizer):
    made = {"".join(pair) for pair in merges_of(tokenizer)}
    assert len(made) == 280 - 257


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"normalizer": {"type": "NFC"}}, "a normalizer"),
        ({"model": {"type": "WordPiece", "vocab": {}}}, "model 'WordPiece'"),
        ({"model": {"type": "Unigram", "vocab": []}}, "type 'Unigram'"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre-tokenizer Whitespace"),
        ({"pre_tokenizer": None}, "pre-tokenizer None"),
        ({"added_tokens": []}, "has no <|endoftext|>"),
    ],
)
def test_tokenizers_of_another_kind_are_refused_by_name(tmp_path, change, said):
    learner = gpt2_like(tmp_path)
    described = json.loads(learner.to_str()) | change
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(FormatError, match=said.replace("|", r"\|")):
        find_tokenizer(tmp_path)


def test_ids_out_of_order_are_refused(tokenizer, tmp_path):
    write_encoder(tokenizer, tmp_path)
    lines = (tmp_path / "vocab.bpe").read_text().splitlines()
    (tmp_path / "vocab.bpe").write_text("\n".join([*lines[:2], *lines[3:], lines[2]]))
    with pytest.raises(FormatError, match="do not follow the order"):
        read_tokenizer(tmp_path)
    with pytest.raises(FormatError, match="no tokenizer"):
        read_tokenizer(tmp_path / "none")
    (tmp_path / "vocab.bpe").unlink()
    with pytest.raises(FormatError, match="half a tokenizer, encoder.json alone; allowed: encoder.json and vocab.bpe"):
        find_tokenizer(tmp_path)
