"""The rules that say where real code makes a task's decision."""

from __future__ import annotations

import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.data.rivals.place import Place
from pipeline.data.rivals.rules import COPYING, RULES
from pipeline.data.tasks import generate
from pipeline.data.tasks.registry import TABLE_1

SEED = 7
CLASS = "class A:\n    def __init__(self, one, two=1):\n"
DECIDED: dict[str, tuple[list[str], list[str], list[str]]] = {  # text before side a's answer, before b's, elsewhere
    "single_double_quote": (
        ['f("a', "raise E(\"it's"],
        ["f('a", "f(a, g('b c"],
        ["x = 'a", 'f(a, "b', 'f("', 'f("a" + b', 'f(f"a', 'f("""a', '# f("a'],
    ),
    "bracket_counting": (
        ["x = [1, 2", "y = a[i", "x = [\n    a, b"],
        ["x = [[1, 2", "x = [[1], [2", "y = [a[i"],
        ["x = f([1, 2", "x = [[[1", "x = [1, ", "x = (1", "# [1", 'x = "[1'],
    ),
    "set_or_string": (
        ["a = set()\nfor b in c:\n    a", "    a: set[str] = set(b)\n    a"],
        ['a = ""\nfor b in c:\n    a', "a = set()\na = 'b'\n    a"],
        ["a = []\n    a", "a = set()\n    b", "a = set()\n    f(a", 'x = """\na = set()\n    a'],
    ),
    "set_or_string_fixedvarname": (
        ["current = set()\n    current"],
        ['current = ""\n    current'],
        ["a = set()\n    a", "current = 1\n    current"],
    ),
    "final_kwarg": (
        ["def f(a=1, b", "def f(self, a, b=None,\n      c"],
        ["def f(a, b", "    async def f(self, b"],
        ["def f(a", "f(a, b", "def f(a: int, b", "def f(a, *, b", "def f(a=g(b, c", "def f(a, b)"],
    ),
    "with_as": (
        ["    with open(p", "async with a.b(p, q"],
        ["    f = open(p", "a.b = c(d"],
        ["open(p", "with open(f(p", "with open(", "with a", 'with open("p', "return f(p"],
    ),
    "bracket_brace": (
        ['x = {"a', 'x = {"a": 1,\n     "b', 'f({"a'],
        ['x = ["a', 'x = [b, "a'],
        ['x = {"a": "b', "x = {'a", 'f("a', 'x = {"', 'x = [f"a', 'x = {1: ["a"], b["c"] + "d', '"a'],
    ),
    "with_open": (
        ["with open('input.txt', '", 'open("in_file", "', "io.open(read_path, '"],
        ["with open('output.txt', '", "open(out, '"],
        ["open(path, '", "open('input.txt', 'r", "open('input.txt'", "f('input', '", "open(in_path + output, '"],
    ),
    "for_while": (
        ["    for x", "async for x"],
        ["    while x"],
        ["[x for x", "for x, y", "while ", "x = (\n  for x", "# for x", "while not x", '"""\nfor x'],
    ),
    "else_elif": (["    else"], ["elif"], ["x = 1 if y else", "# else", "x = [\n    else", "  elsewhere"]),
    "fstring_brace": (
        ['f(f"a', 'raise E(f"a b'],
        ['f("a', 'print("a b'],
        ['f(f"a {b', 'f("', "f('a", 'f(a, "b', 'x = f"a', 'f(r"a', 'f(f"{a} b'],
    ),
    "if_ternary": (
        ["    if x", "elif x.y"],
        ["    y = a if x", "    return a if x.y", "f(a, b if c"],
        ["if not x", "if (a if x) == y", "# y = a if x", "ifx", "while a if b", "if a if b"],
    ),
    "var_swap": (["    x, y = y,"], ["    y, x = x,"], ["a, b = b,", "x, y = x,", "x, y = y"]),
    "indent_for": (
        ["    for x in y:\n", "def f():\n    for x, y in z(1):\n"],
        ["        for x in y:\n"],
        [
            "for x in y:\n",
            "    while x:\n",
            "    for x in y:\n        ",
            "            for x in y:\n",
            "    for x in y:",
        ],
    ),
    "lambda_func": (
        ["f = lambda x", "f(a, lambda x"],
        ["def f", "    async def f"],
        ["lambda x, y", "lambda", "# def f", "define", "undef f", '"lambda x', "def f("],
    ),
    "if_equals": (
        ["    if x", "elif x.y"],
        ["    x", "self.x"],
        ["if x and y", "f(\n    x", "    x y", "# if x", "", "x[0]", "if (\n    x", "1"],
    ),
    "enumerate_range": (
        ["for i, x in", "    [x for i, x in", "for i, (x, y) in"],
        ["for i in", "x = (i for i in"],
        ["for x", "for i, x, y in", "if i in", "# for i in", '"for i in'],
    ),
    "var_if": (
        ["if x == True", "    elif x.y is not None", "if x != y"],
        ["    x = True", "self.x = y"],
        ["if x", "x == True", "while x == True", "f(\n    x = True", "if x < y", "x = ", "return True"],
    ),
    "while_return_true": (
        ["    while True"],
        ["    return True"],
        ["while 1", "return False", "x = True", "return not True", "# return True", '"""\nreturn True'],
    ),
}


def test_every_task_has_a_rule_and_every_rule_is_tested() -> None:
    assert {*RULES, *COPYING} == set(TABLE_1)
    assert set(DECIDED) == set(RULES) and set(COPYING) == {"class_init"}


@pytest.mark.parametrize("task", RULES)
def test_a_rule_knows_where_its_decision_is_made_and_where_not(task: str) -> None:
    for expected, texts in zip((0, 1, None), DECIDED[task], strict=True):
        for text in texts:
            assert RULES[task](Place(text)) == expected, text


@pytest.mark.parametrize("task", RULES)
def test_a_rule_decides_the_tasks_own_prompts_as_the_task_does(task: str) -> None:
    for pair in generate(task, "test", 12, SEED):
        assert [RULES[task](Place(side.prompt)) for side in pair.sides] == [0, 1]


def test_the_attribute_says_which_parameter_is_copied() -> None:
    rule = COPYING["class_init"]
    assert rule(Place(f"{CLASS}        self.two =")) == (" two", [" one"])
    annotated = "def __init__(\n    self,\n    one: int,\n    two: str = 'a',\n) -> None:\n    self.one ="
    assert rule(Place(annotated)) == (" one", [" two"])
    for text in ("self.three =", "self.one", "x.one =", "one =", "f(\n        self.one ="):
        assert rule(Place(f"{CLASS}        {text}")) is None
    assert rule(Place("def set(self, one, two):\n    self.one =")) is None
    for pair in generate("class_init", "test", 12, SEED):
        for side, other in zip(pair.sides, pair.sides[::-1], strict=True):
            right, wrong = rule(Place(side.prompt))  # type: ignore[misc]
            assert right == side.answer and other.answer in wrong


def test_open_strings_and_brackets_are_seen_through_what_is_closed() -> None:
    place = Place("f(a[0], {1: 'x]'}, \"it's\\\" (\", '''\n\"''', # ) ]\n  [rb'")
    assert [opened.mark for opened in place.brackets] == ["(", "["]
    assert place.string is not None and (place.string.mark, place.string.prefix) == ("'", "rb")
    assert not Place("x = 1  # it").in_code and Place("x = 1  # it\n").in_code


def code_tokens(source: str) -> Iterator[tuple[int, tokenize.TokenInfo]]:
    """Tokens with where they begin; what is within f-strings (tokens of their own from Python 3.12 on) left out."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    depth = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        depth -= kind == "FSTRING_END"
        if depth == 0 and kind in ("NAME", "OP", "NUMBER", "STRING", "COMMENT"):
            yield starts[token.start[0] - 1] + token.start[1], token
        depth += kind == "FSTRING_START"


@pytest.mark.parametrize("file", ["rivals/rules.py", "rivals/make.py", "tokenizer.py", "tasks/prompts/delimiters.py"])
def test_scanning_agrees_with_pythons_own_tokenizer(file: str) -> None:
    source = (Path(__file__).parents[2] / "pipeline" / "data" / file).read_text(encoding="utf-8")
    opened: list[str] = []
    for i, (start, token) in enumerate(code_tokens(source)):
        if i % 5 == 0:
            place = Place(source[:start])
            assert place.in_code and [bracket.mark for bracket in place.brackets] == opened, token
            if token.type in (tokenize.STRING, tokenize.COMMENT):
                inside = Place(source[: start + len(token.string) - 1])
                assert not inside.in_code and (inside.string is None) == (token.type == tokenize.COMMENT), token
        if token.type == tokenize.OP and token.string in "([{":
            opened.append(token.string)
        elif token.type == tokenize.OP and token.string in ")]}":
            opened.pop()
