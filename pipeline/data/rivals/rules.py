"""Where real code makes a task's decision: a rule a task, from the text before a place to the answer decided on.

A rule sees no more than what comes before. It says 0 or 1 where the decision is the task's and falls on side a or b,
and None anywhere else. Rules are a little wider than the prompts of the tasks, as real code has other words.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from pipeline.data.rivals.place import Place

Rule = Callable[[Place], int | None]
Copying = Callable[[Place], tuple[str, list[str]] | None]  # the right name, the other ones

DOTTED = r"[^\W\d][\w.]*"
RULES: dict[str, Rule] = {}
COPYING: dict[str, Copying] = {}


def _rule(function: Rule) -> Rule:
    RULES[function.__name__] = function
    return function


def _line_rule(name: str, a: str, b: str, least: Callable[[Place], bool] = lambda place: place.in_statement) -> None:
    """A rule by the line so far: side a or b where all of it matches; no bracket is open."""
    sides = (re.compile(a), re.compile(b))

    def rule(place: Place) -> int | None:
        for side, pattern in enumerate(sides):
            if pattern.fullmatch(place.line):
                return side if least(place) else None
        return None

    RULES[name] = rule


def _in_code(place: Place) -> bool:
    return place.in_code


_line_rule("for_while", r"\s*(?:async )?for \w+", r"\s*while \w+")
_line_rule("else_elif", r"\s*else", r"\s*elif")
_line_rule("if_ternary", rf"\s*(?:el)?if {DOTTED}", rf"\s*(?!if |elif |while )\S.* if {DOTTED}", _in_code)
_line_rule("lambda_func", r".*\blambda \w+", r"\s*(?:async )?def \w+", _in_code)
_line_rule("if_equals", rf"\s*(?:el)?if {DOTTED}", rf"\s*{DOTTED}")
_line_rule("enumerate_range", r".*\bfor \w+, \(?\w+(?:, \w+\))? in", r".*\bfor \w+ in", _in_code)
_line_rule("var_if", rf"\s*(?:el)?if {DOTTED} (?:==|!=|is|is not) \w+", rf"\s*{DOTTED} = \w+")
_line_rule("while_return_true", r"\s*while True", r"\s*return True")
_line_rule("var_swap", r"\s*x, y = y,", r"\s*y, x = x,")


@_rule
def single_double_quote(place: Place) -> int | None:
    """In a plain string that is the first thing in a call's bracket, behind at least a character."""
    string = place.string
    if string is None or string.prefix or len(string.mark) > 1 or string.end == len(place.before):
        return None
    return int(string.mark == "'") if re.search(r"\w\($", place.before_mark(string)) else None


@_rule
def fstring_brace(place: Place) -> int | None:
    """The same, an f-string or a plain one."""
    string = place.string
    if string is None or string.mark != '"' or string.end == len(place.before) or string.prefix not in ("", "f"):
        return None
    inside = place.before[string.end :]
    if "{" in inside or not re.search(r"\w\($", place.before_mark(string)):
        return None
    return int(not string.prefix)


@_rule
def bracket_counting(place: Place) -> int | None:
    """After an item or index, one bracket open or one in another."""
    marks = [opened.mark for opened in place.brackets]
    if not place.in_code or not re.search(r"\w$", place.before) or marks not in (["["], ["[", "["]):
        return None
    return len(marks) - 1


def _set_or_string(place: Place, name: str) -> int | None:
    match = re.fullmatch(rf"\s+({name})", place.line)
    if not match or not place.in_statement:
        return None
    made = re.findall(rf"^\s*{match[1]}(?::[^=\n]*)? = (set\(|f?[\"'])", place.before, re.MULTILINE)
    return int(made[-1] != "set(") if made else None


@_rule
def set_or_string(place: Place) -> int | None:
    """At a name that begins a line and was made as a set or a string."""
    return _set_or_string(place, r"\w+")


@_rule
def set_or_string_fixedvarname(place: Place) -> int | None:
    """The same, the name is ``current``."""
    return _set_or_string(place, "current")


@_rule
def final_kwarg(place: Place) -> int | None:
    """After a parameter that is not the first; earlier ones have defaults or not, annotations are for neither."""
    if not place.in_code or [opened.mark for opened in place.brackets] != ["("]:
        return None
    opened = place.brackets[0]
    inside = place.before[opened.end :]
    if not re.search(r"\bdef \w+$", place.before_mark(opened)) or not re.search(r",\s*\w+$", inside):
        return None
    return None if re.search(r"[*:]", inside) else int("=" not in inside)


@_rule
def with_as(place: Place) -> int | None:
    """At the end of a call's arguments, in a ``with`` or in an assignment."""
    match = re.fullmatch(rf"\s*(?:(?:async )?(with)|{DOTTED} =) {DOTTED}\(.*[\w\])]", place.line)
    if not match or not place.in_code or [opened.mark for opened in place.brackets] != ["("]:
        return None
    return int(match[1] is None)


@_rule
def bracket_brace(place: Place) -> int | None:
    """In a string that is a key of a dict or an item of a list."""
    string = place.string
    if string is None or string.mark != '"' or string.prefix or string.end == len(place.before) or not place.brackets:
        return None
    if not re.search(r"[\[{,]\s*$", place.before_mark(string)):
        return None
    return {"{": 0, "[": 1}.get(place.brackets[-1].mark)


@_rule
def with_open(place: Place) -> int | None:
    """At the mode of a file whose name says that it is read, or written."""
    string = place.string
    match = re.search(r"\bopen\((.*), $", place.before_mark(string)) if string else None
    if string is None or match is None or string.end != len(place.before):
        return None
    reads = re.search(r"in(?:put|file|_file|_path|_)?\b|input|source|src|read", match[1], re.IGNORECASE)
    writes = re.search(r"out(?:put|file)?|dest|dst|target|write|save", match[1], re.IGNORECASE)
    return None if bool(reads) == bool(writes) else int(bool(writes))


@_rule
def indent_for(place: Place) -> int | None:
    """At the first line of the body of a ``for`` at depth 4 or 8."""
    match = re.search(r"(?:^|\n)( *)(?:async )?for .*:\n$", place.before)
    if not match or not place.in_statement:
        return None
    return {4: 0, 8: 1}.get(len(match[1]))


def class_init(place: Place) -> tuple[str, list[str]] | None:
    """After ``self.name =`` in an ``__init__`` that has a parameter of that name."""
    match = re.fullmatch(r"\s+self\.(\w+) =", place.line)
    if not match or not place.in_statement:
        return None
    defs = list(re.finditer(r"\bdef (\w+)\(([^()]*)\)", place.before))
    if not defs or defs[-1][1] != "__init__":
        return None
    parameters = [re.split(r"[:=]", part)[0].strip("* \n") for part in defs[-1][2].split(",")]
    others = [name for name in parameters if name.isidentifier() and name not in ("self", match[1])]
    return (f" {match[1]}", [f" {name}" for name in others]) if match[1] in parameters else None


COPYING["class_init"] = class_init
