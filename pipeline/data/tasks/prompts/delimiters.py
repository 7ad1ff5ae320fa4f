"""Tasks decided by what was opened earlier on the line: a quote, a bracket, a brace, an f-string."""

from __future__ import annotations

from pipeline.data.tasks.base import Draw, Pair, contrast, filler, header
from pipeline.data.tasks.registry import task


def _call(draw: Draw, argument: str) -> str:
    """The start of a statement up to the bracket of a call that takes one string."""
    start = draw.pick(("print", "raise ValueError", f"{argument}.append", f"{draw.name()} = {argument}"))
    return f"    {start}("


@task(decides="which quote opened the string: `(\"` or `('`", answers=('")', "')"))
def single_double_quote(draw: Draw) -> Pair:
    """Close a string with the quote that opened it."""
    argument, result = draw.names(2)
    head = header(draw, argument, result) + filler(draw, argument) + _call(draw, argument)
    string, after = draw.string(), f"\n    return {result}\n"
    return contrast(head, (f'"{string}', '")', after), (f"'{string}", "')", after))


@task(decides="a flat `[1, 2` or a nested `[[1, 2` list", answers=("]\n", "]]\n"))
def bracket_counting(draw: Draw) -> Pair:
    """Close a list at the end of its last row with as many brackets as are open."""
    argument, rows = draw.names(2)
    head = header(draw, argument) + filler(draw, argument) + f"    {rows} = "
    row = ", ".join(str(draw.number()) for _ in range(draw.rng.randint(2, 4)))
    after = f"    return {rows}\n"
    return contrast(head, (f"[{row}", "]\n", after), (f"[[{row}", "]]\n", after))


@task(
    decides="inside a dict or inside a list",
    answers=(":", ","),
    variant="the prompt ends before the quote that closes the first string: the quote and the mark are one token",
)
def bracket_brace(draw: Draw) -> Pair:
    """Go on after the first string: as a dict's key or as a list's item."""
    argument, table = draw.names(2)
    first, second = draw.string(), draw.string()
    return contrast(
        header(draw, argument) + filler(draw, argument) + f"    {table} = ",
        (f'{{"{first}', '":', f' {draw.number()}, "{second}": {draw.number()}}}\n    return {table}\n'),
        (f'["{first}', '",', f' "{second}"]\n    return {table}\n'),
    )


@task(
    decides='`print(f"…` or `print("…`',
    answers=("{", "another token"),
    variant="the brace with the space before it, against the end of the string",
)
def fstring_brace(draw: Draw) -> Pair:
    """Put a value after the words of an f-string, or end a plain string."""
    argument, result = draw.names(2)
    head = header(draw, argument, result) + filler(draw, argument) + _call(draw, argument)
    string, after = draw.string(), f"    return {result}\n"
    return contrast(head, (f'f"{string}', " {", f'{argument}}}")\n' + after), (f'"{string}', '")\n', after))
