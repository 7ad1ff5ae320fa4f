"""Generalisation sets: changed pairs keep their decision, natural contexts are real code that makes it."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.artifacts import ArtifactError, read_json
from pipeline.config import GeneralisationConfig, TasksConfig
from pipeline.data.generalisation import NATURAL, GeneralisationSet, make_generalisation_sets
from pipeline.data.generalisation.edits import edited, identifiers, indented, renamed
from pipeline.data.generalisation.families import FAMILIES, FIXED, STRAY, Change
from pipeline.data.generalisation.generalisation_set import SCHEMA
from pipeline.data.generalisation.held_out import TokenisedFunction
from pipeline.data.tasks import Pair, Side, TaskError, TaskSet, encode_tasks, find_task, generate
from pipeline.data.tasks.registry import TABLE_1
from pipeline.data.tokenizer import PATTERN, Tokenizer

SEED = 7
N_CTX = 128
CONFIG = GeneralisationConfig(n_pairs=6, n_natural=32)
LETTERS = Tokenizer({bytes([value]): value for value in range(256)}, PATTERN)
FUNCTION = "def other(self):\n    return self.total\n"
WORDS = ("road", "ship", "stone", "cloud", "grass", "brick", "chair", "glass", "north", "paint", "horse", "queue")


def real_code() -> list[str]:
    """Functions that make some of the decisions, each in words of its own."""
    return [
        f"def {word}_all(self, {word}, name):\n"
        f"    self.{word}_of(name)\n"
        f"    for {word}_one in {word}:\n        if {word} == {i}:\n            name = {i}\n"
        f"    while {word}:\n        {word} = {word}_of(name)\n"
        f"    raise ValueError(\"no {word}\")\n    raise KeyError('a {word}')\n"
        for i, word in enumerate(WORDS)
    ]


@dataclass(frozen=True)
class Study:
    """A small study up to its tasks, and a corpus of real code."""

    tokenizer: Tokenizer
    tasks: TaskSet
    corpus: Path

    def make(self, folder: Path, **changes: Any) -> GeneralisationSet:
        wanted = {"tasks": self.tasks, "tokenizer": self.tokenizer, "corpus": self.corpus, "n_ctx": N_CTX, "seed": SEED}
        make_generalisation_sets(changes.pop("config", CONFIG), folder=folder, **(wanted | changes))
        return GeneralisationSet.load(folder)


def write_corpus(path: Path, texts: list[str], source: str = "installed", split: str = "validation") -> Path:
    n = len(texts)
    pq.write_table(pa.table({"text": texts, "source": [source] * n, "split": [split] * n}), path)
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = tmp_path_factory.mktemp("study")
    names = (*TABLE_1, *["class_init"] * 9)  # the answers of class_init have to become whole tokens
    texts = [side.text for name in names for pair in generate(name, "train", 30, SEED) for side in pair.sides]
    plain = [f"x = {word}\n" for word in ("name value data size path key type index start end text mode line").split()]
    tokenizer = Tokenizer.train([*texts, *plain * 20, *real_code()], 1536)
    encode_tasks(TasksConfig(n_train=8, n_validation=8, n_test=8, tail_chars=32), SEED, tokenizer, root / "tasks")
    return Study(tokenizer, TaskSet.load(root / "tasks"), write_corpus(root / "corpus.parquet", real_code()))


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "generalisation"
    study.make(path)
    return path


@pytest.fixture(scope="module")
def generalisation(folder: Path) -> GeneralisationSet:
    return GeneralisationSet.load(folder)


def changed(task: str, family: str, n: int = 12) -> list[tuple[Pair, Pair]]:
    """Test pairs and what a family makes of them."""
    pairs = generate(task, "test", n, SEED)
    plain = ["mode", "node", "line", "user", "port", "host"] if find_task(task).varied else None
    changes = [Change(task, Random(i), plain, [(20, FUNCTION)], room=60) for i in range(n)]
    made = [FAMILIES[family](pair, change) for pair, change in zip(pairs, changes, strict=True)]
    assert all(pair is not None for pair in made)
    return list(zip(pairs, made, strict=True))  # type: ignore[arg-type]


# Changed pairs, as text


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", TABLE_1)
def test_a_changed_pair_is_python_and_still_a_contrast(task: str, family: str) -> None:
    for pair, new in changed(task, family):
        assert new.a.prompt != new.b.prompt and new.a.answer != new.b.answer
        assert new != pair
        for side in new.sides:
            ast.parse(side.text)
        if family != "names":
            assert [side.answer for side in new.sides] == [side.answer for side in pair.sides]


@pytest.mark.parametrize("task", TABLE_1)
def test_other_names_are_other_names_in_the_same_places(task: str) -> None:
    kept = FIXED.get(task, set()) | ({"x", "y"} if task == "var_swap" else set())
    for pair, new in changed(task, "names"):
        old_words, new_words = (re.findall(r"\w+", two.a.text + " | " + two.b.text) for two in (pair, new))
        replaced = dict(zip(old_words, new_words, strict=True))
        assert [replaced[word] for word in old_words] == new_words  # one name becomes one name, on both sides
        assert len(set(replaced.values())) == len(replaced)
        other = {word for word, now in replaced.items() if now != word}
        assert not other & set(new_words)
        assert other >= {name for side in pair.sides for name in identifiers(side.text)} - kept
        assert not other & (kept | {"self", "__init__", "open", "print", "append", "range", "add"})


def test_names_to_be_copied_become_names_as_plain() -> None:
    for pair, new in changed("class_init", "names"):
        for old_side, new_side in zip(pair.sides, new.sides, strict=True):
            assert new_side.prompt.endswith(f"self.{new_side.answer.strip()} =")
            assert new_side.answer != old_side.answer and new_side.answer.strip().islower()


@pytest.mark.parametrize("task", TABLE_1)
def test_a_comment_changes_nothing_for_python_and_holds_a_mark_of_the_task(task: str) -> None:
    for pair, new in changed(task, "distractor"):
        for old_side, new_side in zip(pair.sides, new.sides, strict=True):
            assert ast.dump(ast.parse(new_side.text)) == ast.dump(ast.parse(old_side.text))
            comment = next(line for line in new_side.prompt.split("\n") if line.lstrip().startswith("#"))
            assert any(mark in comment for mark in STRAY[task])
            assert not new_side.prompt.endswith(comment)
        assert _comment_of(new.a) == _comment_of(new.b)


def _comment_of(side: Side) -> tuple[int, str]:
    """Number and text of the commented line, its indentation left out."""
    return next((i, x.strip()) for i, x in enumerate(side.prompt.split("\n")) if x.lstrip().startswith("#"))


def test_a_comment_stands_between_what_decides_and_the_answer_where_lines_do() -> None:
    for _, new in changed("set_or_string", "distractor"):
        assert [line.split()[0] for line in new.a.prompt.split("\n")[2:4]] == ["#", "for"]


@pytest.mark.parametrize("family", ["longer", "surroundings"])
@pytest.mark.parametrize("task", TABLE_1)
def test_what_stood_there_stands_there_unchanged_in_other_surroundings(task: str, family: str) -> None:
    for pair, new in changed(task, family):
        heads = set()
        for old_side, new_side in zip(pair.sides, new.sides, strict=True):
            old, last = ast.parse(old_side.text).body[0], ast.parse(new_side.text).body[-1]
            inner = [last, *getattr(last, "body", [])]
            assert ast.dump(old) in map(ast.dump, inner)
            heads.add(new_side.prompt.split(old_side.prompt.split("\n")[0])[0])
        assert len(heads) == 1  # the same for both sides


def test_indentation_that_is_the_answer_is_not_changed() -> None:
    assert all(new.a.prompt.startswith("import ") for _, new in changed("indent_for", "surroundings"))
    assert any(new.a.prompt.startswith("class ") for _, new in changed("for_while", "surroundings"))


def test_edits_stay_on_their_side_of_the_borders() -> None:
    side = Side("def f(a):\n    a.b =", " a", "\n    return f'{a} a'  # a\n")
    assert renamed(side, {"a": "long", "b": "c"}) == Side(
        "def f(long):\n    long.c =", " long", "\n    return f'{long} a'  # a\n"
    )
    assert indented(Side("if x:\n\n", "    ", "y\n"), 2) == Side("  if x:\n\n", "      ", "y\n")
    assert edited(Side("ab", "c", "d"), [(2, 2, "-"), (3, 3, "+")]) == Side("ab", "-c", "+d")


# Changed pairs, in tokens


@pytest.mark.parametrize("task", TABLE_1)
def test_rows_give_back_prompts_and_keep_the_answer_tokens(
    task: str, study: Study, generalisation: GeneralisationSet
) -> None:
    fixed = {(row["a_answer_token"], row["b_answer_token"]) for row in study.tasks.rows[task]}
    families = [family for family in generalisation.families(task) if family != NATURAL]
    assert {"names", "distractor", "surroundings"} <= set(families)
    for row in (row for family in families for row in generalisation.rows[task, family]):
        answers = row["a_right_token"], row["b_right_token"]
        assert answers == (row["b_wrong_token"], row["a_wrong_token"])
        assert find_task(task).varied or answers in fixed
        for side in "ab":
            tokens = row[f"{side}_tokens"]
            assert tokens[0] == study.tokenizer.eot and len(tokens) <= N_CTX
            assert study.tokenizer.decode(tokens[1:]) == row[f"{side}_prompt"]
            follows, answer = study.tokenizer.decode([row[f"{side}_right_token"]]), row[f"{side}_answer"]
            assert follows.startswith(answer) or answer.startswith(follows)


def test_a_family_is_made_of_test_pairs_only(study: Study, generalisation: GeneralisationSet) -> None:
    for family in FAMILIES:
        indices = {row["index"] for row in generalisation.rows["for_while", family]}
        assert len(indices) == CONFIG.n_pairs
        assert indices <= {row["index"] for row in study.tasks.rows["for_while"] if row["split"] == "test"}


def test_a_family_that_does_not_fit_is_absent_with_the_reason(study: Study, tmp_path: Path) -> None:
    longest = max(len(row["a_tokens"]) for row in study.tasks.rows["for_while"])
    small = study.make(tmp_path / "generalisation", n_ctx=longest)
    assert "longer" not in small.families("for_while")
    reason = "0 of 8 pairs can be changed so, 6 are wanted; most often the family has no change that fits"
    assert small.reason("for_while", "longer") == reason
    with pytest.raises(TaskError, match="task for_while has no generalisation set longer: 0 of 8 pairs"):
        small.batch("for_while", "longer")


# Natural contexts


def test_natural_contexts_are_held_out_code_and_what_follows_there(
    study: Study, generalisation: GeneralisationSet
) -> None:
    texts = {tuple(study.tokenizer.encode(text)) for text in real_code()}
    have = {"single_double_quote", "for_while", "if_equals"}
    assert have <= {task for task in generalisation.names if NATURAL in generalisation.families(task)}
    for task in have:
        expected = next(row for row in study.tasks.rows[task])
        for row in generalisation.rows[task, NATURAL]:
            for side in "ab":
                prompt = (*row[f"{side}_tokens"][1:], row[f"{side}_right_token"])
                assert any(text[: len(prompt)] == prompt for text in texts)
                assert row[f"{side}_right_token"] == expected[f"{side}_answer_token"]
            assert row["a_right_token"] == row["b_wrong_token"] != row["a_wrong_token"] == row["b_right_token"]


def test_a_prompt_that_is_too_long_begins_at_a_line_and_still_decides(study: Study, tmp_path: Path) -> None:
    short = study.make(tmp_path / "generalisation", n_ctx=32)
    prompts = [row[f"{x}_prompt"] for row in short.rows["single_double_quote", NATURAL] for x in "ab"]
    assert prompts and all(prompt.startswith((" ", "def")) for prompt in prompts)
    assert any(prompt.startswith(" ") for prompt in prompts)
    assert {prompt.rpartition("Error(")[2][0] for prompt in prompts} == {'"', "'"}
    document = TokenisedFunction.of("a = 1\nb = 2\nc = 3\n", LETTERS)
    assert [document.window(14, most) for most in (20, 10, 8, 2, 1)] == [0, 6, 6, 12, None]
    document = TokenisedFunction.of("a = [\nb]\nc = 3\n", LETTERS)
    assert [document.window(13, most) for most in (13, 12, 4, 3)] == [0, 9, 9, None]  # a line in a bracket is none


def test_one_context_a_side_is_of_one_document_and_no_prompt_comes_twice(study: Study, tmp_path: Path) -> None:
    many = "def f(a):\n" + "".join(f"    for x{i} in a:\n        while y{i}:\n            z()\n" for i in range(20))
    corpus = write_corpus(tmp_path / "corpus.parquet", [many, *real_code()])
    made = study.make(tmp_path / "generalisation", corpus=corpus)
    for side in "ab":
        prompts = [row[f"{side}_prompt"] for row in made.rows["for_while", NATURAL]]
        assert sum("_all" not in prompt and "_one" not in prompt and "_of" not in prompt for prompt in prompts) <= 1
        assert len(set(prompts)) == len(prompts) <= len(WORDS) + 1
    found = made.report["tasks"]["for_while"]["families"][NATURAL]["found"]
    assert [side["functions"] for side in found] == [len(WORDS) + 1] * 2
    assert all(side["contexts"] > 20 for side in found)


def test_no_more_contexts_than_wanted_are_taken_and_too_few_are_none(study: Study, tmp_path: Path) -> None:
    made = study.make(tmp_path / "generalisation", config=GeneralisationConfig(n_pairs=2, n_natural=7))
    assert made.batch("for_while", NATURAL).n_pairs == 3 and made.batch("for_while", "names").n_pairs == 2
    few = study.make(tmp_path / "few", corpus=write_corpus(tmp_path / "corpus.parquet", real_code()[:2]))
    reason = "2 of side a and 2 of side b found in held-out code, one a function at most, which gives 2 pairs"
    assert few.reason("for_while", NATURAL) == f"{reason}; 8 are needed"


@pytest.mark.parametrize(("source", "split"), [("idioms", "validation"), ("installed", "train")])
def test_nothing_is_mined_from_generated_or_training_text(
    source: str, split: str, study: Study, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "corpus.parquet", real_code(), source, split)
    made = study.make(tmp_path / "generalisation", corpus=corpus)
    assert all(NATURAL not in made.families(task) for task in TABLE_1)
    reason = "0 of side a and 0 of side b found in held-out code, one a function at most, which gives 0 pairs"
    assert made.reason("for_while", NATURAL) == f"{reason}; 8 are needed"
    assert "longer" not in made.families("for_while")  # the functions in front are held out too


# Reading back


def test_a_batch_has_the_files_prompts_in_neighbouring_rows(generalisation: GeneralisationSet) -> None:
    for family in generalisation.families("for_while"):
        batch, rows = generalisation.batch("for_while", family), generalisation.rows["for_while", family]
        assert batch.n_pairs == len(rows)
        assert torch.equal(batch.answers[0::2], batch.answers[1::2].flip(1))
        assert batch.tokens[1, : batch.last[1] + 1].tolist() == rows[0]["b_tokens"]
        assert batch.answers[1].tolist() == [rows[0]["b_right_token"], rows[0]["b_wrong_token"]]


def test_the_same_seed_gives_the_same_files_and_another_one_others(study: Study, folder: Path, tmp_path: Path) -> None:
    again, other = study.make(tmp_path / "again"), study.make(tmp_path / "other", seed=SEED + 1)
    for file in ("pairs.parquet", "report.json"):
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()
    hashes = [*(again.hash(task) for task in TABLE_1), *(other.hash(task) for task in TABLE_1)]
    assert len(set(hashes)) == 40


def test_unknown_names_are_refused(generalisation: GeneralisationSet) -> None:
    with pytest.raises(TaskError, match="unknown task 'for_whlie'; allowed: single_double_quote"):
        generalisation.families("for_whlie")
    families = "names, longer, distractor, surroundings, natural"
    with pytest.raises(TaskError, match=f"unknown family 'nmaes' of task for_while; allowed: {families}"):
        generalisation.batch("for_while", "nmaes")


def test_missing_damaged_and_incomplete_files_are_refused(study: Study, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="report.json: no such file"):
        GeneralisationSet.load(tmp_path)
    (tmp_path / "report.json").write_bytes((folder / "report.json").read_bytes())
    with pytest.raises(ArtifactError, match="pairs.parquet: no such file; run the stage that makes it"):
        GeneralisationSet.load(tmp_path)
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ArtifactError, match="pairs.parquet: damaged"):
        GeneralisationSet.load(tmp_path)
    rows = pq.read_table(folder / "pairs.parquet").to_pylist()
    pq.write_table(pa.Table.from_pylist(rows[1:], schema=SCHEMA), tmp_path / "pairs.parquet")
    with pytest.raises(ArtifactError, match="5 pairs of single_double_quote, names, its report says 6"):
        GeneralisationSet.load(tmp_path)


def test_a_corpus_or_a_tokenizer_that_does_not_belong_is_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nowhere.parquet: no such file"):
        study.make(tmp_path / "generalisation", corpus=tmp_path / "nowhere.parquet")
    pq.write_table(pa.table({"text": ["x = 1"]}), tmp_path / "foreign.parquet")
    with pytest.raises(ArtifactError, match="lacks the columns source, split"):
        study.make(tmp_path / "generalisation", corpus=tmp_path / "foreign.parquet")
    with pytest.raises(ArtifactError, match="the tasks are in the tokens of tokenizer"):
        study.make(tmp_path / "generalisation", tokenizer=LETTERS)
    assert not (tmp_path / "generalisation").exists()


def test_second_test_sets_of_other_pairs_are_refused(
    study: Study, generalisation: GeneralisationSet, tmp_path: Path
) -> None:
    generalisation.check_tasks(study.tasks, tmp_path)
    config = TasksConfig(n_train=8, n_validation=8, n_test=8, tail_chars=32)
    encode_tasks(config, SEED + 1, study.tokenizer, tmp_path / "tasks")
    with pytest.raises(ArtifactError, match=r"made from pairs \w+ of single_double_quote, not from .*; run dvc repro$"):
        generalisation.check_tasks(TaskSet.load(tmp_path / "tasks"), tmp_path)


def test_a_task_that_is_not_expressible_has_no_second_test_set(study: Study, tmp_path: Path) -> None:
    config = TasksConfig(n_train=8, n_validation=8, n_test=8, tail_chars=32)
    encode_tasks(config, SEED, LETTERS, tmp_path / "tasks")
    made = study.make(tmp_path / "generalisation", tasks=TaskSet.load(tmp_path / "tasks"), tokenizer=LETTERS, n_ctx=512)
    assert made.families("class_init") == ()
    assert str(made.reason("class_init", "names")).startswith("the task is not expressible in this vocabulary: 0%")
    assert "names" in made.families("single_double_quote")


def test_the_report_says_what_there_is(folder: Path) -> None:
    report = read_json(folder / "report.json")
    assert (report["n_ctx"], report["seed"]) == (N_CTX, SEED)
    for entry in report["tasks"].values():
        for about in entry["families"].values():
            assert (about["n_pairs"] == 0) == (about["reason"] is not None) == (about["example"] is None)
