"""A file of contrast pairs is read exactly, and whatever is wrong with it is said with file, line and value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifacts import ArtifactError
from pipeline.data.pairs_file import LEAST_PAIRS, PairsFileError, read_pairs
from pipeline.data.tokenizer import PATTERN, Tokenizer
from pipeline.data.words import SPLITS

MERGES = (b"ab", b"()", b" x")  # further tokens besides the 256 bytes
TOKENIZER = Tokenizer({token: i for i, token in enumerate([*(bytes([v]) for v in range(256)), *MERGES])}, PATTERN)


def pair(a: str = "qa", a_answer: str = "y", b: str = "qb", b_answer: str = "n") -> dict[str, Any]:
    return {"a": {"prompt": a, "answer": a_answer}, "b": {"prompt": b, "answer": b_answer}}


def good(n: int) -> list[dict[str, Any]]:
    return [pair(f"{i}+1=", "y", f"{i}-1=", "n") for i in range(n)]


@pytest.fixture
def written(tmp_path):
    """Writes lines (values as JSON, texts as they are) to a file; returns its path."""

    def write(*lines: Any) -> Path:
        path = tmp_path / "signs.jsonl"
        texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
        path.write_text("\n".join(texts) + "\n", encoding="utf-8", newline="")
        return path

    return write


def read(path: Path, n_ctx: int = 16, seed: int = 0):
    return read_pairs(path, TOKENIZER, n_ctx=n_ctx, seed=seed)


def refusal(path: Path, n_ctx: int = 16) -> str:
    with pytest.raises(PairsFileError) as refused:
        read(path, n_ctx)
    text = str(refused.value)
    assert text.startswith(str(path)) and "\n" not in text and "allowed: " in text
    return text.removeprefix(str(path))


def test_a_file_is_a_task_named_like_it_split_in_half_and_two_quarters(written):
    tasks = read(written(*good(18)))
    assert tasks.names == ("signs",) and tasks.tokenizer_hash == TOKENIZER.hash and tasks.expressible("signs")
    assert [tasks.batch("signs", split).n_pairs for split in SPLITS] == [10, 4, 4]


def test_prompts_begin_with_end_of_text_and_the_two_sides_have_each_others_answers(written):
    tasks = read(written(*good(16)))
    texts = set()
    for split in SPLITS:
        batch = tasks.batch("signs", split)
        assert (batch.tokens[:, 0] == TOKENIZER.eot).all()
        assert batch.answers.tolist() == [[ord("y"), ord("n")], [ord("n"), ord("y")]] * batch.n_pairs
        for tokens, last in zip(batch.tokens.tolist(), batch.last.tolist(), strict=True):
            texts.add(TOKENIZER.decode(tokens[1 : last + 1]))
    assert texts == {f"{i}{sign}1=" for i in range(16) for sign in "+-"}


def test_the_split_follows_from_the_seed_alone(written):
    path = written(*good(40))
    once, again, other = (read(path, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(once.batch("signs", "test").tokens, again.batch("signs", "test").tokens)
    assert once.hash("signs") == again.hash("signs") != other.hash("signs")


def test_blank_lines_a_byte_order_mark_and_windows_line_ends_are_no_pairs(tmp_path):
    lines = [json.dumps(value) for value in good(16)]
    path = tmp_path / "signs.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode())
    assert sum(read(path).batch("signs", split).n_pairs for split in SPLITS) == 16


def test_a_line_separator_inside_a_string_ends_no_line(written):
    assert len(read(written(pair("a\u2028"), *good(16))).rows["signs"]) == 17


def test_an_answer_is_the_token_that_follows_its_prompt(written):
    tasks = read(written(pair("q", " x", "r", "ab"), *good(16)))
    answers = {row["a_answer_token"] for row in tasks.rows["signs"]}
    assert answers == {ord("y"), TOKENIZER.ranks[b" x"]}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{'a': 1}", "not JSON (Expecting property name"),
        ("[1, 2]", "[1, 2] is not an object"),
        ({"a": {"prompt": "q", "answer": "y"}}, "key 'b' is missing"),
        (pair() | {"c": 1}, "key 'c' is unknown"),
        (pair() | {"a": {"promt": "q", "answer": "y"}}, "a: key 'prompt' is missing and key 'promt' is unknown"),
        (pair() | {"b": "q"}, "b: 'q' is not an object"),
        (pair() | {"b": {"prompt": 7, "answer": "y"}}, "b.prompt: 7 is not a string"),
        (pair() | {"b": {"prompt": "q", "answer": None}}, "b.answer: None is not a string"),
        (pair(a=""), "a.prompt is empty"),
        (pair(b_answer=""), "b.answer is empty"),
        (
            '{"a": {"prompt": "\\ud83d", "answer": "y"}, "b": {"prompt": "q", "answer": "n"}}',
            "a.prompt: '\\ud83d' has half a character",
        ),
        (pair("qa", b="qa"), "both prompts are 'qa'"),
        (pair(a_answer="y", b_answer="y"), "both answers are 'y'"),
        (pair(b_answer="no"), "b.answer 'no' is 2 tokens after its prompt: 'n', 'o'"),
        (pair(a_answer="é"), r"a.answer 'é' is 2 tokens after its prompt: b'\xc3', b'\xa9'"),
        ('{"a": 1, "a": 2}', "key 'a' is given twice"),
        (pair("f(", ")"), "a: the token '()' reaches from the prompt into the answer, between 'f(' and ')'"),
        (pair(b="q" * 16), "b.prompt has 17 tokens"),
        (pair("0+1="), "a.prompt '0+1=' is in line 1 too"),
        (pair(b="1-1="), "b.prompt '1-1=' is in line 2 too"),
    ],
)
def test_what_is_wrong_is_said_with_its_line_and_value(written, line, said):
    text = refusal(written(*good(2), "", line, *good(16)[2:]))
    assert text.startswith(f":4: {said}")


def test_the_end_of_a_long_prompt_is_shown(written):
    text = refusal(written(pair("s" * 200 + "\nend", b="s" * 200 + "\nend")))
    assert "both prompts are '…sss" in text and "\\nend'" in text and len(text) < 250


def test_a_prompt_as_long_as_the_context_is_read(written):
    assert read(written(pair(b="q" * 15), *good(16))).n_tokens_max == 16


@pytest.mark.parametrize("n", [0, 1, LEAST_PAIRS - 1])
def test_too_few_pairs_for_a_split_are_refused(written, n):
    assert f": {n} pairs; allowed: at least {LEAST_PAIRS}" in refusal(written(*good(n)))
    assert len(read(written(*good(LEAST_PAIRS))).rows["signs"]) == LEAST_PAIRS


def test_a_file_that_is_not_there_or_not_utf_8(tmp_path):
    with pytest.raises(ArtifactError, match=r"none.jsonl: no such file; write one pair a line: \{"):
        read(tmp_path / "none.jsonl")
    path = tmp_path / "latin.jsonl"
    path.write_bytes(json.dumps(pair()).encode() + b'\n{"\xe9"}\n')
    with pytest.raises(PairsFileError, match=r"latin.jsonl:2: not UTF-8 .*; save the file as UTF-8"):
        read(path)


def test_the_examples_of_the_documentation_are_read(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "pairs.md").read_text(encoding="utf-8")
    line = text.split("```json\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(text.split("```python\n")[1].split("```")[0], {})
    written = (tmp_path / "pairs.jsonl").read_text(encoding="utf-8")
    (tmp_path / "pairs.jsonl").write_text(written + line, encoding="utf-8")
    assert len(read(tmp_path / "pairs.jsonl", n_ctx=64).rows["pairs"]) == 65


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "prompt", "answer", "c"]), inner)
    ),
)


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=30) | JSON.map(lambda value: json.dumps(value).encode()), max_size=4))
def test_any_file_is_read_or_refused(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("any") / "any.jsonl"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(PairsFileError):
        read(path)


SIDE = st.fixed_dictionaries({"prompt": st.text(max_size=4), "answer": st.text(max_size=2)})


@settings(max_examples=200)
@given(st.lists(st.fixed_dictionaries({"a": SIDE, "b": SIDE}), min_size=1, max_size=3))
def test_what_is_read_is_what_was_written(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("any") / "any.jsonl"
    path.write_text("\n".join(map(json.dumps, pairs + good(16))), encoding="utf-8")
    try:
        rows = read(path).rows["any"]
    except PairsFileError:
        return
    for row in rows:
        for side in "ab":
            assert TOKENIZER.decode(row[f"{side}_tokens"][1:]) == row[f"{side}_prompt"]
            assert TOKENIZER.decode([row[f"{side}_answer_token"]]) == row[f"{side}_answer"]
    assert {row["a_prompt"] for row in rows} >= {value["a"]["prompt"] for value in pairs}
