"""Statements of one line. Each template is a few choices around one piece of syntax."""

from __future__ import annotations

from pipeline.data.idioms.literals import dict_literal, flat_list, nested_list
from pipeline.data.idioms.registry import LINES
from pipeline.data.idioms.scope import Scope

READ_MODES = ("r", "r", "r", "r", "rb")
WRITE_MODES = ("w", "w", "w", "w", "wb")


# calls with strings


@LINES.add(5)
def call_with_string(scope: Scope) -> str:
    return f"{scope.function()}({scope.string()})"


@LINES.add(3)
def assign_call_with_string(scope: Scope) -> str:
    function, text = scope.function(), scope.string()
    return f"{scope.fresh()} = {function}({text})"


@LINES.add(1)
def call_with_string_last(scope: Scope) -> str:
    return f"{scope.function()}({scope.some()}, {scope.string()})"


@LINES.add(1)
def call_with_string_first(scope: Scope) -> str:
    return f"{scope.function()}({scope.string()}, {scope.value()})"


@LINES.add(5)
def print_text(scope: Scope) -> str:
    return f"print({scope.string()})"


@LINES.add(8)
def print_formatted_end(scope: Scope) -> str:
    return f"print({formatted(scope)})"


@LINES.add(2)
def print_formatted_start(scope: Scope) -> str:
    mark = scope.mark()
    return f"print(f{mark}{{{scope.some()}}} {scope.text()}{mark})"


@LINES.add(2)
def print_formatted_middle(scope: Scope) -> str:
    mark = scope.mark()
    tail = f"{{{scope.some()}}}" if scope.chance(0.5) else scope.text()
    return f"print(f{mark}{scope.text()} {{{scope.some()}}} {tail}{mark})"


@LINES.add(9)
def call_with_formatted(scope: Scope) -> str:
    return f"{scope.function()}({formatted(scope)})"


@LINES.add(3)
def assign_call_with_formatted(scope: Scope) -> str:
    function, text = scope.function(), formatted(scope)
    return f"{scope.fresh()} = {function}({text})"


@LINES.add(3)
def append_string(scope: Scope) -> str:
    text = formatted(scope) if scope.chance(0.4) else scope.string()
    return f"{scope.known('list') or scope.some()}.append({text})"


def formatted(scope: Scope) -> str:
    """An f-string: words, then one value."""
    mark, joint = scope.mark(), scope.pick(" ", " ", " ", ": ", "=")
    return f"f{mark}{scope.text()}{joint}{{{scope.place()}}}{mark}"


@LINES.add(2)
def print_values(scope: Scope) -> str:
    return f"print({scope.some()})" if scope.chance(0.5) else f"print({scope.string()}, {scope.some()})"


# assignments


@LINES.add(5)
def assign_number(scope: Scope) -> str:
    return f"{scope.fresh('num')} = {scope.number()}"


@LINES.add(8)
def assign_flag(scope: Scope) -> str:
    return f"{scope.fresh('flag')} = {scope.pick('True', 'True', 'False', 'None')}"


@LINES.add(2)
def assign_text(scope: Scope) -> str:
    text = scope.string()
    return f"{scope.fresh('any')} = {text}"


@LINES.add(2)
def assign_value(scope: Scope) -> str:
    value = scope.value()
    return f"{scope.fresh()} = {value}"


@LINES.add(4)
def assign_call(scope: Scope) -> str:
    call = f"{scope.pick('len', scope.function())}({scope.some()})"
    return f"{scope.fresh()} = {call}"


@LINES.add(1)
def assign_again(scope: Scope) -> str:
    return f"{scope.some()} = {scope.value()}"


@LINES.add(1)
def assign_sum(scope: Scope) -> str:
    left, right = scope.some(), scope.pick(scope.some(), scope.number())
    return f"{scope.fresh('num')} = {left} {scope.pick('+', '-', '*')} {right}"


@LINES.add(1)
def assign_comparison(scope: Scope) -> str:
    left, right = scope.some(), scope.value()
    return f"{scope.fresh('flag')} = {left} == {right}"


@LINES.add(1)
def assign_pair(scope: Scope) -> str:
    return f"{scope.fresh(letters=0.5)}, {scope.fresh(letters=0.5)} = {scope.function()}({scope.some()})"


@LINES.add(9)
def swap(scope: Scope) -> str:
    one, other = (scope.known("any", "num") for _ in range(2))
    if not one or not other or one == other or scope.chance(0.4):
        one, other = two_names(scope)
    return f"{one}, {other} = {other}, {one}"


def two_names(scope: Scope) -> tuple[str, str]:
    """Two names that belong together: a pair of letters or two words, either first."""
    if scope.chance(0.7):
        one, other = scope.rng.sample(scope.pick("xy", "xy", "xy", "xy", "xy", "ab", "ij", "mn", "xyz"), 2)
        scope.kinds[one] = scope.kinds[other] = "any"
        return one, other
    return scope.fresh(), scope.fresh()


@LINES.add(1)
def assign_item(scope: Scope) -> str:
    key = scope.string() if scope.chance(0.6) else scope.number()
    source = scope.many()
    return f"{scope.fresh()} = {source}[{key}]"


@LINES.add(1)
def set_item(scope: Scope) -> str:
    return f"{scope.known('dict') or scope.many()}[{scope.string()}] = {scope.value()}"


@LINES.add(3)
def set_attribute(scope: Scope) -> str:
    owner = "self" if scope.method else scope.some()
    name = scope.some()
    return f"{owner}.{name} = {name if scope.chance(0.6) else scope.value()}"


@LINES.add(13)
def assign_ternary(scope: Scope) -> str:
    value = ternary(scope)
    return f"{scope.fresh()} = {value}"


def ternary(scope: Scope) -> str:
    one, other = (scope.some() if scope.chance(0.5) else scope.value() for _ in range(2))
    condition = scope.some() if scope.chance(0.7) else scope.condition()
    return f"{one} if {condition} else {other}"


@LINES.add(8)
def assign_lambda(scope: Scope) -> str:
    argument = scope.rng.choice("xyabnst") if scope.chance(0.35) else scope.word()
    body = scope.pick(
        f"{argument} {scope.pick('+', '*', '-')} {scope.number()}",
        f"{argument}.{scope.word()}",
        f"{argument}[{scope.number()}]",
        f"{scope.some()}({argument})",
    )
    return f"{scope.fresh('func')} = lambda {argument}: {body}"


@LINES.add(1)
def assign_lambda_of_two(scope: Scope) -> str:
    one, other = scope.rng.sample("xyabnmpq", 2)
    return f"{scope.fresh('func')} = lambda {one}, {other}: {one} {scope.pick('+', '*', '-')} {other}"


@LINES.add(1)
def sort_by_lambda(scope: Scope) -> str:
    argument = scope.rng.choice("xyabnst")
    return f"{scope.many()}.sort(key=lambda {argument}: {argument}.{scope.word()})"


# collections


@LINES.add(9)
def assign_flat_list(scope: Scope) -> str:
    value = flat_list(scope)
    return f"{scope.fresh('list')} = {value}"


@LINES.add(8)
def assign_nested_list(scope: Scope) -> str:
    value = nested_list(scope)
    return f"{scope.fresh('list')} = {value}"


@LINES.add(10)
def assign_dict(scope: Scope) -> str:
    value = dict_literal(scope)
    return f"{scope.fresh('dict')} = {value}"


@LINES.add(1)
def call_with_list(scope: Scope) -> str:
    return f"{scope.function()}({scope.pick(flat_list(scope), nested_list(scope))})"


@LINES.add(1)
def comprehension(scope: Scope) -> str:
    item, source = scope.fresh(letters=0.4), scope.many()
    return f"{scope.fresh('list')} = [{scope.pick(item, f'{item}.{scope.word()}')} for {item} in {source}]"


@LINES.add(10)
def grow(scope: Scope) -> str:
    """A variable grows by its kind: a set by ``.add``, a string by ``+=``, a list by ``.append``."""
    name = scope.known("set", "str", "list", "num")
    if name is None:
        return call_with_string(scope)
    kind = scope.kinds[name]
    if kind == "set":
        return f"{name}.add({scope.pick(scope.some(), scope.string(), scope.place())})"
    if kind == "str":
        return f"{name} += {scope.pick(scope.some(), scope.string(), scope.place())}"
    if kind == "num":
        return f"{name} += {scope.pick('1', scope.number(), scope.some())}"
    return f"{name}.append({scope.value()})"


# calls


@LINES.add(2)
def call_with_name(scope: Scope) -> str:
    return f"{scope.function()}({scope.some()})"


@LINES.add(1)
def call_with_keywords(scope: Scope) -> str:
    names = [scope.some(), scope.word()]
    return f"{scope.function()}({names[0]}={names[0]}, {names[1]}={scope.value()})"


@LINES.add(1)
def delete(scope: Scope) -> str:
    return f"del {scope.many()}[{scope.string()}]"


@LINES.add(1)
def check(scope: Scope) -> str:
    return f"assert {scope.some()} == {scope.value()}"


# files


@LINES.add(4)
def open_file(scope: Scope) -> str:
    path = scope.some()
    return f"{scope.fresh()} = open({path})"


@LINES.add(5)
def open_file_for_reading(scope: Scope) -> str:
    return f"{scope.fresh(letters=0.2)} = {open_to_read(scope)}"


@LINES.add(5)
def open_file_for_writing(scope: Scope) -> str:
    return f"{scope.fresh(letters=0.2)} = {open_to_write(scope)}"


def open_to_read(scope: Scope) -> str:
    """``open`` with mode r and a name, or a string, that says that the file is read."""
    return _opened(scope, scope.pick("input", "input", "input", "in", "source", "infile"), READ_MODES)


def open_to_write(scope: Scope) -> str:
    """``open`` with mode w and a name, or a string, that says that the file is written."""
    return _opened(scope, scope.pick("output", "output", "output", "out", "target", "outfile"), WRITE_MODES)


def _opened(scope: Scope, role: str, modes: tuple[str, ...]) -> str:
    mark, word, draw = scope.mark(), scope.word(), scope.rng.random()
    if draw < 0.6:
        stem = scope.pick(f"{word}_{role}", f"{word}_{role}", f"{role}_{word}", role)
        file = f"{mark}{stem}.{scope.pick('txt', 'txt', 'csv', 'json')}{mark}"
    elif draw < 0.9:
        file = scope.pick(f"{word}_{role}", f"{role}_{word}", f"{role}_{scope.pick('path', 'file', 'name')}")
    else:
        file = f"self.{role}_{scope.pick('path', 'file', 'name')}" if scope.method else f"args.{role}_{word}"
    return f"open({file}, {mark}{scope.rng.choice(modes)}{mark})"
