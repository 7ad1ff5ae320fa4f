"""What is said of places of Python text, against small snippets that were marked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.explain.places import said_of
from pipeline.explain.syntax import SYNTAX, parsed
from pipeline.explain.text import LEVELS, MARKS, described


@pytest.mark.parametrize(
    ("text", "mark", "holds_after"),
    [
        ("a = \"b'c\" + 'd'\n", "inside a double-quoted string", "\"b'c"),
        ("a = \"b'c\" + 'd'\n", "inside a single-quoted string", "'d"),
        ("a = '''b'c'''\n", "inside a triple-quoted string", "'b'c''"),
        ('a = f"{b}{{c}}" + d\n', "inside an f-string", '"{b}{{c}}'),
        ('a = f"{b}{{c}}" + d\n', "inside an f-string's braces", "{b"),
        ("a = 1 # b\nc\n", "inside a comment", "# b"),
        ("f(a, [b])\n", "inside brackets", "(a, [b]"),
        ("f(a, [b])\n", "inside two or more brackets", "[b"),
        ("f(a, [b])\n", "directly inside round brackets", "(a, ]"),
        ("f(a, [b])\n", "in a call's arguments", "(a, ]"),
        ("x = (a, b)\n", "in a call's arguments", ""),
        ("def f(a, b=1): return g(a)\n", "in a function's parameters", "(a, b=1"),
        ("def f(a, b=1): return g(a)\n", "in a keyword argument's value", "=1"),
        ("a[0] + [1]\n", "in a subscript", "[0"),
        ("if a:\n    b\n", "in a statement that begins with if", "f a:"),
        ("if a: b\n", "in a statement that begins with if", "f a: "),
        ("async def f(): return b\n", "in a statement that begins with def", "f f(): retur"),
        ("a = b\n", "after an assignment's =", "= b"),
        ("for a in b:\n    c\n", "before the line's first word", "\n    \n"),
        ("a.b\n", "at an attribute", "b"),
        ("if len(a): b\n", "at a keyword", "if"),
        ("if len(a): b\n", "at a builtin's name", "len"),
    ],
)
def test_a_mark_holds_where_a_reader_of_the_text_so_far_would_say_so(said, text, mark, holds_after):
    assert said(text)[mark] == holds_after


@pytest.mark.parametrize(
    ("text", "mark", "holds_after"),
    [
        ("class A:\n    b = 1\n", "in a class body", " b = 1"),
        ("a = {b: [c]}\n", "in a dictionary", "{b: [c]"),
        ("a = {b: [c]}\n", "in a list", "[c"),
        ("a = {b, c}\n", "in a set", "{b, c"),
        ("a = [b for b in c]\n", "in a comprehension", "[b for b in c"),
        ("def f(a: int = 5): b\n", "in a type annotation", "in"),
        ("while a:\n    b; c\nd\n", "in the body of a while loop", " b; c"),
        ("é = 'ü'; [é, b]\n", "in a list", "[é, b"),
        ('def f():\n    "doc"\n', "in a docstring", '"doc'),
    ],
)
def test_a_mark_of_the_syntax_holds_inside_its_node(said, text, mark, holds_after):
    assert said(text)[mark] == holds_after


def test_levels_count_what_is_open():
    _, levels, whole = described("  f((a), [")
    assert not whole
    assert levels["bracket depth"].tolist() == [0, 0, 0, 0, 1, 2, 2, 1, 1, 1, 2]
    assert levels["depth of square brackets"].tolist()[-2:] == [0, 1]
    assert levels["indentation"].tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2]


def test_code_that_breaks_off_is_described_as_far_as_it_goes_and_has_no_syntax(said):
    text = 'if a:\n    b = f(c, "d'
    assert parsed(text) is None
    assert said(text)["in a statement that begins with if"] == "f a:"
    assert said(text)["in a call's arguments"].startswith("(c,")


def test_every_name_is_that_of_one_mark():
    marks, levels, _ = described("")
    assert tuple(marks) == MARKS and tuple(levels) == LEVELS
    assert tuple(parsed("") or ()) == SYNTAX and not set(MARKS) & set(SYNTAX)


def test_a_token_is_described_by_the_place_where_it_ends(tokenizer):
    text = 'a = "é ü"\n'
    ids = tokenizer.encode(text)
    marks, _, read, whole = said_of([tokenizer.eot, *ids], tokenizer)
    inside = marks[:, MARKS.index("inside a double-quoted string")]
    ends = np.cumsum([0, *(len(tokenizer.encoding.decode_single_token_bytes(i)) for i in ids)])
    opened, closed = text.encode().index(b'"') + 1, text.encode().rindex(b'"') + 1
    assert inside.tolist() == [opened <= end < closed for end in ends]
    assert read.all() and whole.all()
