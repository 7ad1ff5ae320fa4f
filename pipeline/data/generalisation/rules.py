"""Rules that find where real code makes a task's decision: one for each task.

A rule sees the text before a place, in Python's own tokens, and whether the string around the place ends there. It
gives 0 where the task's decision is made for side a, 1 where it is made for side b, None where it is not made. Rules
are a little wider than the prompts of the tasks, as real code has other words.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

from pipeline.data.generalisation.place import Place, words_of
from pipeline.data.generalisation.python_code import PythonToken, parameters_of

Rule = Callable[[Place], int | None]
Copying = Callable[[Place], tuple[str, list[str]] | None]  # the right name, the other ones

READS = re.compile(r"in(?:put|file|_file|_path|_)?\b|input|source|src|read", re.IGNORECASE)
WRITES = re.compile(r"out(?:put|file)?|dest|dst|target|write|save", re.IGNORECASE)
RULES: dict[str, Rule] = {}
COPYING: dict[str, Copying] = {}


def _rule(function: Rule) -> Rule:
    RULES[function.__name__] = function
    return function


# By the words of the line so far: what they have to be for side a and for side b, as regular expressions. A statement
# has no bracket open; of an open line, brackets may be open.

NAME, VALUE = "(name|dotted)", "(name|number|True|False|None)"
STATEMENTS = {
    "for_while": ("(async )?for name", "while (name|number|True)"),
    "else_elif": ("else", "elif"),
    "if_equals": (f"(if|elif) {NAME}", NAME),
    "var_if": (f"(if|elif) {NAME} (==|!=|is|is not) {VALUE}", f"{NAME} = {VALUE}"),
    "while_return_true": ("while True", "return True"),
}
OPEN_LINES = {
    "if_ternary": (f"(if|elif) {NAME}", rf"(?!(if|elif|while) )\S.* if {NAME}"),
    "lambda_func": ("(.* )?lambda name", "(async )?def name"),
    "enumerate_range": (r"(.* )?for name , (name|\( name , name \)) in", "(.* )?for name in"),
}


def _rule_of(patterns: tuple[str, str], words: Callable[[Place], list[str]]) -> Rule:
    def rule(place: Place) -> int | None:
        text = " ".join(words(place))
        return next((side for side, pattern in enumerate(patterns) if re.fullmatch(pattern, text)), None)

    return rule


RULES |= {name: _rule_of(patterns, lambda place: place.statement) for name, patterns in STATEMENTS.items()}
RULES |= {name: _rule_of(patterns, lambda place: place.words) for name, patterns in OPEN_LINES.items()}


@_rule
def var_swap(place: Place) -> int | None:
    """After the comma of a swap of x and y."""
    texts = " ".join(token.text for token in place.line)
    return {"x , y = y ,": 0, "y , x = x ,": 1}.get(texts)


@_rule
def indent_for(place: Place) -> int | None:
    """At the first line of the body of a ``for`` at depth 4 or 8."""
    match words_of(place.ended_line):
        case ["for", *_, ":", "\n"] | ["async", "for", *_, ":", "\n"]:
            return {4: 0, 8: 1}.get(place.code.column_of(place.ended_line[0]))
    return None


# By the brackets that are open


@_rule
def bracket_counting(place: Place) -> int | None:
    """After an item or index, one bracket open or one in another."""
    if not place.in_code or place.tokens[-1].kind not in ("NAME", "NUMBER") or place.marks not in (["["], ["[", "["]):
        return None
    return len(place.marks) - 1


@_rule
def final_kwarg(place: Place) -> int | None:
    """After a parameter that is not the first; earlier ones have defaults or not, annotations are for neither."""
    if not place.in_code or place.marks != ["("] or words_of(place.before(place.brackets[0])[-2:]) != ["def", "name"]:
        return None
    words = words_of(place.directly_in(place.brackets[0]))
    if words[-2:] != [",", "name"] or {"*", "**", ":"} & set(words):
        return None
    return int("=" not in words)


@_rule
def with_as(place: Place) -> int | None:
    """At the end of a call's arguments, in a ``with`` or in an assignment."""
    if not place.in_code or place.marks != ["("] or not _ends_value(place.tokens[-1]):
        return None
    match words_of(place.before(place.brackets[0])):
        case ["with", "name" | "dotted"] | ["async", "with", "name" | "dotted"]:
            return 0
        case ["name" | "dotted", "=", "name" | "dotted"]:
            return 1
    return None


# In strings


@_rule
def single_double_quote(place: Place) -> int | None:
    """At the end of a plain string that is the first thing in a call's bracket, and not empty."""
    string = place.string
    if string is None or string.prefix or string.mark not in ("'", '"') or not _begins_arguments(place):
        return None
    return int(string.mark == "'") if _ends(place, string) else None


@_rule
def fstring_brace(place: Place) -> int | None:
    """In an f-string, no value before, or at the end of a plain string; the first thing in a call's bracket."""
    string = place.string
    if string is None or string.mark != '"' or string.prefix not in ("", "f") or not _begins_arguments(place):
        return None
    if string.prefix:
        before = place.code.text[string.inside[0] : place.at]
        return 0 if before and b"{" not in before else None
    return 1 if _ends(place, string) else None


@_rule
def bracket_brace(place: Place) -> int | None:
    """At the end of a string that is a key of a dict or an item of a list."""
    string = place.string
    if string is None or string.mark != '"' or string.prefix or not _ends(place, string) or not place.brackets:
        return None
    bracket = place.brackets[-1]
    if place.tokens[-1].text not in ("[", "{", ",") or (bracket and _ends_value(place.tokens[bracket - 1])):
        return None  # elsewhere, or in an index
    return {"{": 0, "[": 1}.get(place.marks[-1])


@_rule
def with_open(place: Place) -> int | None:
    """At the mode of a file whose name says that it is read, or written."""
    string = place.string
    if string is None or string.inside[0] != place.at or not place.brackets or place.tokens[-1].text != ",":
        return None
    bracket = place.brackets[-1]
    if [token.text for token in place.tokens[max(bracket - 1, 0) : bracket + 1]] != ["open", "("]:
        return None
    name = place.code.text[place.tokens[bracket].end : place.tokens[-1].start].decode()
    reads, writes = READS.search(name), WRITES.search(name)
    return None if bool(reads) == bool(writes) else int(bool(writes))


def _begins_arguments(place: Place) -> bool:
    """Whether the last token is the bracket of a call of something with a name."""
    return len(place.tokens) > 1 and place.tokens[-1].text == "(" and place.tokens[-2].is_identifier


def _ends(place: Place, string: PythonToken) -> bool:
    """Whether the string, which is not empty, ends here."""
    return string.inside[0] < place.at == string.inside[1]


def _ends_value(token: PythonToken) -> bool:
    return token.is_identifier or token.kind == "NUMBER" or token.text in ("]", ")", "None", "True", "False")


# By what names were made as


@_rule
def set_or_string(place: Place) -> int | None:
    """At a name that begins a line and was last made as a set or a string."""
    if place.statement != ["name"]:
        return None
    match place.made_as(place.line[0].text):
        case ast.Call(func=ast.Name("set")):
            return 0
        case ast.Constant(str()) | ast.JoinedStr() | ast.Call(ast.Attribute(ast.Constant(str()), "join" | "format")):
            return 1
    return None


@_rule
def set_or_string_fixedvarname(place: Place) -> int | None:
    """The same, the name is ``current``."""
    return set_or_string(place) if place.line and place.line[0].text == "current" else None


def class_init(place: Place) -> tuple[str, list[str]] | None:
    """After ``self.name =`` in an ``__init__`` that has a parameter of that name."""
    texts = [token.text for token in place.line]
    if place.statement != ["dotted", "="] or len(texts) != 4 or texts[0] != "self":
        return None
    function = place.function
    names = parameters_of(function) if function and function.name == "__init__" else []
    others = [f" {name}" for name in names if name not in ("self", texts[2])]
    return (f" {texts[2]}", others) if texts[2] in names else None


COPYING["class_init"] = class_init
