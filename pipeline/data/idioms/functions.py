"""Generated documents: a header with its parameters, and 2 to 6 templates with their parts shuffled together."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from pipeline.data.idioms.blocks import BLOCKS, answer
from pipeline.data.idioms.lines import LINES
from pipeline.data.idioms.scope import CodeLines, Scope, indent
from pipeline.data.idioms.stories import STORIES
from pipeline.data.words import IDIOM_WORDS


def write_document(rng: Random) -> str:
    """One function, method, class or run of top-level statements, ending with a line end."""
    scope = Scope(rng)
    draw = rng.random()
    if draw < 0.67:
        lines = function(scope, method=draw >= 0.55)
    elif draw < 0.83:
        lines = class_with_init(scope)
    else:
        lines = statements(scope, rng.choice((2, 2, 3, 4)))
    return "\n".join(lines) + "\n"


def statements(scope: Scope, n: int) -> CodeLines:
    """The parts of ``n`` templates, each template's own in order, the templates shuffled into each other."""
    lines: CodeLines = []
    active = [draw_template(scope) for _ in range(n)]
    while active:
        at = scope.rng.randrange(len(active))
        part = next(active[at], None)
        if part is None:
            del active[at]
            continue
        if scope.chance(0.05):
            lines.append(f"# {scope.text()}")
        if lines and scope.chance(0.06):
            lines.append("")
        lines += part
    return lines


def draw_template(scope: Scope) -> Iterator[CodeLines]:
    """The parts of one template; each is written only when its turn comes, with the names known by then."""
    draw = scope.rng.random()
    if draw < 0.32:
        yield from STORIES.write(scope)
    elif draw < 0.68:
        yield BLOCKS.write(scope)
    else:
        yield [LINES.write(scope)]


def function(scope: Scope, method: bool) -> CodeLines:
    scope.method = method
    name = scope.rng.choice(IDIOM_WORDS.functions if scope.chance(0.5 if method else 0.6) else IDIOM_WORDS.names)
    given = ["self"] * method + parameters(scope)
    scope.returns = True
    lines = statements(scope, scope.rng.choice((2, 2, 3, 3, 4)))
    if scope.chance(0.7):
        lines.append(f"return {scope.result if scope.result and scope.chance(0.75) else answer(scope)}")
    scope.returns = False
    return [f"def {name}({', '.join(given)}):", *indent(lines)]


def parameters(scope: Scope) -> list[str]:
    """Parameters without defaults, all with defaults, or with defaults from some place on."""
    n = scope.rng.choice((0, 1, 1, 2, 2, 3, 3, 4, 4))
    draw = scope.rng.random()
    first = n if draw < 0.5 else 0 if draw < 0.7 else scope.rng.randint(1, max(n - 1, 1))
    other = scope.pick("None", "None", "None", "True", "False", "0", "1", '""')
    names = [scope.fresh(letters=0.1) for _ in range(n)]
    return with_defaults(scope, names, first, other)


def with_defaults(scope: Scope, names: list[str], first: int, other: str) -> list[str]:
    """Parameters that have defaults from number ``first`` on: None, seldom ``other``."""
    return names[:first] + [f"{name}={'None' if scope.chance(0.85) else other}" for name in names[first:]]


def class_with_init(scope: Scope) -> CodeLines:
    """A class that keeps what it is given, each attribute named as its parameter."""
    base = scope.pick("", "", f"({scope.rng.choice(IDIOM_WORDS.classes)})")
    n, ordinary = scope.rng.choice((2, 3, 3, 4, 4, 5, 6, 7, 8)), scope.chance(0.65)
    names = list(dict.fromkeys(scope.ordinary() if ordinary else scope.word() for _ in range(n)))
    first = len(names) if scope.chance(0.75) else scope.rng.randint(0, len(names) - 1)
    given = with_defaults(scope, names, first, "0")
    lines = [f"def __init__(self, {', '.join(given)}):", *indent(init_lines(scope, names, base))]
    if scope.chance(0.25):
        scope.method = True
        lines += ["", *short_method(scope, names)]
    if scope.chance(0.25):
        return lines
    return [f"class {scope.rng.choice(IDIOM_WORDS.classes)}{base}:", *indent(lines)]


def init_lines(scope: Scope, names: list[str], base: str) -> CodeLines:
    """``self.a = a`` for every parameter, mostly in their order."""
    order = list(names)
    if scope.chance(0.3):
        scope.rng.shuffle(order)
    lines = ["super().__init__()"] if base and scope.chance(0.6) else []
    lines += [f"self.{name} = {name}" for name in order]
    if scope.chance(0.2):
        lines.append(f"self.{scope.fresh(letters=0)} = {scope.pick('[]', '{}', 'None', '0', 'set()')}")
    return lines


def short_method(scope: Scope, names: list[str]) -> CodeLines:
    name, attribute = scope.rng.choice(IDIOM_WORDS.functions), scope.rng.choice(names)
    inside = scope.pick(
        f"return self.{attribute}",
        f"return {scope.pick('True', 'False')}",
        f"self.{attribute} = {scope.value()}",
        f"print({scope.string()})",
    )
    return [f"def {name}(self):", *indent([inside])]
