"""The rules that say where real code makes a task's decision."""

from __future__ import annotations

import pytest

from pipeline.data.generalisation.place import Place
from pipeline.data.generalisation.python_code import PythonCode
from pipeline.data.generalisation.rules import COPYING, RULES
from pipeline.data.tasks import generate
from pipeline.data.tasks.registry import TABLE_1

SEED = 7
HERE = "¦"  # where the answer is to be told
CLASS = "class A:\n    def __init__(self, one, two=1):\n"
DECIDED: dict[str, tuple[list[str], list[str], list[str]]] = {  # code at side a's answer, at side b's, elsewhere
    "single_double_quote": (
        ['f("a¦")', 'raise E("it\'s¦")', 'f(\n    "a¦")', 'f(b)\n"""it\'s ("""\ng("é¦")'],
        ["f('a¦')", "f(a, g('b c¦'))", "f('a(\"¦')"],
        [
            "x = 'a¦'",
            "f(a, 'b¦')",
            "f('¦')",
            "f('a¦b')",
            'f("a" + b¦)',
            "f(f'a¦')",
            "f('''a¦''')",
            "# f('a¦')",
            '"""\nf(\'a¦\')\n"""',
            "f('a\\\\\\¦')')",
            "if ('a¦'): pass",
        ],
    ),
    "bracket_counting": (
        [
            "x = [1, 2¦]",
            "y = a[i¦]",
            "x = [\n    a, b¦]",
            "x = [']', \"[\", a¦]",
            "x = [  # [[\n    a¦]",
            "[[]]\nx = [a¦]",
        ],
        ["x = [[1, 2¦]]", "x = [[1], [2¦]]", "y = [a[i¦]]", "x = [[1],  # ]\n  ['[', a¦]]"],
        ["x = f([1, 2¦])", "x = [[[1¦]]]", "x = [1, ¦]", "x = (1¦)", "# [1¦]", 'x = "[1¦]"', "x = [na¦me]"],
    ),
    "set_or_string": (
        ["a = set()\nfor b in c:\n    a¦.add(b)", "a: set[str] = set(b)\na¦ |= c", "x = 'a = 1'\na = set()\na¦.x"],
        ['a = ""\nfor b in c:\n    a¦ += b', "a = set()\na = f'b'\na¦ += c", 'a = ", ".join(b)\na¦ += c'],
        [
            "a = []\na¦.b",
            "a = set()\nb¦ = 1",
            "a = set()\nf(a¦)",
            'x = """\na = set()\n"""\na¦.b',
            "a = set()\na = b\na¦.c",
            "a = set() | b\na¦.c",
            "a¦ = set()",
        ],
    ),
    "set_or_string_fixedvarname": (
        ["current = set()\ncurrent¦.add(a)"],
        ['current = ""\ncurrent¦ += a'],
        ["a = set()\na¦.add(b)", "current = 1\ncurrent¦ += 1"],
    ),
    "final_kwarg": (
        ["def f(a=1, b¦=2): pass", "def f(self, a, b=None,\n      c¦=1): pass", "def f(a=g(x, *y), b¦=2): pass"],
        ["def f(a, b¦): pass", "    async def f(self, b¦): pass", "def f(a,  # =\n      b¦): pass"],
        ["def f(a¦): pass", "f(a, b¦)", "def f(a: int, b¦): pass", "def f(a, *, b¦): pass", "def f(a=g(b, c¦)): pass"],
    ),
    "with_as": (
        ["    with open(p¦) as f: pass", "async with a.b(p, q¦) as f: pass", "with a('(', b¦) as f: pass"],
        ["    f = open(p¦)", "a.b = c(d¦)", "a = b(c(d), e[1]¦)", "a = b(None¦)", "a = b(\n    c,  # (\n    d¦)"],
        [
            "open(p¦)",
            "with open(f(p¦)): pass",
            "with open(¦): pass",
            "with a¦: pass",
            'with open("p¦"): pass',
            "return f(p¦)",
        ],
    ),
    "bracket_brace": (
        ['x = {"a¦": 1}', 'x = {"a": 1,\n     "b¦": 2}', 'f({"a¦": 1})', 'x = {"[": [1],  # [\n     "b¦": 2}'],
        ['x = ["a¦", b]', 'x = [b, "a¦", c]', 'x = {1: ["a¦", b]}', 'x = ["{", "a¦", b]'],
        [
            'x = {"a": "b¦"}',
            "x = {'a¦': 1}",
            'f("a¦")',
            'x = {"¦": 1}',
            'x = [f"a¦"]',
            'x = b["c¦"]',
            'x = ["a¦b"]',
            'x = {1: ["a"], b["c"] + "d¦": 1}',
            '"a¦"',
            '"""\nx = {"a¦": 1}\n"""',
        ],
    ),
    "with_open": (
        ["with open('input.txt', '¦r'): pass", 'open("in_file", "¦r")', "io.open(read_path, '¦rb')"],
        ["with open('output.txt', '¦w'): pass", "open(out, '¦w')", "open(\n    out,\n    '¦w')"],
        [
            "open(path, '¦r')",
            "open('input.txt', 'r¦')",
            "open('input.txt'¦)",
            "f('input', '¦r')",
            "open(in_path + output, '¦r')",
        ],
    ),
    "for_while": (
        ["    for x¦ in y: pass", "async for x¦ in y: pass", "x = [1]\nfor x¦ in y: pass"],
        ["    while x¦: pass", "while True¦: pass"],
        [
            "[x for x¦ in y]",
            "for x, y¦ in z: pass",
            "while ¦x: pass",
            "x = (y\n  for x¦ in y)",
            "# for x¦ in",
            "while not x¦: pass",
            '"""\nfor x¦ in y\n"""',
            "while na¦me: pass",
        ],
    ),
    "else_elif": (
        ["    else¦: pass"],
        ["elif¦ x: pass"],
        ["x = 1 if y else¦ 2", "# else¦", "x = [1 if y\n    else¦ 2]", "  else¦where = 1", '"""\nelse¦\n"""'],
    ),
    "fstring_brace": (
        ['f(f"a¦ {b}")', 'raise E(f"a b¦ {c}")', 'f(\n    f"a¦ {b}")'],
        ['f("a¦")', 'print("a b¦")', 'f("{¦")'],
        ['f(f"a {b}¦")', 'f("¦")', "f('a¦')", 'f(a, "b¦")', 'x = f"a¦ {b}"', 'f(r"a¦")', 'f(f"{a} b¦")', 'f("a¦ b")'],
    ),
    "if_ternary": (
        ["    if x¦: pass", "elif x.y¦: pass"],
        [
            "    y = a if x¦ else b",
            "    return a if x.y¦ else b",
            "f(a, b if c¦ else d)",
            "x = ' if '\ny = a if x¦ else b",
        ],
        [
            "if not x¦: pass",
            "if (a if x) == y¦: pass",
            "# y = a if x¦",
            "ifx¦ = 1",
            "while a if b¦ else c: pass",
            "if a if b¦ else c: pass",
            "x = 'a if b¦ '",
        ],
    ),
    "var_swap": (
        ["    x, y = y,¦ x"],
        ["    y, x = x,¦ y"],
        ["a, b = b,¦ a", "x, y = x,¦ y", "x, y = y¦", "# x, y = y,¦ x"],
    ),
    "indent_for": (
        [
            "    for x in y:\n¦        z\n",
            "def f():\n    for x, y in z(1):\n¦        z\n",
            "    for x in z(\n  1,\n    ):  # y\n¦        z\n",
        ],
        ["        for x in y:\n¦            z\n"],
        [
            "for x in y:\n¦    z\n",
            "    while x:\n¦        y\n",
            "    for x in y:\n        ¦z\n",
            "            for x in y:\n¦                z\n",
            "    for x in y:¦\n        z\n",
            "    for x in y: z\n¦    z\n",
            'def f():\n    """\n    for x in y:\n¦        z"""\n',
        ],
    ),
    "lambda_func": (
        ["f = lambda x¦: 1", "f(a, lambda x¦: 1)"],
        ["def f¦(self): pass", "    async def f¦(self): pass"],
        [
            "lambda x, y¦: 1",
            "lambda¦: 1",
            "# def f¦(",
            "define¦ = 1",
            "undef = f¦",
            '"lambda x¦"',
            "def f(¦self): pass",
        ],
    ),
    "if_equals": (
        ["    if x¦ == 1: pass", "elif x.y¦ == 1: pass"],
        ["    x¦ = 1", "self.x¦ = 1"],
        [
            "if x and y¦ == 1: pass",
            "f(\n    x¦ = 1)",
            "# if x¦ ==",
            "¦x = 1",
            "x[0]¦ = 1",
            "if (\n    x¦ == 1): pass",
            "1¦",
            '"""\nx¦ = 1\n"""',
        ],
    ),
    "enumerate_range": (
        [
            "for i, x in¦ enumerate(y): pass",
            "    [x for i, x in¦ enumerate(y)]",
            "for i, (x, y) in¦ enumerate(z): pass",
        ],
        ["for i in¦ range(1): pass", "x = (i for i in¦ range(1))", "[x for x, y in z for i in¦ range(1)]"],
        [
            "for x¦ in y: pass",
            "for i, x, y in¦ z: pass",
            "if i in¦ x: pass",
            "# for i in¦",
            '"for i in¦"',
            "x = [y]\nin¦ ",
        ],
    ),
    "var_if": (
        ["if x == True¦: pass", "    elif x.y is not None¦: pass", "if x != y¦: pass"],
        ["    x = True¦", "self.x = y¦"],
        [
            "if x¦: pass",
            "x == True¦",
            "while x == True¦: pass",
            "f(\n    x = True¦)",
            "if x < y¦: pass",
            "x = ¦1",
            "return True¦",
        ],
    ),
    "while_return_true": (
        ["    while True¦: pass"],
        ["    return True¦"],
        [
            "while 1¦: pass",
            "return False¦",
            "x = True¦",
            "return not True¦",
            "# return True¦",
            '"""\nreturn True¦\n"""',
        ],
    ),
}


def place_of(text: str, start: int = 0) -> Place:
    before, after = text.split(HERE)
    return Place(PythonCode((before + after).encode()), len(before.encode()), start)


def test_every_task_has_a_rule_and_every_rule_is_tested() -> None:
    assert {*RULES, *COPYING} == set(TABLE_1)
    assert set(DECIDED) == set(RULES) and set(COPYING) == {"class_init"}


@pytest.mark.parametrize("task", RULES)
def test_a_rule_knows_where_its_decision_is_made_and_where_not(task: str) -> None:
    for expected, texts in zip((0, 1, None), DECIDED[task], strict=True):
        for text in texts:
            assert RULES[task](place_of(text)) == expected, text


@pytest.mark.parametrize("task", RULES)
def test_a_rule_decides_the_tasks_own_prompts_as_the_task_does(task: str) -> None:
    for pair in generate(task, "test", 12, SEED):
        decided = [RULES[task](place_of(f"{side.prompt}{HERE}{side.answer}{side.after}")) for side in pair.sides]
        assert decided == [0, 1]


def test_the_attribute_says_which_parameter_is_copied() -> None:
    rule = COPYING["class_init"]
    assert rule(place_of(f"{CLASS}        self.two =¦ two")) == (" two", [" one"])
    annotated = (
        "def __init__(\n    self,\n    one: int,\n    two: str = f('a'),\n    *three,\n) -> None:\n    self.one =¦ 1"
    )
    assert rule(place_of(annotated)) == (" one", [" two", " three"])
    for text in (
        "self.three =¦ 1",
        "self.one¦ = 1",
        "x.one =¦ 1",
        "one =¦ 1",
        "f(\n        self.one =¦ 1)",
        "# self.one =¦ 1",
    ):
        assert rule(place_of(f"{CLASS}        {text}\n        pass")) is None
    assert rule(place_of(f"{CLASS}        def f():\n            self.one =¦ one")) is None
    assert rule(place_of("def set(self, one, two):\n    self.one =¦ one")) is None
    for pair in generate("class_init", "test", 12, SEED):
        for side, other in zip(pair.sides, pair.sides[::-1], strict=True):
            right, wrong = rule(place_of(f"{side.prompt}{HERE}{side.answer}{side.after}"))  # type: ignore[misc]
            assert right == side.answer and other.answer in wrong


def test_what_decides_has_to_be_in_the_prompt() -> None:
    code = "a = set()\nb = 1\na¦.add(b)"
    assert [RULES["set_or_string"](place_of(code, start)) for start in (0, 10)] == [0, None]
    code = "def __init__(self, one):\n    self.one =¦ one"
    assert COPYING["class_init"](place_of(code)) is not None and COPYING["class_init"](place_of(code, 25)) is None


def test_tokens_are_pythons_in_bytes_and_an_f_string_is_one() -> None:
    text = 'é = f\'{a["b"]} {c!r:>{d}}\'  # [\n\nif é:\n    x = rb"""(\n""" \\\n        , \'ö\'\n'
    tokens = PythonCode(text.encode()).tokens
    assert [token.text for token in tokens] == [
        *("é", "=", "f'{a[\"b\"]} {c!r:>{d}}'", "\n", "if", "é", ":", "\n"),
        *("x", "=", 'rb"""(\n"""', ",", "'ö'", "\n"),
    ]
    assert all(text.encode()[token.start : token.end].decode() == token.text for token in tokens)
    string = tokens[10]
    assert (string.kind, string.prefix, string.mark) == ("STRING", "rb", '"""')
    assert text.encode()[slice(*string.inside)] == b"(\n"
    assert [(token.prefix, token.mark) for token in (tokens[2], tokens[12])] == [("f", "'"), ("", "'")]


def test_open_strings_and_brackets_are_seen_through_what_is_closed() -> None:
    place = place_of("f(a[0], {1: 'x]'}, \"it's\\\" (\", '''\n\"''', # ) ]\n  [rb'¦x'])")
    assert place.marks == ["(", "["]
    assert place.string is not None and (place.string.mark, place.string.prefix) == ("'", "rb")
    assert not place_of("x = 1  # it¦\n").in_code and place_of("x = 1  # it\n¦").in_code


def test_a_prompt_may_begin_at_any_line_where_nothing_is_open() -> None:
    text = "def f(a,\n      b):\n    # it's (\n    x = \\\n        1\n\n    y = '''\n    z\n    '''\n    return y\n"
    starts = PythonCode(text.encode()).free_starts
    lines = text.split("\n")
    begin = [len("\n".join(lines[:i])) + (i > 0) for i in range(len(lines))]
    assert [i for i, start in enumerate(begin) if start in starts] == [0, 2, 3, 5, 6, 9, 10]
