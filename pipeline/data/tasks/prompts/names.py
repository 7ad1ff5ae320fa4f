"""Tasks decided by names: what a variable was made of, which name has not been used, what a name says."""

from __future__ import annotations

from pipeline.data.tasks.base import Draw, Pair, contrast, filler, header
from pipeline.data.tasks.registry import task

# The answers of class_init: names so frequent in Python that they are one token in any vocabulary trained on it.
COPIED = ("name", "value", "data", "path", "key", "start", "end", "text", "line", "type", "result", "file")


def _set_or_string(draw: Draw, name: str) -> Pair:
    argument, item = draw.names(2)
    before = header(draw, argument) + f"    {name} = "
    loop = f"\n    for {item} in {argument}:\n        {name}"
    end = f"\n    return {name}\n"
    return contrast(before, ("set()" + loop, ".add", f"({item})" + end), ('""' + loop, " +=", f" {item}" + end))


@task(decides='the variable begins as `set()` or as `""`; its name varies over pairs', answers=(".add", " +="))
def set_or_string(draw: Draw) -> Pair:
    """Add to a variable as a set or as a string."""
    return _set_or_string(draw, draw.name())


@task(decides='the variable `current` begins as `set()` or as `""`', answers=(".add", " +="))
def set_or_string_fixedvarname(draw: Draw) -> Pair:
    """Add to a variable, always named `current`, as a set or as a string."""
    return _set_or_string(draw, "current")


@task(decides="earlier parameters have defaults, or not", answers=("=None", "):\n"))
def final_kwarg(draw: Draw) -> Pair:
    """Give the last parameter a default if the ones before it have one, else end the line."""
    argument, *earlier, final = draw.names(4)
    head, end = f"def {draw.function()}({argument}, ", f"    return {argument}\n"
    return contrast(
        head,
        ("".join(f"{name}=None, " for name in earlier) + final, "=None", "):\n" + end),
        ("".join(f"{name}, " for name in earlier) + final, "):\n", end),
    )


@task(decides="the attribute before the last ` =`", answers=("that name", "another parameter"), varied=True)
def class_init(draw: Draw) -> Pair:
    """Assign the parameter that has the attribute's name."""
    earlier = draw.names(2)
    one, two = draw.rng.sample(COPIED, 2)
    parameters = draw.rng.sample([*earlier, one, two], 4)
    head = f"class {draw.class_name()}:\n    def __init__(self, {', '.join(parameters)}):\n"
    head += "".join(f"        self.{name} = {name}\n" for name in earlier) + "        "
    return contrast(
        head,
        (f"self.{one} =", f" {one}", f"\n        self.{two} = {two}\n"),
        (f"self.{two} =", f" {two}", f"\n        self.{one} = {one}\n"),
    )


@task(
    decides="the file's name says input or output",
    answers=("'r'", "'w'"),
    variant="the letter alone, after the quote that opens the mode: BPE makes the quote a token of its own",
)
def with_open(draw: Draw) -> Pair:
    """Open an input file for reading, an output file for writing."""
    argument, word = draw.names(2)
    after = '") as f:\n        '
    return contrast(
        header(draw, argument) + filler(draw, argument) + f'    with open("{word}_',
        ('input.txt", "', "r", after + f"{argument} = f.read()\n"),
        ('output.txt", "', "w", after + f"f.write({argument})\n"),
    )


@task(decides="`x, y = y, ` or `y, x = x, `", answers=("x", "y"), variant="the letters with the space before them")
def var_swap(draw: Draw) -> Pair:
    """Complete a swap of two variables with the one that is missing."""
    argument = draw.name()
    head = header(draw, argument, "x", "y") + filler(draw, argument) + f"    if {draw.name()}:\n        "
    after = "\n    return x, y\n"
    return contrast(head, ("x, y = y,", " x", after), ("y, x = x,", " y", after))


@task(decides="`if x` or `x` at a line's start", answers=(" ==", " ="))
def if_equals(draw: Draw) -> Pair:
    """Compare in a condition, assign in a statement."""
    argument, other, name = draw.names(3)
    head = header(draw, argument, other) + filler(draw, argument)
    value = f" {draw.number()}"
    return contrast(
        head,
        (f"    if {name}", " ==", f"{value}:\n        return {other}\n"),
        (f"    {name}", " =", f"{value}\n    return {other}\n"),
    )


@task(decides="`for i, x in` or `for i in`", answers=(" enumerate", " range"))
def enumerate_range(draw: Draw) -> Pair:
    """Number the items where two names are bound, count where one is."""
    argument, item, other = draw.names(3)
    return contrast(
        header(draw, argument, other) + filler(draw, other),
        (f"    for i, {item} in", " enumerate", f"({argument}):\n        print(i, {item})\n"),
        ("    for i in", " range", f"(len({argument})):\n        print(i)\n"),
    )


@task(decides="`if x == True` or `x = True`", answers=(":\n", "\n"))
def var_if(draw: Draw) -> Pair:
    """Open the body of a condition, or end the line of an assignment."""
    argument, other, name = draw.names(3)
    return contrast(
        header(draw, argument, other) + filler(draw, argument),
        (f"    if {name} == True", ":\n", f"        return {other}\n"),
        (f"    {name} = True", "\n", f"    return {other}\n"),
    )
