"""Statements in several parts, with others between them: an earlier part decides a later one."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.data.idioms.blocks import body, item_of
from pipeline.data.idioms.lines import open_to_read, open_to_write, two_names
from pipeline.data.idioms.registry import STORIES
from pipeline.data.idioms.scope import Lines, Scope, indent


def around(scope: Scope, statement: str, names: tuple[str, ...] = ()) -> Lines:
    """The statement alone, or as the body of a loop or branch, at one depth or at two."""
    draw = scope.rng.random()
    if draw < 0.2:
        return [statement]
    if draw < 0.35:
        return [f"if {scope.condition()}:", *indent([statement])]
    item, items = (names[0], scope.many()) if names else item_of(scope)
    if draw < 0.85:
        return [f"for {item} in {items}:", *indent([statement])]
    return [f"for {item} in {items}:", *indent([f"if {scope.condition()}:", *indent([statement])])]


@STORIES.add(14)
def gather_in_set(scope: Scope) -> Iterator[Lines]:
    name = scope.fresh("set", 0.02)
    yield [f"{name} = set()"]
    for _ in range(scope.rng.choice((1, 2, 2, 3))):
        item = scope.word()
        yield around(scope, f"{name}.add({scope.pick(item, scope.some(), scope.string())})", (item,))
    scope.result = scope.result or name


@STORIES.add(14)
def gather_in_string(scope: Scope) -> Iterator[Lines]:
    name = scope.fresh("str", 0.02)
    yield [f"{name} = {scope.mark() * 2}"]
    for _ in range(scope.rng.choice((1, 2, 2, 3))):
        item = scope.word()
        yield around(scope, f"{name} += {scope.pick(item, scope.some(), scope.string())}", (item,))
    scope.result = scope.result or name


@STORIES.add(4)
def gather_in_both(scope: Scope) -> Iterator[Lines]:
    """A set and a string side by side, in either order, each grown in its own way."""
    names = [scope.fresh("set", 0.02), scope.fresh("str", 0.02)]
    starts = [f"{names[0]} = set()", f"{names[1]} = {scope.mark() * 2}"]
    scope.rng.shuffle(starts)
    yield starts
    item, items = item_of(scope)
    grown = [f"{names[0]}.add({item})", f"{names[1]} += {item}"]
    scope.rng.shuffle(grown)
    yield [f"for {item} in {items}:", *indent(grown)]
    scope.result = scope.rng.choice(names)


@STORIES.add(2)
def gather_in_list(scope: Scope) -> Iterator[Lines]:
    name = scope.fresh("list", 0.02)
    yield [f"{name} = []"]
    item = scope.word()
    yield around(scope, f"{name}.append({scope.pick(item, scope.some(), scope.string())})", (item,))
    scope.result = scope.result or name


@STORIES.add(1)
def count_up(scope: Scope) -> Iterator[Lines]:
    name = scope.fresh("num", 0.2)
    yield [f"{name} = 0"]
    yield around(scope, f"{name} += 1")
    scope.result = scope.result or name


@STORIES.add(1)
def fill_dict(scope: Scope) -> Iterator[Lines]:
    name = scope.fresh("dict", 0.02)
    yield [f"{name} = {{}}"]
    item, items = item_of(scope)
    yield [f"for {item} in {items}:", *indent([f"{name}[{item}] = {scope.value()}"])]
    scope.result = scope.result or name


@STORIES.add(4)
def open_read_close(scope: Scope) -> Iterator[Lines]:
    handle = scope.pick("f", "f", "fp", "handle", scope.word())
    yield [f"{handle} = open({scope.some()})"]
    yield [f"{scope.fresh()} = {handle}.{scope.pick('read()', 'readlines()')}"]
    yield [f"{handle}.close()"]


@STORIES.add(6)
def read_then_write(scope: Scope) -> Iterator[Lines]:
    text = scope.pick("text", "lines", "data", scope.word())
    yield [f"with {open_to_read(scope)} as f:", *indent([f"{text} = f.read()"])]
    scope.kinds[text] = "any"
    yield [f"with {open_to_write(scope)} as f:", *indent([f"f.write({text})"])]


@STORIES.add(3)
def find_flag(scope: Scope) -> Iterator[Lines]:
    """A flag is False until it is True."""
    flag = scope.fresh("flag", 0.02)
    yield [f"{flag} = False"]
    item, items = item_of(scope)
    test = scope.pick(f"{item} == {scope.value()}", item, f"{item} in {scope.many()}")
    yield [f"for {item} in {items}:", *indent([f"if {test}:", *indent([f"{flag} = True"])])]
    scope.result = scope.result or flag


@STORIES.add(4)
def loop_until_flag(scope: Scope) -> Iterator[Lines]:
    flag = scope.fresh("flag", 0.02)
    yield [f"{flag} = True"]
    scope.loops += 1
    inside = body(scope, 1)
    scope.loops -= 1
    yield [f"while {flag}:", *inside, *indent([f"{flag} = False"])]


@STORIES.add(6)
def swap_two(scope: Scope) -> Iterator[Lines]:
    one, other = two_names(scope)
    yield [f"{one} = {scope.value()}", f"{other} = {scope.value()}"]
    swapped = f"{one}, {other} = {other}, {one}" if scope.chance(0.5) else f"{other}, {one} = {one}, {other}"
    yield around(scope, swapped)


@STORIES.add(3)
def make_function_then_call(scope: Scope) -> Iterator[Lines]:
    function = scope.fresh("func", 0.15)
    argument = scope.rng.choice("xyabn") if scope.chance(0.6) else scope.word()
    yield [f"{function} = lambda {argument}: {argument} {scope.pick('+', '*', '-')} {scope.number()}"]
    value = scope.pick(scope.some(), scope.number())
    yield [f"{scope.fresh()} = {function}({value})"]


@STORIES.add(1)
def count_while(scope: Scope) -> Iterator[Lines]:
    at = scope.fresh("num", 0.8)
    yield [f"{at} = 0"]
    scope.loops += 1
    inside = body(scope, 1)
    scope.loops -= 1
    yield [f"while {at} < {scope.pick(scope.number(), scope.some())}:", *inside, *indent([f"{at} += 1"])]
