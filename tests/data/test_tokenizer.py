"""Laws of the tokenizer: exact round trips, one way to split code, files that cannot be mistaken."""

from __future__ import annotations

import base64
import inspect
import json
import os
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifacts import ArtifactError
from pipeline.data.tokenizer import (
    MAX_WHITE_SPACE,
    PATTERN,
    RANKS_FILE,
    SETTINGS_FILE,
    Tokenizer,
    TokenizerError,
    byte_of_character,
    learn_merges,
    ranks_of,
)

REAL_CODE = [inspect.getsource(module) for module in (os, textwrap, inspect, base64, json)]
VOCAB_SIZE = 700
TOKENIZER = Tokenizer.train(REAL_CODE, VOCAB_SIZE)


def pieces(tokenizer: Tokenizer, text: str) -> list[bytes]:
    return [tokenizer.encoding.decode_single_token_bytes(token) for token in tokenizer.encode(text)]


@given(st.text())
def test_decoding_gives_back_any_text(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert all(0 <= token < TOKENIZER.eot for token in ids)


def test_the_end_of_text_is_the_last_id_and_never_comes_from_text() -> None:
    assert (TOKENIZER.vocab_size, TOKENIZER.eot, len(TOKENIZER.ranks)) == (VOCAB_SIZE, VOCAB_SIZE - 1, VOCAB_SIZE - 1)
    assert TOKENIZER.encoding.encode("<|endoftext|>", allowed_special="all") == [VOCAB_SIZE - 1]
    assert TOKENIZER.eot not in TOKENIZER.encode("<|endoftext|>")
    assert TOKENIZER.decode(TOKENIZER.encode("<|endoftext|>")) == "<|endoftext|>"


def test_the_first_merge_is_the_most_frequent_pair() -> None:
    """Worked by hand: "ab" occurs 4 times, "abc" 3 times, nothing else twice."""
    tokenizer = Tokenizer.train(["abc abc", "abc", "ab"], 259)
    # " a" occurs once; pairs: ab 4, bc 3; after ab: abc 3 (of which one stands behind a space)
    assert [token for token, rank in tokenizer.ranks.items() if rank >= 256] == [b"ab", b"abc"]
    assert tokenizer.encode("abc ab\n") == [257, 32, 256, 10]


def test_the_library_that_learns_and_tiktoken_split_real_code_alike() -> None:
    learner = learn_merges(REAL_CODE, VOCAB_SIZE - 1)
    byte_of = byte_of_character()
    tokenizer = Tokenizer(ranks_of(learner), TOKENIZER.pattern)
    for text in [*REAL_CODE, "näïve = '中文'\r\n\t\tx\u00a0= 1\u2028  \n\n   y  ", "it's 12345 _a__b ):\n\n]]\n  "]:
        expected = [bytes(byte_of[character] for character in token) for token in learner.encode(text).tokens]
        assert pieces(tokenizer, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x\n        return", ["x", "\n", "       ", " return"]),  # n spaces: n - 1 and a word that begins with one
        ("f(x):\n    y", ["f", "(x", "):\n", "   ", " y"]),
        ("[[1, 2]]\n", ["[[", "1", ",", " ", "2", "]]\n"]),
        ('print("a")\n', ["print", '("', "a", '")\n']),
        ("a.add(b=None)", ["a", ".add", "(b", "=None", ")"]),
        ("n += 1234", ["n", " +=", " ", "123", "4"]),
    ],
)
def test_merges_never_cross_these_borders(text: str, expected: list[str]) -> None:
    """With every piece in the text learnt, the pre-token borders are what is left."""
    tokenizer = Tokenizer.train(_learnable(text), _reachable_size(text))
    assert [piece.decode() for piece in pieces(tokenizer, text)] == expected


def _learnable(text: str) -> list[str]:
    return [text, text, text]


def _reachable_size(text: str) -> int:
    return len(ranks_of(learn_merges(_learnable(text), 10_000))) + 1


def test_training_again_gives_the_same_tokenizer_and_other_text_another() -> None:
    again = Tokenizer.train(iter(REAL_CODE), VOCAB_SIZE)
    assert again == TOKENIZER and again.hash == TOKENIZER.hash
    assert Tokenizer.train(REAL_CODE[:2], VOCAB_SIZE).hash != TOKENIZER.hash


def test_batches_are_encoded_as_single_texts_are() -> None:
    assert TOKENIZER.encode_batch(REAL_CODE, threads=2) == [TOKENIZER.encode(text) for text in REAL_CODE]


def test_a_saved_tokenizer_is_loaded_equal(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded == TOKENIZER
    assert loaded.encode(REAL_CODE[1]) == TOKENIZER.encode(REAL_CODE[1])


def test_the_ranks_file_is_tiktokens_format(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    lines = (tmp_path / RANKS_FILE).read_bytes().splitlines()
    assert len(lines) == VOCAB_SIZE - 1
    for rank, line in enumerate(lines):
        token, number = line.split(b" ")
        assert int(number) == rank and TOKENIZER.ranks[base64.b64decode(token)] == rank
    assert [base64.b64decode(line.split()[0]) for line in lines[:256]] == [bytes([value]) for value in range(256)]


def test_white_space_that_the_splitter_cannot_take_is_refused() -> None:
    longest = "x" + " " * (MAX_WHITE_SPACE - 1) + "x"
    assert TOKENIZER.decode(TOKENIZER.encode(longest)) == longest
    for encode in (TOKENIZER.encode, lambda text: TOKENIZER.encode_batch([text], threads=1)):
        with pytest.raises(TokenizerError, match="500000 or more characters of white space"):
            encode("x" + " " * MAX_WHITE_SPACE + "x")


@pytest.mark.parametrize("vocab_size", [0, 256])
def test_a_vocabulary_without_room_for_the_bytes_is_refused(vocab_size: int) -> None:
    with pytest.raises(TokenizerError, match=f"{vocab_size} is too small; allowed: at least 257"):
        Tokenizer.train(REAL_CODE, vocab_size)


def test_the_smallest_vocabulary_is_the_bytes() -> None:
    assert Tokenizer.train(["aa aa"], 257).encode("aé") == [97, 0xC3, 0xA9]


def test_a_corpus_that_is_too_small_is_refused_with_the_size_it_reaches() -> None:
    with pytest.raises(TokenizerError, match="1000 cannot be reached, the corpus gives only 259 ids"):
        Tokenizer.train(["abc abc", "abc", "ab"], 1000)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        Tokenizer.load(tmp_path)
    TOKENIZER.save(tmp_path)
    ranks = tmp_path / RANKS_FILE
    whole = ranks.read_bytes()
    ranks.write_bytes(whole[: len(whole) // 2].rsplit(b"\n", 1)[0] + b"\n")
    with pytest.raises(ArtifactError, match=f"{SETTINGS_FILE} says {VOCAB_SIZE}"):
        Tokenizer.load(tmp_path)
    ranks.write_bytes(whole.replace(b" 300\n", b" three\n"))
    with pytest.raises(ArtifactError, match="line 301: not 'base64 rank'"):
        Tokenizer.load(tmp_path)
    ranks.write_bytes(whole.replace(b" 300\n", b" 299\n"))
    with pytest.raises(ArtifactError, match="ranks that are not 0, 1, 2"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "wrong"),
    [("(", "no regular expression"), ("x*", "cannot take this text apart"), ("[a-z]+", "leaves out characters")],
)
def test_a_pattern_that_cannot_be_used_is_refused_when_it_is_read(tmp_path: Path, pattern: str, wrong: str) -> None:
    Tokenizer({bytes([value]): value for value in range(256)}, pattern).save(tmp_path)
    with pytest.raises(ArtifactError, match=f"tokenizer.json: .*{wrong}"):
        Tokenizer.load(tmp_path)


def test_a_text_for_which_the_pattern_goes_back_too_far_is_refused() -> None:
    tokenizer = Tokenizer({bytes([value]): value for value in range(256)}, r"(a|a)*\1b(?!c)|[\s\S]")
    tokenizer.check()
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_batch([text], 1)):
        with pytest.raises(TokenizerError, match="cannot take this text apart"):
            encode("a" * 40)


def test_ranks_without_some_byte_are_refused(tmp_path: Path) -> None:
    ranks = {bytes([value]): value for value in range(255)} | {b"ab": 255}
    Tokenizer(ranks, PATTERN).save(tmp_path)
    with pytest.raises(ArtifactError, match="not 0, 1, 2, … for all bytes"):
        Tokenizer.load(tmp_path)
