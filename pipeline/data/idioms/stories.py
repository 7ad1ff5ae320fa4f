"""Statements in several parts, with others between them: an earlier part decides a later one.

``STORIES`` at the end has them all, with their weights.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.data.idioms.blocks import item_of, loop_body
from pipeline.data.idioms.lines import GROW, opened, two_names
from pipeline.data.idioms.scope import CodeLines, Scope, indent
from pipeline.data.idioms.templates import Templates


def around(scope: Scope, statement: str, name: str | None = None) -> CodeLines:
    """The statement alone, or as the body of a loop (of that name) or branch, at one depth or at two."""
    draw = scope.rng.random()
    if draw < 0.2:
        return [statement]
    if draw < 0.35:
        return [f"if {scope.condition()}:", *indent([statement])]
    item, items = (name, scope.many()) if name else item_of(scope)
    if draw < 0.85:
        return [f"for {item} in {items}:", *indent([statement])]
    return [f"for {item} in {items}:", *indent([f"if {scope.condition()}:", *indent([statement])])]


def empty(scope: Scope, kind: str) -> str:
    """The first value of a variable of that kind."""
    return {"set": "set()", "list": "[]"}.get(kind) or scope.mark() * 2


def gather(scope: Scope, kind: str) -> Iterator[CodeLines]:
    """A set, a string or a list grows."""
    name = scope.fresh(kind, 0.02)
    yield [f"{name} = {empty(scope, kind)}"]
    for _ in range(1 if kind == "list" else scope.rng.choice((1, 2, 2, 3))):
        item = scope.word()
        yield around(scope, GROW[kind].format(name, scope.pick(item, scope.some(), scope.string())), item)
    scope.result = scope.result or name


def gather_in_both(scope: Scope) -> Iterator[CodeLines]:
    """A set and a string side by side, in either order, each grown in its own way."""
    names = {kind: scope.fresh(kind, 0.02) for kind in ("set", "str")}
    starts = [f"{name} = {empty(scope, kind)}" for kind, name in names.items()]
    scope.rng.shuffle(starts)
    yield starts
    item, items = item_of(scope)
    grown = [GROW[kind].format(name, item) for kind, name in names.items()]
    scope.rng.shuffle(grown)
    yield [f"for {item} in {items}:", *indent(grown)]
    scope.result = scope.rng.choice(list(names.values()))


def count_up(scope: Scope) -> Iterator[CodeLines]:
    name = scope.fresh("num", 0.2)
    yield [f"{name} = 0"]
    yield around(scope, f"{name} += 1")
    scope.result = scope.result or name


def fill_dict(scope: Scope) -> Iterator[CodeLines]:
    name = scope.fresh("dict", 0.02)
    yield [f"{name} = {{}}"]
    item, items = item_of(scope)
    yield [f"for {item} in {items}:", *indent([f"{name}[{item}] = {scope.value()}"])]
    scope.result = scope.result or name


def open_read_close(scope: Scope) -> Iterator[CodeLines]:
    handle = scope.pick("f", "f", "fp", "handle", scope.word())
    yield [f"{handle} = open({scope.some()})"]
    yield [f"{scope.fresh()} = {handle}.{scope.pick('read()', 'readlines()')}"]
    yield [f"{handle}.close()"]


def read_then_write(scope: Scope) -> Iterator[CodeLines]:
    text = scope.pick("text", "lines", "data", scope.word())
    yield [f"with {opened(scope, 'r')} as f:", *indent([f"{text} = f.read()"])]
    scope.kinds[text] = "any"
    yield [f"with {opened(scope, 'w')} as f:", *indent([f"f.write({text})"])]


def find_flag(scope: Scope) -> Iterator[CodeLines]:
    """A flag is False until it is True."""
    flag = scope.fresh("flag", 0.02)
    yield [f"{flag} = False"]
    item, items = item_of(scope)
    test = scope.pick(f"{item} == {scope.value()}", item, f"{item} in {scope.many()}")
    yield [f"for {item} in {items}:", *indent([f"if {test}:", *indent([f"{flag} = True"])])]
    scope.result = scope.result or flag


def loop_until_flag(scope: Scope) -> Iterator[CodeLines]:
    flag = scope.fresh("flag", 0.02)
    yield [f"{flag} = True"]
    yield [f"while {flag}:", *loop_body(scope, most=1), *indent([f"{flag} = False"])]


def swap_two(scope: Scope) -> Iterator[CodeLines]:
    one, other = two_names(scope)
    yield [f"{one} = {scope.value()}", f"{other} = {scope.value()}"]
    yield around(scope, f"{one}, {other} = {other}, {one}" if scope.chance(0.5) else f"{other}, {one} = {one}, {other}")


def make_function_then_call(scope: Scope) -> Iterator[CodeLines]:
    function = scope.fresh("func", 0.15)
    argument = scope.rng.choice("xyabn") if scope.chance(0.6) else scope.word()
    yield [f"{function} = lambda {argument}: {argument} {scope.pick('+', '*', '-')} {scope.number()}"]
    value = scope.pick(scope.some(), scope.number())
    yield [f"{scope.fresh()} = {function}({value})"]


def count_while(scope: Scope) -> Iterator[CodeLines]:
    at = scope.fresh("num", 0.8)
    yield [f"{at} = 0"]
    inside = loop_body(scope, most=1)
    yield [f"while {at} < {scope.pick(scope.number(), scope.some())}:", *inside, *indent([f"{at} += 1"])]


STORIES = Templates[Iterator[CodeLines]](
    (14, lambda s: gather(s, "set")),
    (14, lambda s: gather(s, "str")),
    (4, gather_in_both),
    (2, lambda s: gather(s, "list")),
    (1, count_up),
    (1, fill_dict),
    (4, open_read_close),
    (6, read_then_write),
    (3, find_flag),
    (4, loop_until_flag),
    (6, swap_two),
    (3, make_function_then_call),
    (1, count_while),
)
