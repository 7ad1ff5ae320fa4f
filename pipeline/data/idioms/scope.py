"""The state of a generated function while it is written: its names and their kinds, its quote style, its place.

A template asks the scope for a name that already exists or for a fresh one, so that what is used later depends on what
was written earlier: a set is grown with ``.add``, a string with ``+=``, whatever their names are.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from random import Random

from pipeline.data.words import ATTRIBUTES, IDIOM_WORDS, VERBS

LETTERS = tuple("abcdefghijkmnpqrstuvwxyz")
SINGLE_NAMES = tuple(name for name in IDIOM_WORDS.names if "_" not in name)
FIRST_NAMES = tuple(name for name in SINGLE_NAMES if name not in VERBS)  # of joined ones: plan_candy is a function
COMPOUND_NAMES = tuple(name for name in IDIOM_WORDS.names if "_" in name)
ORDINARY_WEIGHTS = tuple(accumulate(1 / (1 + rank / 12) for rank in range(len(ATTRIBUTES))))
RESERVED = frozenset(
    {"set", "open", "print", "self", "list", "dict", "str", "len", "range", "type", "filter", "format"}
)

CodeLines = list[str]  # of source code, indented relative to where they will stand, without line ends


def indent(lines: Sequence[str]) -> CodeLines:
    """The lines one level (four spaces) deeper; empty lines stay empty."""
    return ["    " + line if line else line for line in lines]


class Scope:
    """The names, the quote style and the surroundings of the code being written."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.quote = rng.choice("\"'")
        self.kinds: dict[str, str] = {}  # name → any, set, str, list, num, dict, flag or func, in order of appearance
        self.returns = False  # inside a function
        self.method = False  # self exists
        self.loops = 0  # loops around the current line
        self.depth = 0  # blocks around the current line, within the function
        self.result: str | None = None  # what the function will return, if a template wants that

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def pick(self, *options: str) -> str:
        return self.rng.choice(options)

    # names

    def word(self) -> str:
        """A name for a variable: an ordinary one, any word, or two joined by an underscore."""
        draw = self.rng.random()
        if draw < 0.35:
            return self.ordinary()
        if draw < 0.65:
            return self.rng.choice(SINGLE_NAMES)
        if draw < 0.92:
            return self.rng.choice(COMPOUND_NAMES)
        return f"{self.rng.choice(FIRST_NAMES)}_{self.rng.choice(SINGLE_NAMES)}"

    def ordinary(self) -> str:
        """A name that much of Python uses, the most frequent ones more often."""
        return self.rng.choices(ATTRIBUTES, cum_weights=ORDINARY_WEIGHTS)[0]

    def fresh(self, kind: str = "any", letters: float = 0.08) -> str:
        """A name not used so far, from now on known as being of a kind; ``letters`` is how often it is one letter."""
        name = ""
        while not name or name in self.kinds or name in RESERVED:
            name = self.rng.choice(LETTERS) if self.chance(letters) else self.word()
        self.kinds[name] = kind
        return name

    def known(self, *kinds: str) -> str | None:
        """A name in use, of one of the kinds if any are given; None where there is none."""
        names = [name for name, kind in self.kinds.items() if not kinds or kind in kinds]
        return self.rng.choice(names) if names else None

    def some(self) -> str:
        """A plain variable to read: mostly one in use."""
        name = self.known("any", "num", "str", "flag") if self.chance(0.8) else None
        return name or self.word()

    def many(self) -> str:
        """Something to iterate over or look into."""
        name = self.known("list", "any") if self.chance(0.6) else None
        if name and self.chance(0.8):
            return name
        return self.rng.choice(SINGLE_NAMES) + "s" if self.chance(0.6) else self.place()

    def place(self) -> str:
        """A variable or an attribute of one."""
        owner = "self" if self.method and self.chance(0.6) else self.some()
        return f"{owner}.{self.word()}" if self.chance(0.4) else self.some()

    def function(self) -> str:
        """A function to call: one that was defined above, a word, or a method of a variable."""
        own = self.known("func")
        if own and self.chance(0.5):
            return own
        name = self.rng.choice(IDIOM_WORDS.functions if self.chance(0.6) else SINGLE_NAMES)
        if self.chance(0.3):
            return f"{'self' if self.method else self.some()}.{name}"
        return name

    # literals

    def mark(self) -> str:
        """The quote of one statement: mostly the function's own."""
        return self.quote if self.chance(0.75) else self.rng.choice("\"'")

    def text(self) -> str:
        """One to three plain words, seldom more."""
        text = self.rng.choice(IDIOM_WORDS.strings)
        return f"{text} {self.rng.choice(IDIOM_WORDS.strings)}" if self.chance(0.1) else text

    def string(self, mark: str | None = None) -> str:
        mark = mark or self.mark()
        return f"{mark}{self.text()}{mark}"

    def number(self) -> str:
        below = self.rng.randrange
        return str(self.rng.choice((below(10), below(10), below(100), 100, 1000)))

    def value(self) -> str:
        """The right-hand side of something: a name, a number, a string, an attribute, a call or a constant."""
        draw = self.rng.random()
        if draw < 0.35:
            return self.some()
        if draw < 0.58:
            return self.number()
        if draw < 0.74:
            return self.string()
        if draw < 0.82:
            return self.place()
        if draw < 0.92:
            return f"{self.function()}({self.some()})"
        return self.pick("None", "True", "False")

    def condition(self) -> str:
        """A condition for ``if`` or ``while``: a bare name in half of the cases."""
        draw = self.rng.random()
        if draw < 0.5:
            return self.some()
        if draw < 0.6:
            return self.place()
        if draw < 0.7:
            return f"{self.some()} {self.pick('<', '>', '<=', '>=')} {self.pick(self.number(), self.some())}"
        if draw < 0.82:
            return f"not {self.some()}"
        if draw < 0.9:
            return f"{self.some()} == {self.value()}"
        return f"{self.function()}({self.some()})"
