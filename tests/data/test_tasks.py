"""Contrast pairs: real Python, one decision, words of one split, and the token that really follows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.artifacts import ArtifactError, read_json
from pipeline.config import TasksConfig
from pipeline.data.tasks import (
    Pair,
    Side,
    TaskError,
    TaskSet,
    encode_tasks,
    find_task,
    generate,
    prompt_tails,
    task_names,
)
from pipeline.data.tasks.base import Draw, Task
from pipeline.data.tasks.encode import SCHEMA, EncodedPair, Unfit, encode_pair, encode_side, encode_task
from pipeline.data.tasks.prompts.names import COPIED
from pipeline.data.tasks.registry import TABLE_1, _tasks, task
from pipeline.data.tokenizer import PATTERN, Tokenizer
from pipeline.data.words import IDIOM_WORDS, SPLITS, TASK_WORDS, WordPool

SEED = 7
CONFIG = TasksConfig(n_train=12, n_validation=6, n_test=6, tail_chars=32)


def made(name: str, split: str = "train", n: int = 30) -> list[Pair]:
    return generate(name, split, n, SEED)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A vocabulary in which all tasks are expressible, because it was learnt from them."""
    names = (*task_names(), *["class_init"] * 9)  # the answers of class_init have to become whole tokens
    return Tokenizer.train([side.text for name in names for pair in made(name) for side in pair.sides], 1536)


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "tasks"
    encode_tasks(CONFIG, SEED, tokenizer, path)
    return path


def with_merges(*merged: bytes) -> Tokenizer:
    """The 256 bytes and the given further tokens."""
    singles = [bytes([value]) for value in range(256)]
    return Tokenizer({token: rank for rank, token in enumerate([*singles, *merged])}, PATTERN)


# Words


def test_no_identifier_and_no_string_belongs_to_two_shares() -> None:
    shares = [
        {*pool.names, *pool.functions, *pool.classes, *pool.strings} for pool in (IDIOM_WORDS, *TASK_WORDS.values())
    ]
    for one, other in combinations(shares, 2):
        assert not one & other


def test_names_are_identifiers_that_hide_nothing_of_python() -> None:
    reserved = {
        "print",
        "len",
        "list",
        "set",
        "map",
        "object",
        "slice",
        "exit",
        "lambda",
        "current",
        "f",
        "x",
        "y",
        "i",
    }
    for pool in TASK_WORDS.values():
        assert all(name.isidentifier() and name not in reserved for name in (*pool.names, *pool.functions))
        assert len(pool.names) >= 120 and len(pool.strings) >= 60
        assert len(set(pool.names)) == len(pool.names)


# The registry


def test_the_twenty_tasks_come_in_the_order_of_table_1() -> None:
    assert len(TABLE_1) == 20
    assert task_names()[:20] == TABLE_1
    assert (TABLE_1[0], TABLE_1[9], TABLE_1[19]) == ("single_double_quote", "for_while", "while_return_true")


def test_an_added_task_is_found_after_table_1(added: Task) -> None:
    assert task_names() == (*TABLE_1, added.name)
    assert find_task(added.name).description == "Close a bracket."
    assert len(generate(added.name, "test", 5, SEED)) == 5


def test_an_unknown_task_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(TaskError, match="unknown task 'for_whlie'; did you mean 'for_while'"):
        generate("for_whlie", "train", 1, SEED)
    with pytest.raises(TaskError, match="unknown split 'dev' of task for_while; allowed: train, validation, test"):
        generate("for_while", "dev", 1, SEED)


def test_a_task_with_too_few_prompts_is_refused(added: Task) -> None:
    _tasks[added.name] = replace(added, make=lambda draw: Pair(Side("f(", ")", "\n"), Side("f[", "]", "\n")))
    with pytest.raises(TaskError, match="2 pairs wanted for train, only 1 differ; lower tasks.n_train"):
        generate(added.name, "train", 2, SEED)


@pytest.fixture
def added() -> Iterator[Task]:
    @task(decides="which bracket was opened", answers=(")", "]"))
    def zz_added(draw: Draw) -> Pair:
        """Close a bracket."""
        name = draw.name()
        return Pair(Side(f"print({name}", ")", "\n"), Side(f"print[{name}", "]", "\n"))

    yield _tasks["zz_added"]
    del _tasks["zz_added"]


# Text


@pytest.mark.parametrize("name", TABLE_1)
def test_prompt_answer_and_after_are_python(name: str) -> None:
    for pair in made(name):
        for side in pair.sides:
            ast.parse(side.text)


@pytest.mark.parametrize("name", TABLE_1)
def test_the_right_answer_of_one_side_is_not_what_follows_on_the_other(name: str) -> None:
    for pair in made(name):
        assert pair.a.prompt != pair.b.prompt
        assert pair.a.answer != pair.b.answer


@pytest.mark.parametrize("name", TABLE_1)
def test_both_sides_begin_alike_and_differ_in_few_characters(name: str) -> None:
    for pair in made(name):
        a, b = pair.a.prompt, pair.b.prompt
        alike = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        assert (
            "(" in a[:alike] or a.startswith("class ") and "\n" in a[:alike]
        )  # at the least how the first line begins
        assert abs(len(a) - len(b)) <= 40


@pytest.mark.parametrize("name", TABLE_1)
def test_no_prompt_repeats_across_or_within_splits(name: str) -> None:
    prompts = [side.prompt for split in SPLITS for pair in made(name, split, 200) for side in pair.sides]
    assert len(prompts) == len(set(prompts)) == 3 * 2 * 200


@pytest.mark.parametrize("name", TABLE_1)
def test_every_prompt_ends_with_words_of_its_own_split(name: str) -> None:
    for split in SPLITS:
        pool = TASK_WORDS[split]
        for pair in made(name, split):
            for side in pair.sides:
                assert holds_a_word(side.prompt[-CONFIG.tail_chars :], pool), side.prompt


def holds_a_word(text: str, pool: WordPool) -> bool:
    """Whether the text has a name, string or part of a compound of the pool that is at least three letters long."""
    return any(
        word[-6:] in text for word in (*pool.names, *pool.strings, *pool.functions, *pool.classes) if len(word) > 2
    )


def test_more_pairs_are_never_other_pairs_and_another_seed_gives_others() -> None:
    assert made("class_init", n=30)[:10] == made("class_init", n=10)
    assert generate("class_init", "train", 10, SEED + 1) != made("class_init", n=10)


def test_tails_cover_every_prompt_that_the_study_uses(folder: Path) -> None:
    tails = prompt_tails(CONFIG, SEED)
    rows = pq.read_table(folder / "pairs.parquet").to_pylist()
    assert {row[key][-CONFIG.tail_chars :] for row in rows for key in ("a_prompt", "b_prompt")} <= tails
    assert {len(tail) for tail in tails} == {CONFIG.tail_chars}


def test_the_last_name_decides_class_init_and_the_swap_decides_var_swap() -> None:
    for pair in made("class_init"):
        for side in pair.sides:
            assert side.prompt.endswith(f"self.{side.answer.strip()} =")
            assert side.answer.strip() in side.prompt.split(")")[0]  # it is a parameter
    for pair in made("var_swap"):
        assert pair.a.prompt.endswith("x, y = y,") and pair.a.answer == " x"
        assert pair.b.prompt.endswith("y, x = x,") and pair.b.answer == " y"


# Tokens


def test_the_answer_is_the_token_that_really_follows() -> None:
    tokenizer = with_merges(b'")', b'")\n')
    side = Side('f("a', '")', "\nx")
    tokens, answer = encode_side(side, tokenizer)  # type: ignore[misc]
    assert tokens == [tokenizer.eot, *b'f("a']
    assert answer == tokenizer.ranks[b'")\n']  # the newline after the answer belongs to its token


def test_a_token_across_the_end_of_the_prompt_makes_a_pair_unfit() -> None:
    tokenizer = with_merges(b")\n")
    item = encode_pair(0, Pair(Side("f(a)", "\n", "x"), Side("f[a]", "\n", "x")), tokenizer)
    assert item == Unfit("the token ')\\n' reaches from the prompt into the answer")


def test_equal_tokens_after_both_prompts_make_a_pair_unfit() -> None:
    pair = Pair(Side("f(1", "]", "\n"), Side("g(1", "]]", "\n"))
    assert encode_pair(0, pair, with_merges()) == Unfit("the same token ']' follows both prompts")
    assert isinstance(encode_pair(0, pair, with_merges(b"]]")), EncodedPair)


def test_every_row_gives_back_its_prompt_and_answer(folder: Path, tokenizer: Tokenizer) -> None:
    rows = pq.read_table(folder / "pairs.parquet").to_pylist()
    assert len(rows) == 20 * (12 + 6 + 6)
    for row in rows:
        for x in "ab":
            assert row[f"{x}_tokens"][0] == tokenizer.eot
            assert tokenizer.decode(row[f"{x}_tokens"][1:]) == row[f"{x}_prompt"]
            follows, answer = tokenizer.decode([row[f"{x}_answer_token"]]), row[f"{x}_answer"]
            assert follows.startswith(answer) or answer.startswith(follows)


@pytest.mark.parametrize("name", TABLE_1)
def test_a_tasks_two_answer_tokens_are_the_same_in_all_pairs(folder: Path, name: str) -> None:
    rows = [row for row in pq.read_table(folder / "pairs.parquet").to_pylist() if row["task"] == name]
    answers = {(row["a_answer_token"], row["b_answer_token"]) for row in rows}
    assert (len(answers) > 5) if find_task(name).varied else (len(answers) == 1)


def test_a_vocabulary_of_bytes_cannot_copy_names_but_can_close_quotes(tmp_path: Path) -> None:
    report = encode_tasks(CONFIG, SEED, with_merges(), tmp_path / "tasks")["tasks"]
    tasks = TaskSet.load(tmp_path / "tasks")
    assert tasks.expressible("single_double_quote") and report["single_double_quote"]["answers"] == [['"'], ["'"]]
    assert not tasks.expressible("class_init")
    assert str(tasks.reason("class_init")).startswith("0% of its pairs are expressible, 90% are needed; most often")
    assert "the same token ' ' follows both prompts" in str(tasks.reason("indent_for"))
    assert report["class_init"]["n_pairs"] == {"train": 0, "validation": 0, "test": 0}
    assert len(tasks.examples("class_init", 3)) == 1
    with pytest.raises(TaskError, match="task class_init is not expressible in this vocabulary: 0%"):
        tasks.batch("class_init", "train")


def test_an_answer_to_be_copied_has_to_be_one_whole_token() -> None:
    first_letters = with_merges(*{f" {name[0]}".encode() for name in COPIED})
    rows, report = encode_task(find_task("class_init"), CONFIG, SEED, first_letters)
    assert rows == [] and not report["expressible"]
    assert re.search(r"0% .* most often the answer ' \w+' is not one token", report["reason"])
    whole = with_merges(*{f" {name[:end]}".encode() for name in COPIED for end in range(1, len(name) + 1)})
    assert encode_task(find_task("class_init"), CONFIG, SEED, whole)[1]["expressible"]


@pytest.mark.parametrize(("unfit_frac", "expressible"), [(0.04, True), (0.3, False)])
def test_a_few_inexpressible_pairs_are_replaced_and_many_refuse_the_task(
    added: Task, unfit_frac: float, expressible: bool
) -> None:
    def make(draw: Draw) -> Pair:
        name, after = draw.name(), " " if draw.rng.random() < unfit_frac else "\n"
        return Pair(Side(f"print({name}", ")", after), Side(f"print[{name}", "]", "\n"))

    _tasks[added.name] = replace(added, make=make)
    config = TasksConfig(n_train=60, n_validation=60, n_test=60, tail_chars=4)
    rows, report = encode_task(_tasks[added.name], config, SEED, with_merges(b")\n"))
    assert report["expressible"] is expressible
    if expressible:
        assert report["n_pairs"] == {"train": 60, "validation": 60, "test": 60}
        assert {row["a_answer_token"] for row in rows} == {256}
        assert max(row["index"] for row in rows) >= 60  # some pair was not taken
    else:
        assert "')' and ']' follow instead of the task's usual two tokens" in report["reason"]


# Reading back


def test_neighbouring_rows_of_a_batch_have_swapped_answers(folder: Path) -> None:
    batch = TaskSet.load(folder).batch("set_or_string", "validation")
    assert batch.n_pairs == 6 and batch.tokens.shape[0] == 12
    assert torch.equal(batch.answers[0::2], batch.answers[1::2].flip(1))
    first, row = batch.tokens[0, : batch.last[0] + 1], pq.read_table(folder / "pairs.parquet").to_pylist()
    expected = next(r for r in row if r["task"] == "set_or_string" and r["split"] == "validation")
    assert first.tolist() == expected["a_tokens"]
    assert batch.answers[0].tolist() == [expected["a_answer_token"], expected["b_answer_token"]]


def test_the_same_seed_gives_the_same_files_and_hashes(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    encode_tasks(CONFIG, SEED, tokenizer, tmp_path / "again")
    for file in ("pairs.parquet", "report.json"):
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()


def test_the_hash_of_a_task_changes_with_its_pairs_only(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    encode_tasks(CONFIG, SEED + 1, tokenizer, tmp_path / "other")
    one, other = TaskSet.load(folder), TaskSet.load(tmp_path / "other")
    assert len({one.hash(name) for name in TABLE_1} | {other.hash(name) for name in TABLE_1}) == 40
    assert TaskSet.load(folder).hash("with_as") == one.hash("with_as")


def test_missing_damaged_and_incomplete_tasks_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="report.json: no such file"):
        TaskSet.load(tmp_path)
    (tmp_path / "report.json").write_bytes((folder / "report.json").read_bytes())
    with pytest.raises(ArtifactError, match="pairs.parquet: no such file"):
        TaskSet.load(tmp_path)
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ArtifactError, match="pairs.parquet: damaged"):
        TaskSet.load(tmp_path)
    rows = pq.read_table(folder / "pairs.parquet").to_pylist()
    pq.write_table(pa.Table.from_pylist(rows[1:], schema=SCHEMA), tmp_path / "pairs.parquet")
    with pytest.raises(ArtifactError, match="23 pairs of single_double_quote, its report says 24"):
        TaskSet.load(tmp_path)


def test_the_report_describes_every_task(folder: Path) -> None:
    report = read_json(folder / "report.json")["tasks"]
    assert tuple(report) == TABLE_1
    for entry in report.values():
        assert entry["description"] and entry["decides"] and entry["reason"] is None
        assert 10 <= entry["n_tokens_median"] <= entry["n_tokens_max"] <= 128
