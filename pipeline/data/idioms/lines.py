"""Statements of one line: choices around one piece of syntax. ``LINES`` at the end has them all, with their weights."""

from __future__ import annotations

from pipeline.data.idioms.literals import bracketed, elements, entries, rows
from pipeline.data.idioms.scope import Scope
from pipeline.data.idioms.templates import Templates

# mode → words of which one is in the name of a file that is read, or written
ROLES = {
    "r": ("input", "input", "input", "in", "source", "infile"),
    "w": ("output", "output", "output", "out", "target", "outfile"),
}
# kind → how a variable of that kind takes up a value
GROW = {"set": "{}.add({})", "str": "{} += {}", "num": "{} += {}", "list": "{}.append({})"}


# parts of statements


def assign(scope: Scope, value: str, kind: str = "any") -> str:
    """A fresh name becomes a value, which was drawn before the name."""
    return f"{scope.fresh(kind)} = {value}"


def formatted(scope: Scope) -> str:
    """An f-string: words, then one value."""
    mark, joint = scope.mark(), scope.pick(" ", " ", " ", ": ", "=")
    return f"f{mark}{scope.text()}{joint}{{{scope.place()}}}{mark}"


def ternary(scope: Scope) -> str:
    one, other = (scope.some() if scope.chance(0.5) else scope.value() for _ in range(2))
    condition = scope.some() if scope.chance(0.7) else scope.condition()
    return f"{one} if {condition} else {other}"


def two_names(scope: Scope) -> tuple[str, str]:
    """Two names that belong together: a pair of letters or two words, either first."""
    if scope.chance(0.7):
        one, other = scope.rng.sample(scope.pick("xy", "xy", "xy", "xy", "xy", "ab", "ij", "mn", "xyz"), 2)
        scope.kinds[one] = scope.kinds[other] = "any"
        return one, other
    return scope.fresh(), scope.fresh()


def opened(scope: Scope, mode: str) -> str:
    """``open`` with mode r or w and a name, or a string, that says that the file is read, or written."""
    role = scope.rng.choice(ROLES[mode])
    mark, word, draw = scope.mark(), scope.word(), scope.rng.random()
    if draw < 0.6:
        stem = scope.pick(f"{word}_{role}", f"{word}_{role}", f"{role}_{word}", role)
        file = f"{mark}{stem}.{scope.pick('txt', 'txt', 'csv', 'json')}{mark}"
    elif draw < 0.9:
        file = scope.pick(f"{word}_{role}", f"{role}_{word}", f"{role}_{scope.pick('path', 'file', 'name')}")
    else:
        file = f"self.{role}_{scope.pick('path', 'file', 'name')}" if scope.method else f"args.{role}_{word}"
    return f"open({file}, {mark}{scope.pick(*[mode] * 4, mode + 'b')}{mark})"


# statements in which a part is drawn before what stands to its left, or stands twice


def print_formatted_start(scope: Scope) -> str:
    mark = scope.mark()
    return f"print(f{mark}{{{scope.some()}}} {scope.text()}{mark})"


def print_formatted_middle(scope: Scope) -> str:
    mark = scope.mark()
    tail = f"{{{scope.some()}}}" if scope.chance(0.5) else scope.text()
    return f"print(f{mark}{scope.text()} {{{scope.some()}}} {tail}{mark})"


def append_string(scope: Scope) -> str:
    text = formatted(scope) if scope.chance(0.4) else scope.string()
    return f"{scope.known('list') or scope.some()}.append({text})"


def assign_sum(scope: Scope) -> str:
    left, right = scope.some(), scope.pick(scope.some(), scope.number())
    return f"{scope.fresh('num')} = {left} {scope.pick('+', '-', '*')} {right}"


def swap(scope: Scope) -> str:
    one, other = (scope.known("any", "num") for _ in range(2))
    if not one or not other or one == other or scope.chance(0.4):
        one, other = two_names(scope)
    return f"{one}, {other} = {other}, {one}"


def assign_item(scope: Scope) -> str:
    key = scope.string() if scope.chance(0.6) else scope.number()
    return assign(scope, f"{scope.many()}[{key}]")


def set_attribute(scope: Scope) -> str:
    owner = "self" if scope.method else scope.some()
    name = scope.some()
    return f"{owner}.{name} = {name if scope.chance(0.6) else scope.value()}"


def assign_lambda(scope: Scope) -> str:
    argument = scope.rng.choice("xyabnst") if scope.chance(0.35) else scope.word()
    body = scope.pick(
        f"{argument} {scope.pick('+', '*', '-')} {scope.number()}",
        f"{argument}.{scope.word()}",
        f"{argument}[{scope.number()}]",
        f"{scope.some()}({argument})",
    )
    return assign(scope, f"lambda {argument}: {body}", "func")


def assign_lambda_of_two(scope: Scope) -> str:
    one, other = scope.rng.sample("xyabnmpq", 2)
    return f"{scope.fresh('func')} = lambda {one}, {other}: {one} {scope.pick('+', '*', '-')} {other}"


def sort_by_lambda(scope: Scope) -> str:
    argument = scope.rng.choice("xyabnst")
    return f"{scope.many()}.sort(key=lambda {argument}: {argument}.{scope.word()})"


def comprehension(scope: Scope) -> str:
    item, source = scope.fresh(letters=0.4), scope.many()
    return f"{scope.fresh('list')} = [{scope.pick(item, f'{item}.{scope.word()}')} for {item} in {source}]"


def grow(scope: Scope) -> str:
    """A variable grows by its kind: a set by ``.add``, a string by ``+=``, a list by ``.append``."""
    name = scope.known("set", "str", "list", "num")
    if name is None:
        return f"{scope.function()}({scope.string()})"
    kind = scope.kinds[name]
    if kind == "list":
        value = scope.value()
    elif kind == "num":
        value = scope.pick("1", scope.number(), scope.some())
    else:
        value = scope.pick(scope.some(), scope.string(), scope.place())
    return GROW[kind].format(name, value)


def call_with_keywords(scope: Scope) -> str:
    names = [scope.some(), scope.word()]
    return f"{scope.function()}({names[0]}={names[0]}, {names[1]}={scope.value()})"


LINES = Templates[str](
    # calls with strings
    (5, lambda s: f"{s.function()}({s.string()})"),
    (3, lambda s: assign(s, f"{s.function()}({s.string()})")),
    (1, lambda s: f"{s.function()}({s.some()}, {s.string()})"),
    (1, lambda s: f"{s.function()}({s.string()}, {s.value()})"),
    (5, lambda s: f"print({s.string()})"),
    (8, lambda s: f"print({formatted(s)})"),
    (2, print_formatted_start),
    (2, print_formatted_middle),
    (9, lambda s: f"{s.function()}({formatted(s)})"),
    (3, lambda s: assign(s, f"{s.function()}({formatted(s)})")),
    (3, append_string),
    (2, lambda s: f"print({s.some()})" if s.chance(0.5) else f"print({s.string()}, {s.some()})"),
    # assignments
    (5, lambda s: f"{s.fresh('num')} = {s.number()}"),
    (8, lambda s: f"{s.fresh('flag')} = {s.pick('True', 'True', 'False', 'None')}"),
    (2, lambda s: assign(s, s.string())),
    (2, lambda s: assign(s, s.value())),
    (4, lambda s: assign(s, f"{s.pick('len', s.function())}({s.some()})")),
    (1, lambda s: f"{s.some()} = {s.value()}"),
    (1, assign_sum),
    (1, lambda s: assign(s, f"{s.some()} == {s.value()}", "flag")),
    (1, lambda s: f"{s.fresh(letters=0.5)}, {s.fresh(letters=0.5)} = {s.function()}({s.some()})"),
    (9, swap),
    (1, assign_item),
    (1, lambda s: f"{s.known('dict') or s.many()}[{s.string()}] = {s.value()}"),
    (3, set_attribute),
    (13, lambda s: assign(s, ternary(s))),
    (8, assign_lambda),
    (1, assign_lambda_of_two),
    (1, sort_by_lambda),
    # collections
    (9, lambda s: assign(s, bracketed(elements(s)), "list")),
    (8, lambda s: assign(s, bracketed(rows(s)), "list")),
    (10, lambda s: assign(s, bracketed(entries(s), "{}"), "dict")),
    (1, lambda s: f"{s.function()}({s.pick(bracketed(elements(s)), bracketed(rows(s)))})"),
    (1, comprehension),
    (10, grow),
    # calls
    (2, lambda s: f"{s.function()}({s.some()})"),
    (1, call_with_keywords),
    (1, lambda s: f"del {s.many()}[{s.string()}]"),
    (1, lambda s: f"assert {s.some()} == {s.value()}"),
    # files
    (4, lambda s: assign(s, f"open({s.some()})")),
    (5, lambda s: f"{s.fresh(letters=0.2)} = {opened(s, 'r')}"),
    (5, lambda s: f"{s.fresh(letters=0.2)} = {opened(s, 'w')}"),
)
