"""The generated idioms are valid Python, the same for the same seed, and show every skill that the tasks measure."""

from __future__ import annotations

import ast
import re
from collections import Counter
from itertools import islice
from random import Random

import pytest

from pipeline.data.idioms import write_document
from pipeline.data.idioms.blocks import BLOCKS
from pipeline.data.idioms.lines import LINES
from pipeline.data.idioms.stories import STORIES
from pipeline.data.sources.idioms import FILE_SIZE, Idioms
from pipeline.data.words import ATTRIBUTES, TASK_WORDS

# What must be seen to learn each task: a pattern for either answer. Least share of documents that show it.
LEAST = 0.07
SKILLS: dict[str, tuple[str, str]] = {
    "single_double_quote": (r'\("[a-z ]+"\)\n', r"\('[a-z ]+'\)\n"),
    "bracket_counting": (r"= \[[^\[\]\n]*\]\n", r"= \[\[.*\]\]\n"),
    "set_or_string": (r"(\w+) = set\(\)\n(?:.*\n)*\s*\1\.add\(", r"""(\w+) = (?:""|'')\n(?:.*\n)*\s*\1 \+= """),
    "final_kwarg": (r"def \w+\(.*\w=None, \w+=None", r"def \w+\([^=\n]+, \w+\):\n"),
    "class_init": (r"self\.(\w+) = \1\n\s+self\.(\w+) = \2\n", r"def __init__\(self, \w+, \w+, \w+"),
    "with_as": (r"with open\(\w+\) as \w+:\n", r"\w+ = open\(\w+\)\n"),
    "bracket_brace": (r"""\{(['"])[^\n]*\1: [^\n]*, \1[\w ]+\1:""", r"""\[(['"])[\w ]+\1,"""),
    "with_open": (r"open\(.*, ['\"]rb?['\"]\)", r"open\(.*, ['\"]wb?['\"]\)"),
    "for_while": (r"for \w+ in \w+", r"while [\w.]+:\n"),
    "else_elif": (r"else:\n", r"elif \w+"),
    "fstring_brace": (r"""\(f["'][\w ]+ \{""", r"""\(["'][\w ]+["']\)\n"""),
    "if_ternary": (r"if [\w.]+:\n", r"= \S+ if [\w.]+ else "),
    "var_swap": (r"([a-z]\w*), (\w+) = \2, \1\n", r"(\w+), (\w+) = \2, \1\n"),
    "indent_for": (r"(?m)^( +)for .*:\n\1    \w", r"(?m)^( +)    for .*:\n\1        \w"),
    "lambda_func": (r"\w+ = lambda \w+: ", r"def \w+\("),
    "if_equals": (r"if \w+ == ", r"(?m)^ *\w+ = "),
    "enumerate_range": (r"for \w+, \w+ in enumerate\(", r"for \w+ in range\("),
    "var_if": (r"if \w+ == True:\n", r"\w+ = True\n"),
    "while_return_true": (r"while True:\n", r"return True\n"),
}


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return [document.text for document in islice(Idioms(seed=0).documents(set()), 150 * FILE_SIZE)]


def test_every_document_is_valid_python(documents: list[str]) -> None:
    for text in documents:
        ast.parse(text)
        assert text.endswith("\n") and not text.endswith("\n\n") and "\t" not in text


def test_there_are_at_least_sixty_templates() -> None:
    assert len(LINES) + len(BLOCKS) + len(STORIES) >= 60


@pytest.mark.parametrize("task", SKILLS)
def test_both_answers_of_every_task_are_shown_often(task: str, documents: list[str]) -> None:
    for pattern in SKILLS[task]:
        share = sum(bool(re.search(pattern, text)) for text in documents) / len(documents)
        assert share >= LEAST, f"{task}: {pattern} in {share:.1%} of the documents"


def test_same_seed_gives_the_same_files_and_another_seed_gives_others() -> None:
    first, again, other = (list(islice(Idioms(seed).documents(set()), 3 * FILE_SIZE)) for seed in (7, 7, 8))
    assert first == again
    assert not {document.text for document in first} & {document.text for document in other}
    assert list(Counter(document.group for document in first).values()) == [FILE_SIZE] * 3


def test_documents_hardly_ever_repeat(documents: list[str]) -> None:
    assert len(set(documents)) > 0.99 * len(documents)


def words_of(text: str) -> set[str]:
    """Every whole identifier and every whole string in a document."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        found |= {
            value
            for field in ("id", "arg", "name", "attr", "value")
            if isinstance(value := getattr(node, field, None), str)
        }
    return found


def test_no_name_or_string_of_the_tasks_is_used(documents: list[str]) -> None:
    pools = TASK_WORDS.values()
    held_out = {word for pool in pools for word in (*pool.names, *pool.functions, *pool.classes, *pool.strings)}
    for text in documents:
        assert not words_of(text) & (held_out - set(ATTRIBUTES)), text


def test_a_set_grows_by_add_and_a_string_by_plus_equals(documents: list[str]) -> None:
    for text in documents:
        for name in re.findall(r"(\w+) = set\(\)", text):
            assert f" {name} += " not in text
        for name in re.findall(r"""(?<![.\w])(\w+) = (?:""|'')\n""", text):
            assert f" {name}.add(" not in text


def test_parameters_after_a_default_have_defaults(documents: list[str]) -> None:
    for text in documents:
        for parameters in re.findall(r"def \w+\((.*)\):", text):
            given = ["=" in parameter for parameter in parameters.split(", ")]
            assert given == sorted(given)


def test_one_seed_one_document() -> None:
    assert write_document(Random(3)) == write_document(Random(3))
