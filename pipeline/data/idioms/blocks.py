"""Statements with lines inside: loops, branches, files, and literals over several lines."""

from __future__ import annotations

from pipeline.data.idioms.lines import formatted, open_to_read, open_to_write, ternary
from pipeline.data.idioms.literals import elements, entries, hang, rows, spread
from pipeline.data.idioms.registry import BLOCKS, LINES
from pipeline.data.idioms.scope import Lines, Scope, indent


def body(scope: Scope, most: int = 3) -> Lines:
    """One to three statements, indented; blocks among them as long as they are not too deep."""
    scope.depth += 1
    before = dict(scope.kinds)
    lines: Lines = []
    for _ in range(scope.rng.choice((1, 1, 2, most))):
        if scope.depth < 3 and scope.chance(0.28):
            lines += BLOCKS.draw(scope)(scope)
        else:
            lines.append(LINES.draw(scope)(scope))
    lines += ending(scope) if scope.chance(0.22) else []
    scope.depth -= 1
    scope.kinds = before  # a name that is only set inside is not read after it
    return indent(lines)


def ending(scope: Scope) -> Lines:
    """A statement that leaves the block, where one is allowed."""
    if scope.loops and scope.chance(0.35):
        return [scope.pick("break", "continue")]
    if scope.chance(0.15):
        return [failure(scope)]
    if scope.returns:
        return [f"return {answer(scope)}"]
    return []


def failure(scope: Scope) -> str:
    error = scope.pick("ValueError", "KeyError", "TypeError", "RuntimeError")
    return f"raise {error}({formatted(scope) if scope.chance(0.4) else scope.string()})"


def answer(scope: Scope) -> str:
    """The expression that a function returns: a constant in many cases."""
    draw = scope.rng.random()
    if draw < 0.1:
        return ternary(scope)
    return scope.pick("True", "True", "False", "None") if draw < 0.6 else scope.value()


def loop(scope: Scope, head: str, *names: str) -> Lines:
    """A loop with its body, the loop's own names known inside it."""
    enclosing = dict(scope.kinds)
    scope.kinds.update(dict.fromkeys(names, "any"))
    scope.loops += 1
    lines = [head, *body(scope)]
    scope.loops -= 1
    scope.kinds = enclosing
    return lines


def item_of(scope: Scope) -> tuple[str, str]:
    """A loop's name and what it runs over, often the plural of it."""
    item = scope.rng.choice("xyabcknpqrst") if scope.chance(0.2) else scope.word()
    if len(item) > 1 and not item.endswith("s") and scope.chance(0.4):
        return item, item + "s"
    return item, scope.many()


def index(scope: Scope) -> str:
    return scope.rng.choice("iiiiijkn") if scope.chance(0.85) else scope.pick("idx", "index", scope.word())


# loops


@BLOCKS.add(7)
def for_each(scope: Scope) -> Lines:
    item, items = item_of(scope)
    return loop(scope, f"for {item} in {items}:", item)


@BLOCKS.add(13)
def for_range(scope: Scope) -> Lines:
    at = index(scope)
    limit = scope.pick(scope.number(), scope.some(), f"len({scope.many()})", f"1, {scope.some()}")
    return loop(scope, f"for {at} in range({limit}):", at)


@BLOCKS.add(15)
def for_enumerate(scope: Scope) -> Lines:
    at, (item, items) = index(scope), item_of(scope)
    return loop(scope, f"for {at}, {item} in enumerate({items}):", at, item)


@BLOCKS.add(1)
def for_items(scope: Scope) -> Lines:
    key, value = scope.pick("key", "name", "k"), scope.pick("value", "v")
    return loop(scope, f"for {key}, {value} in {scope.known('dict') or scope.place()}.items():", key, value)


@BLOCKS.add(4)
def for_in_for(scope: Scope) -> Lines:
    outer, outer_items = item_of(scope)
    inner = scope.word()
    before = [LINES.draw(scope)(scope)] if scope.chance(0.3) else []
    nested = loop(scope, f"for {inner} in {scope.pick(outer, f'{outer}.{inner}s')}:", outer, inner)
    return [f"for {outer} in {outer_items}:", *indent(before + nested)]


@BLOCKS.add(6)
def for_in_if(scope: Scope) -> Lines:
    item, items = item_of(scope)
    before = [LINES.draw(scope)(scope)] if scope.chance(0.5) else []
    return [f"if {scope.condition()}:", *indent(before + loop(scope, f"for {item} in {items}:", item))]


@BLOCKS.add(3)
def for_range_in_range(scope: Scope) -> Lines:
    one, other = scope.rng.sample("ijkmn", 2)
    limits = [scope.pick(scope.some(), scope.number()) for _ in range(2)]
    nested = loop(scope, f"for {other} in range({limits[1]}):", one, other)
    return [f"for {one} in range({limits[0]}):", *indent(nested)]


@BLOCKS.add(3)
def for_if(scope: Scope) -> Lines:
    item, items = item_of(scope)
    condition = scope.pick(item, f"{item}.{scope.word()}", f"{item} == {scope.value()}")
    scope.loops += 1
    inside = [f"if {condition}:", *body(scope)]
    scope.loops -= 1
    return [f"for {item} in {items}:", *indent(inside)]


@BLOCKS.add(10)
def while_name(scope: Scope) -> Lines:
    name = scope.some() if scope.chance(0.7) else scope.place()
    return loop(scope, f"while {name}:")


@BLOCKS.add(1)
def while_compare(scope: Scope) -> Lines:
    name = scope.some()
    lines = loop(scope, f"while {name} {scope.pick('<', '>', '<=')} {scope.pick(scope.number(), scope.some())}:")
    return [*lines[:2], *indent([f"{name} {scope.pick('+=', '-=')} 1"])] if len(lines) == 2 else lines


@BLOCKS.add(15)
def while_true(scope: Scope) -> Lines:
    lines = loop(scope, "while True:")
    if scope.chance(0.5):
        lines += indent([f"if {scope.condition()}:", *indent(["break"])])
    return lines


# branches


@BLOCKS.add(9)
def if_name(scope: Scope) -> Lines:
    return [f"if {scope.condition()}:", *body(scope)]


@BLOCKS.add(5)
def if_equals(scope: Scope) -> Lines:
    return [f"if {scope.some()} == {scope.value()}:", *body(scope)]


@BLOCKS.add(24)
def if_true(scope: Scope) -> Lines:
    constant = scope.pick("True", "True", "True", "True", "False", "None")
    return [f"{'while' if scope.chance(0.1) else 'if'} {scope.some()} == {constant}:", *body(scope)]


@BLOCKS.add(2)
def if_none(scope: Scope) -> Lines:
    name = scope.some()
    return [f"if {name} is None:", *indent([f"{name} = {scope.pick('[]', '{}', scope.value())}"])]


@BLOCKS.add(1)
def if_contains(scope: Scope) -> Lines:
    return [f"if {scope.some()} {scope.pick('in', 'not in')} {scope.many()}:", *body(scope)]


@BLOCKS.add(6)
def if_else(scope: Scope) -> Lines:
    return [f"if {scope.condition()}:", *body(scope, 2), "else:", *body(scope, 2)]


@BLOCKS.add(17)
def if_elif(scope: Scope) -> Lines:
    """A chain on one variable or on several, closed by else in half of the cases."""
    name = scope.some() if scope.chance(0.3) else None
    tests = [f"{name} == {scope.value()}" if name else scope.condition() for _ in range(scope.rng.choice((2, 2, 3)))]
    lines: Lines = []
    for at, test in enumerate(tests):
        lines += [f"{'elif' if at else 'if'} {test}:", *body(scope, 1)]
    return lines + (["else:", *body(scope, 1)] if scope.chance(0.5) else [])


@BLOCKS.add(2)
def if_raise(scope: Scope) -> Lines:
    return [f"if {scope.condition()}:", *indent([failure(scope)])]


@BLOCKS.add(4)
def if_return(scope: Scope) -> Lines:
    if not scope.returns:
        return if_name(scope)
    return [f"if {scope.condition()}:", *indent([f"return {answer(scope)}"])]


@BLOCKS.add(1)
def try_except(scope: Scope) -> Lines:
    error = scope.pick("ValueError", "KeyError", "OSError", "Exception")
    return ["try:", *body(scope, 1), f"except {error}:", *body(scope, 1)]


# files


@BLOCKS.add(16)
def with_open(scope: Scope) -> Lines:
    handle = scope.pick("f", "f", "file", "handle", scope.word())
    return [f"with open({scope.some()}) as {handle}:", *use_file(scope, handle)]


@BLOCKS.add(4)
def with_open_for_reading(scope: Scope) -> Lines:
    handle = scope.pick("f", "f", "file", "infile", "source")
    return [f"with {open_to_read(scope)} as {handle}:", *use_file(scope, handle)]


@BLOCKS.add(4)
def with_open_for_writing(scope: Scope) -> Lines:
    handle = scope.pick("f", "f", "file", "outfile", "target")
    head = f"with {open_to_write(scope)} as {handle}:"
    return [head, *indent([f"{handle}.write({scope.pick(scope.some(), scope.string())})"])]


def use_file(scope: Scope, handle: str) -> Lines:
    if scope.chance(0.35):
        line = scope.pick("line", "row", "text")
        return indent(loop(scope, f"for {line} in {handle}:", line))
    return indent([f"{scope.word()} = {handle}.{scope.pick('read()', 'readlines()', 'readline()')}"])


# literals over several lines


@BLOCKS.add(4)
def long_dict(scope: Scope) -> Lines:
    items = entries(scope, 6)
    return spread(scope, scope.fresh("dict") + " = ", "{", items, "}")


@BLOCKS.add(5)
def long_list(scope: Scope) -> Lines:
    items = elements(scope, 6)
    return spread(scope, scope.fresh("list") + " = ", "[", items, "]")


@BLOCKS.add(1)
def long_nested_list(scope: Scope) -> Lines:
    items = rows(scope)
    return spread(scope, scope.fresh("list") + " = ", "[", items, "]")


@BLOCKS.add(2)
def hanging_nested_list(scope: Scope) -> Lines:
    items = rows(scope)
    return hang(scope.fresh("list") + " = ", "[", items, "]", 1)


@BLOCKS.add(1)
def hanging_list(scope: Scope) -> Lines:
    items = elements(scope, 9)
    return hang(scope.fresh("list") + " = ", "[", items, "]", 3)


@BLOCKS.add(1)
def call_with_dict(scope: Scope) -> Lines:
    function, items = scope.function(), entries(scope, 4)
    return spread(scope, f"{function}(", "{", items, "})")


# functions inside


@BLOCKS.add(9)
def inner_function(scope: Scope) -> Lines:
    name, arguments = scope.fresh("func", 0.0), [scope.word() for _ in range(scope.rng.choice((0, 1, 1, 2)))]
    arguments = list(dict.fromkeys(arguments))
    enclosing, loops, returns = dict(scope.kinds), scope.loops, scope.returns
    scope.kinds.update(dict.fromkeys(arguments, "any"))
    scope.loops, scope.returns = 0, True
    lines = [f"def {name}({', '.join(arguments)}):", *body(scope, 1)]
    scope.kinds, scope.loops, scope.returns = enclosing, loops, returns
    return [*lines, *indent([f"return {scope.value()}"])]
