"""Statements with lines inside: loops, branches, files, and literals over several lines.

``BLOCKS`` at the end has them all, with their weights.
"""

from __future__ import annotations

from pipeline.data.idioms.lines import LINES, formatted, opened, ternary
from pipeline.data.idioms.literals import elements, entries, hang, rows, spread
from pipeline.data.idioms.scope import CodeLines, Scope, indent
from pipeline.data.idioms.templates import Templates


def body(scope: Scope, most: int = 3) -> CodeLines:
    """One to three statements, indented; blocks among them as long as they are not too deep."""
    scope.depth += 1
    before = dict(scope.kinds)
    lines: CodeLines = []
    for _ in range(scope.rng.choice((1, 1, 2, most))):
        if scope.depth < 3 and scope.chance(0.28):
            lines += BLOCKS.write(scope)
        else:
            lines.append(LINES.write(scope))
    lines += ending(scope) if scope.chance(0.22) else []
    scope.depth -= 1
    scope.kinds = before  # a name that is only set inside is not read after it
    return indent(lines)


def ending(scope: Scope) -> CodeLines:
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


# loops


def loop_body(scope: Scope, *names: str, most: int = 3) -> CodeLines:
    """The body of a loop, the loop's own names known inside it."""
    enclosing = dict(scope.kinds)
    scope.kinds.update(dict.fromkeys(names, "any"))
    scope.loops += 1
    lines = body(scope, most)
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


def for_in(scope: Scope, names: str, items: str) -> CodeLines:
    """A loop with its body, in which its names are known."""
    return [f"for {names} in {items}:", *loop_body(scope, *names.split(", "))]


def for_range(scope: Scope) -> CodeLines:
    at = index(scope)
    limit = scope.pick(scope.number(), scope.some(), f"len({scope.many()})", f"1, {scope.some()}")
    return for_in(scope, at, f"range({limit})")


def for_enumerate(scope: Scope) -> CodeLines:
    at, (item, items) = index(scope), item_of(scope)
    return for_in(scope, f"{at}, {item}", f"enumerate({items})")


def for_items(scope: Scope) -> CodeLines:
    key, value = scope.pick("key", "name", "k"), scope.pick("value", "v")
    return for_in(scope, f"{key}, {value}", f"{scope.known('dict') or scope.place()}.items()")


def for_in_for(scope: Scope) -> CodeLines:
    outer, outer_items = item_of(scope)
    inner = scope.word()
    before = [LINES.write(scope)] if scope.chance(0.3) else []
    nested = [f"for {inner} in {scope.pick(outer, f'{outer}.{inner}s')}:", *loop_body(scope, outer, inner)]
    return [f"for {outer} in {outer_items}:", *indent(before + nested)]


def for_in_if(scope: Scope) -> CodeLines:
    item, items = item_of(scope)
    before = [LINES.write(scope)] if scope.chance(0.5) else []
    head = f"if {scope.condition()}:"
    return [head, *indent(before + for_in(scope, item, items))]


def for_range_in_range(scope: Scope) -> CodeLines:
    one, other = scope.rng.sample("ijkmn", 2)
    limits = [scope.pick(scope.some(), scope.number()) for _ in range(2)]
    nested = [f"for {other} in range({limits[1]}):", *loop_body(scope, one, other)]
    return [f"for {one} in range({limits[0]}):", *indent(nested)]


def for_if(scope: Scope) -> CodeLines:
    item, items = item_of(scope)
    condition = scope.pick(item, f"{item}.{scope.word()}", f"{item} == {scope.value()}")
    return [f"for {item} in {items}:", *indent([f"if {condition}:", *loop_body(scope)])]


def while_compare(scope: Scope) -> CodeLines:
    name = scope.some()
    head = f"while {name} {scope.pick('<', '>', '<=')} {scope.pick(scope.number(), scope.some())}:"
    inside = loop_body(scope)
    return [head, *inside, *(indent([f"{name} {scope.pick('+=', '-=')} 1"]) if len(inside) == 1 else [])]


def while_true(scope: Scope) -> CodeLines:
    lines = ["while True:", *loop_body(scope)]
    return lines + (indent([f"if {scope.condition()}:", "    break"]) if scope.chance(0.5) else [])


# branches


def if_true(scope: Scope) -> CodeLines:
    constant = scope.pick("True", "True", "True", "True", "False", "None")
    return [f"{'while' if scope.chance(0.1) else 'if'} {scope.some()} == {constant}:", *body(scope)]


def if_none(scope: Scope) -> CodeLines:
    name = scope.some()
    return [f"if {name} is None:", *indent([f"{name} = {scope.pick('[]', '{}', scope.value())}"])]


def if_elif(scope: Scope) -> CodeLines:
    """A chain on one variable or on several, closed by else in half of the cases."""
    name = scope.some() if scope.chance(0.3) else None
    tests = [f"{name} == {scope.value()}" if name else scope.condition() for _ in range(scope.rng.choice((2, 2, 3)))]
    lines: CodeLines = []
    for at, test in enumerate(tests):
        lines += [f"{'elif' if at else 'if'} {test}:", *body(scope, 1)]
    return lines + (["else:", *body(scope, 1)] if scope.chance(0.5) else [])


def if_return(scope: Scope) -> CodeLines:
    head = f"if {scope.condition()}:"
    return [head, *(indent([f"return {answer(scope)}"]) if scope.returns else body(scope))]


def try_except(scope: Scope) -> CodeLines:
    error = scope.pick("ValueError", "KeyError", "OSError", "Exception")
    return ["try:", *body(scope, 1), f"except {error}:", *body(scope, 1)]


# files


def with_file(scope: Scope, handle: str, file: str) -> CodeLines:
    """An open file is read, line by line or at once."""
    head = f"with {file} as {handle}:"
    if scope.chance(0.35):
        item = scope.pick("line", "row", "text")
        return [head, *indent(for_in(scope, item, handle))]
    return [head, *indent([f"{scope.word()} = {handle}.{scope.pick('read()', 'readlines()', 'readline()')}"])]


def with_open_for_writing(scope: Scope) -> CodeLines:
    handle = scope.pick("f", "f", "file", "outfile", "target")
    head = f"with {opened(scope, 'w')} as {handle}:"
    return [head, *indent([f"{handle}.write({scope.pick(scope.some(), scope.string())})"])]


# literals over several lines


def assign_spread(scope: Scope, brackets: str, items: list[str]) -> CodeLines:
    return spread(scope, scope.fresh("dict" if brackets == "{}" else "list") + " = ", brackets[0], items, brackets[1])


# functions inside


def inner_function(scope: Scope) -> CodeLines:
    name, arguments = scope.fresh("func", 0.0), [scope.word() for _ in range(scope.rng.choice((0, 1, 1, 2)))]
    arguments = list(dict.fromkeys(arguments))
    enclosing, loops, returns = dict(scope.kinds), scope.loops, scope.returns
    scope.kinds.update(dict.fromkeys(arguments, "any"))
    scope.loops, scope.returns = 0, True
    lines = [f"def {name}({', '.join(arguments)}):", *body(scope, 1)]
    scope.kinds, scope.loops, scope.returns = enclosing, loops, returns
    return [*lines, *indent([f"return {scope.value()}"])]


BLOCKS = Templates[CodeLines](
    # loops
    (7, lambda s: for_in(s, *item_of(s))),
    (13, for_range),
    (15, for_enumerate),
    (1, for_items),
    (4, for_in_for),
    (6, for_in_if),
    (3, for_range_in_range),
    (3, for_if),
    (10, lambda s: [f"while {s.some() if s.chance(0.7) else s.place()}:", *loop_body(s)]),
    (1, while_compare),
    (15, while_true),
    # branches
    (9, lambda s: [f"if {s.condition()}:", *body(s)]),
    (5, lambda s: [f"if {s.some()} == {s.value()}:", *body(s)]),
    (24, if_true),
    (2, if_none),
    (1, lambda s: [f"if {s.some()} {s.pick('in', 'not in')} {s.many()}:", *body(s)]),
    (6, lambda s: [f"if {s.condition()}:", *body(s, 2), "else:", *body(s, 2)]),
    (17, if_elif),
    (2, lambda s: [f"if {s.condition()}:", *indent([failure(s)])]),
    (4, if_return),
    (1, try_except),
    # files
    (16, lambda s: with_file(s, s.pick("f", "f", "file", "handle", s.word()), f"open({s.some()})")),
    (4, lambda s: with_file(s, s.pick("f", "f", "file", "infile", "source"), opened(s, "r"))),
    (4, with_open_for_writing),
    # literals over several lines
    (4, lambda s: assign_spread(s, "{}", entries(s, 6))),
    (5, lambda s: assign_spread(s, "[]", elements(s, 6))),
    (1, lambda s: assign_spread(s, "[]", rows(s))),
    (2, lambda s: hang(s, rows(s), 1)),
    (1, lambda s: hang(s, elements(s, 9), 3)),
    (1, lambda s: spread(s, f"{s.function()}(", "{", entries(s, 4), "})")),
    # functions inside
    (9, inner_function),
)
