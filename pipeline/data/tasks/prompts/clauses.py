"""Tasks decided by the keyword of a clause: for, while, if, elif, else, with, def, lambda, return."""

from __future__ import annotations

from pipeline.data.tasks.base import Draw, Pair, contrast, filler, header
from pipeline.data.tasks.registry import task


@task(
    decides="`with open(p)` or `f = open(p)`",
    answers=(" as", "\n"),
    variant="the prompt ends before the closing bracket, because a bracket and the newline after it are one token",
)
def with_as(draw: Draw) -> Pair:
    """Bind an opened file with `as`, or end the assignment's line."""
    argument, result = draw.names(2)
    opened = f"open({argument}"
    return contrast(
        header(draw, argument, result) + filler(draw, result),
        (f"    with {opened}", ")", f" as f:\n        {result} = f.read()\n    return {result}\n"),
        (f"    f = {opened}", ")\n", f"    {result} = f.read()\n    return {result}\n"),
    )


@task(decides="`for x` or `while x`", answers=(" in", ":"))
def for_while(draw: Draw) -> Pair:
    """Go on after the name: what a `for` runs over, or the body of a `while`."""
    argument, name = draw.names(2)
    return contrast(
        header(draw, argument) + filler(draw, argument),
        (f"    for {name}", " in", f" {argument}:\n        print({name})\n"),
        (f"    while {name}", ":", f"\n        {name} = {draw.function()}({argument})\n"),
    )


@task(
    decides="`else` or `elif`",
    answers=(":", "a space-led token"),
    variant="the space-led token is ` not`",
)
def else_elif(draw: Draw) -> Pair:
    """End `else`, or give `elif` its condition."""
    argument, other, name = draw.names(3)
    head = header(draw, argument, other) + filler(draw, argument)
    head += f"    if {argument}:\n        {name} = {draw.function()}({argument})\n"
    return contrast(
        head,
        ("    else", ":", f"\n        {name} = {other}\n    return {name}\n"),
        ("    elif", " not", f" {other}:\n        {name} = {other}\n    return {name}\n"),
    )


@task(decides="`if c` as a statement or inside `y = a if c`", answers=(":", " else"))
def if_ternary(draw: Draw) -> Pair:
    """Go on after the condition: the body of a statement, or the other value of an expression."""
    argument, other, name = draw.names(3)
    return contrast(
        header(draw, argument, other) + filler(draw, argument) + f"    {name} = {argument}",
        (f"\n    if {other}", ":", f"\n        {name} = {draw.number()}\n    return {name}\n"),
        (f" if {other}", " else", f" {draw.number()}\n    return {name}\n"),
    )


@task(
    decides="the depth of the `for` line",
    answers=("the two indentations",) * 2,
    variant="the tokens of 7 and of 11 spaces: the last space of an indentation belongs to the word after it",
)
def indent_for(draw: Draw) -> Pair:
    """Indent the body one level deeper than its `for`."""
    argument, other, name, item = draw.names(4)
    head = header(draw, argument, other) + f"    if {other}:\n        {name} = {draw.function()}({argument})\n"
    loop, body = f"for {item} in {argument}:\n", f" print({item})\n"
    return contrast(head, ("    " + loop, " " * 7, body), (" " * 8 + loop, " " * 11, body))


@task(
    decides="`f = lambda x` or `def f`",
    answers=(":", "("),
    variant="a class body and `(self`, because a bracket and the word after it are one token",
)
def lambda_func(draw: Draw) -> Pair:
    """Go on after the name: a lambda's value, or a method's parameters."""
    first, inner, name = draw.names(3)
    return contrast(
        f"class {draw.class_name()}:\n    {first} = {draw.number()}\n\n",
        (f"    {inner} = lambda {name}", ":", f" {name} + {draw.number()}\n"),
        (f"    def {name}", "(self", f", {inner}):\n        return {inner}\n"),
    )


@task(decides="`while True` or `return True`", answers=(":", "\n"))
def while_return_true(draw: Draw) -> Pair:
    """Open the body of an endless loop, or end the line of a return."""
    argument, other = draw.names(2)
    return contrast(
        header(draw, argument, other) + filler(draw, argument) + f"    if {other}:\n",
        ("        while True", ":", f"\n            print({other})\n"),
        ("        return True", "\n", "    return False\n"),
    )
