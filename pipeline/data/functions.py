"""Functions cut out of Python source: their own lines, as they were formatted, without docstrings and decorators.

Lines are cut rather than unparsed, because quotes and layout are what several tasks are about.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator

from pipeline.data.python_text import NOT_PYTHON, Function, parse

MAX_LINE = 120  # characters; longer lines are data or generated
MAX_DIGIT_FRAC = 0.2  # of a function's characters; above, it is a table of numbers
MAX_REPEATED_FRAC = 0.5  # of a function's lines that repeat an earlier line; above, it is generated

_UNSAFE = re.compile(r"[\t\f\v\x00-\x08\x0e-\x1f\x7f\x85\u2028\u2029]")


class NotPythonError(ValueError):
    """A text that is not Python source."""


def cut_functions(
    source: str, min_lines: int, max_lines: int, skipped: Counter[str], *, caught: bool = True
) -> Iterator[str]:
    """Every function and method of the source, dedented, ending with a line end, from the first to the last.

    A function longer than ``max_lines`` is searched for functions inside it; what a function holds is not given again.
    ``caught``: those under ``except`` and ``case`` as well, which else are counted.
    Counts in ``skipped`` what was left out, by reason. Raises NotPythonError.
    """
    source = source.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    lines = source.split("\n")
    try:
        tree = parse(source)
    except NOT_PYTHON as error:
        raise NotPythonError(str(error)) from error
    found = list(_functions(tree.body, max_lines, caught))
    if not caught and (n := sum(1 for _ in _functions(tree.body, max_lines, True)) - len(found)):
        skipped["function under except or case"] += n
    for node in found:
        cut = _cut(node, lines)
        reason = "function shape" if cut is None else _refusal(cut, min_lines, max_lines)
        if cut is None or reason:
            skipped[reason or ""] += 1
        else:
            yield "\n".join(cut) + "\n"


def _functions(body: list[ast.stmt], max_lines: int, caught: bool) -> Iterator[Function]:
    """The outermost functions that are not too long to be of use, in classes and branches as well."""
    for node in body:
        if isinstance(node, Function) and (node.end_lineno or 0) - node.lineno < 2 * max_lines:
            yield node
        else:
            for inner in _blocks(node, caught):
                yield from _functions(inner, max_lines, caught)


def _blocks(node: ast.stmt, caught: bool) -> list[list[ast.stmt]]:
    """The blocks of a statement, in their order."""
    branches = [*getattr(node, "handlers", []), *getattr(node, "cases", [])] if caught else []
    parts = [(node, "body"), *((branch, "body") for branch in branches), (node, "orelse"), (node, "finalbody")]
    return [getattr(owner, name, []) for owner, name in parts]


def _cut(node: Function, lines: list[str]) -> list[str] | None:
    """The function's lines without docstrings, dedented; None where its lines cannot be separated cleanly."""
    spans = []
    for owner in ast.walk(node):
        if not isinstance(owner, Function | ast.ClassDef):
            continue  # all others cannot have a docstring
        first = owner.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            if len(owner.body) == 1 or not _alone(first, owner, lines):
                return None
            spans.append((first.lineno, first.end_lineno or first.lineno))
    dropped = {number for start, end in spans for number in range(start, end + 1)}
    kept = [number for number in range(node.lineno, (node.end_lineno or 0) + 1) if number not in dropped]
    cut = _dedent([lines[number - 1] for number in kept], node.col_offset)
    return None if cut is None else _close_gaps(cut)


def _alone(first: ast.Expr, owner: Function | ast.ClassDef, lines: list[str]) -> bool:
    """Whether a docstring has its lines to itself."""
    after = lines[(first.end_lineno or 0) - 1].encode()[first.end_col_offset or 0 :].strip()
    before = lines[first.lineno - 1][: first.col_offset].strip()
    return not before and (not after or after.startswith(b"#")) and owner.body[1].lineno > (first.end_lineno or 0)


def _dedent(cut: list[str], width: int) -> list[str] | None:
    if not width:
        return [line.rstrip() for line in cut]
    pad = " " * width
    if any(line.strip() and not line.startswith(pad) for line in cut):
        return None  # a string or a comment reaches further left
    return [line[width:].rstrip() for line in cut]


def _close_gaps(cut: list[str]) -> list[str]:
    """At most one empty line in a row, and none after a line that opens a block (where a docstring was)."""
    closed: list[str] = []
    for line in cut:
        if line or (closed and closed[-1] and not closed[-1].endswith(":")):
            closed.append(line)
    return closed


def _refusal(cut: list[str], min_lines: int, max_lines: int) -> str | None:
    """Why a cut function is of no use; None where it is fine."""
    if len(cut) < min_lines:
        return "function too short"
    if len(cut) > max_lines:
        return "function too long"
    if any(len(line) > MAX_LINE for line in cut):
        return "line too long"
    text = "\n".join(cut)
    if _UNSAFE.search(text):
        return "tabs or control characters"
    if sum(map(text.count, "0123456789")) > MAX_DIGIT_FRAC * len(text):
        return "generated"
    bodies = [line.strip() for line in cut if len(line.strip()) > 2]
    return "generated" if len(set(bodies)) < (1 - MAX_REPEATED_FRAC) * len(bodies) else None
