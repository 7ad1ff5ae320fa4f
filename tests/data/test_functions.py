"""Functions are cut out of source as they stand there, without docstrings and decorators."""

from __future__ import annotations

import ast
import inspect
import json.decoder
import textwrap
from collections import Counter

import pytest

from pipeline.data.functions import NotPythonError, cut_functions


def cut(source: str, min_lines: int = 2, max_lines: int = 40) -> list[str]:
    return list(cut_functions(textwrap.dedent(source), min_lines, max_lines, Counter()))


def test_docstring_and_decorator_go_and_layout_stays() -> None:
    source = '''
        @cached
        def f(a,  b = 'x'):
            """What comes back.

            More.
            """

            return {"k":a}  # kept
    '''
    assert cut(source) == ["def f(a,  b = 'x'):\n    return {\"k\":a}  # kept\n"]


def test_methods_are_dedented_and_inner_docstrings_go() -> None:
    source = '''
        class A:
            """A."""

            def f(self):
                def g():
                    "Inner."
                    return 1
                return g
    '''
    assert cut(source) == ["def f(self):\n    def g():\n        return 1\n    return g\n"]


def test_functions_in_branches_are_found_and_inner_ones_of_long_functions_too() -> None:
    source = "if x:\n    def f():\n        return 1\nelse:\n    async def g():\n        return 2\n"
    assert cut(source) == ["def f():\n    return 1\n", "async def g():\n    return 2\n"]
    body = "".join(f"    v{number} = w{number}\n" for number in range(20))
    assert cut(f"def big():\n    def small():\n        return 1\n{body}", max_lines=5) == [
        "def small():\n    return 1\n"
    ]


def test_functions_in_every_kind_of_block_are_found_in_their_order() -> None:
    blocks = [
        "if a:", "elif b:", "else:", "try:", "except A:", "except B:", "else:", "finally:", "with c:", "for d in e:",
        "else:", "while f:", "else:", "class G:", "try:", "except* H:",
    ]  # fmt: skip
    source = "".join(f"{block}\n    def f{number}():\n        return {number}\n" for number, block in enumerate(blocks))
    source += "match i:\n    case 1:\n        def f16():\n            return 16\n"
    source += "    case _:\n        async def f17():\n            return 17\n"
    found = cut(source)
    assert [text.partition("(")[0].split()[-1] for text in found] == [f"f{number}" for number in range(18)]


def test_functions_under_except_and_case_that_are_not_wanted_are_counted() -> None:
    source = "try:\n    def f():\n        return 1\nexcept A:\n    def f():\n        return 2\n"
    source += "match i:\n    case 1:\n        class G:\n            def f(self):\n                return 3\n"
    skipped: Counter[str] = Counter()
    assert list(cut_functions(source, 2, 40, skipped, caught=False)) == ["def f():\n    return 1\n"]
    assert skipped == {"function under except or case": 2}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def f(): return 1\n", "function too short"),
        ("def f():\n    a = b\n    b = c\n    c = d\n    return a\n", "function too long"),
        (f"def f():\n    return {'a' * 130}\n", "line too long"),
        ("def f():\n\treturn a\n", "tabs or control characters"),
        ("def f():\n    return [123456, 234567, 345678, 123456]\n", "generated"),
        ('def f():\n    """Only a docstring."""\n', "function shape"),
        ('class A:\n    def f(self):\n        return """a\nb"""\n', "function shape"),
    ],
)
def test_what_is_of_no_use_is_left_out_and_counted(source: str, reason: str) -> None:
    skipped: Counter[str] = Counter()
    assert list(cut_functions(source, 2, 4, skipped)) == []
    assert skipped == {reason: 1}


@pytest.mark.parametrize("source", ["def f(:\n", "print 'x'\n", "a = \0\n", "(" * 300])
def test_what_is_not_python_is_refused(source: str) -> None:
    with pytest.raises(NotPythonError):
        cut(source)


def test_real_functions_stay_valid_python_and_lose_nothing_but_docstrings() -> None:
    texts = cut(inspect.getsource(json.decoder), max_lines=400)
    assert len(texts) > 5
    whole = ast.parse(inspect.getsource(json.decoder))
    bodies = {ast.dump(strip(node)) for node in ast.walk(whole) if isinstance(node, ast.FunctionDef)}
    for text in texts:
        assert ast.dump(ast.parse(text).body[0]) in bodies


def strip(node: ast.FunctionDef) -> ast.FunctionDef:
    """The function without its docstring and decorators."""
    node.decorator_list = []
    if ast.get_docstring(node) is not None:
        node.body = node.body[1:]
    return node


def test_windows_line_ends_and_byte_order_marks_do_not_matter() -> None:
    assert cut("\ufeffdef f():\r\n    return 1\r\n") == ["def f():\n    return 1\n"]
