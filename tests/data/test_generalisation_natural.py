"""Natural contexts mined from small functions, worked out by hand: one task for each kind of rule."""

from __future__ import annotations

import pytest

from pipeline.data.generalisation.held_out import TokenisedFunction
from pipeline.data.generalisation.natural import Context, Mine, choose
from pipeline.data.tokenizer import PATTERN, Tokenizer

ANSWERS = {
    "single_double_quote": ('")\n', "')\n"),
    "bracket_counting": ("]\n", "]]\n"),
    "for_while": (" in", ":\n"),
    "indent_for": ("       ", "           "),
    "set_or_string": (".add", " +="),
}
NAMES = (" one", " two", " size")
QUOTES = """def f(a):
    x = '''say("one")
    say('two')
    '''
    a.say("it's")
    # a.say('three')
    a.say('"four"', "five")
    return g('six\\')')
    b.say('seven')
"""
BRACKETS = """def f(a, b):
    x = "[[" + a[i]
    y = [[1, 2], [b]]
    # z = [[b]]
    z = [
        [']', b]]
    a = [[[b]]]
    return a[
        i]
"""
LOOPS = """def f(a):
    s = '''
    for x in a:
    while x:
    '''
    y = [x for x in (
        a)]
    while y:
        pass
    for z in y:
        while z.a:
            z = (lambda
                 x: x)
    for u in u:
        for v in u:
            pass
"""
MADE = """def f(a):
    one, two = set(), {}
    size = set()
    # size = ''
    name = "size = ''"
    for x in a:
        size.add(x)
        name += x
        one.add(x)
"""
INIT = """def __init__(self, one, two=(1, 2), *, size: int = f(3)):
    self.one = one
    self.two = size
    self.three = one
    s = '''
    self.size = size
    '''
    def g(one):
        self.one = one
    self.size = size
"""


def tokenizer() -> Tokenizer:
    """Of bytes, and of every beginning of an answer, so that each answer is one token."""
    words = [word.encode() for pair in ANSWERS.values() for word in pair] + [name.encode() for name in NAMES]
    parts = [bytes([value]) for value in range(256)] + [word[:n] for word in words for n in range(2, len(word) + 1)]
    return Tokenizer({part: rank for rank, part in enumerate(dict.fromkeys(parts))}, PATTERN)


TOKENIZER = tokenizer()


def mined(task: str, *texts: str, n_ctx: int = 1000) -> tuple[list[Context], list[Context]]:
    copying = task not in ANSWERS
    answers = {} if copying else {task: tuple(TOKENIZER.encode(answer)[0] for answer in ANSWERS[task])}
    mine = Mine(answers, (task,) if copying else (), TOKENIZER, n_ctx)  # type: ignore[arg-type]
    return mine.contexts([TokenisedFunction.of(text, TOKENIZER) for text in texts])[task]


@pytest.mark.parametrize(
    ("task", "text", "expected"),
    [
        ("single_double_quote", QUOTES, (["    a.say(\"it's"], ["    return g('six\\')", "    b.say('seven"])),
        (
            "bracket_counting",
            BRACKETS,
            (['    x = "[[" + a[i', "        i"], ["    y = [[1, 2], [b", "        [']', b"]),
        ),
        ("for_while", LOOPS, (["    for z", "    for u", "        for v"], ["    while y"])),
        ("indent_for", LOOPS, (["    for z in y:", "    for u in u:"], ["        for v in u:"])),
        ("set_or_string", MADE, (["        size"], ["        name"])),
        ("class_init", INIT, (["    self.one =", "    self.size ="], [])),
    ],
)
def test_contexts_are_those_found_by_hand(task: str, text: str, expected: tuple[list[str], list[str]]) -> None:
    """What strings and comments hold does not count; the expected are the last lines of the prompts."""
    sides = mined(task, text)
    assert tuple([context.prompt().rstrip("\n").rsplit("\n", 1)[-1] for context in side] for side in sides) == expected
    for side, contexts in enumerate(sides):
        for context in contexts:
            assert text.startswith(context.prompt())
            follows = text[len(context.prompt()) :]
            answers = ANSWERS.get(task, (f" {context.prompt().split('.')[-1].split()[0]}",))
            assert follows.startswith(answers[side])


def test_a_prompt_that_has_not_what_decides_is_none() -> None:
    assert [len(side) for side in mined("set_or_string", MADE, n_ctx=50)] == [0, 1]
    assert [len(side) for side in mined("class_init", INIT, n_ctx=100)] == [1, 0]


def test_a_name_is_told_apart_from_the_first_other_one() -> None:
    one, size = mined("class_init", INIT)[0]
    assert [TOKENIZER.decode([context.right, context.wrong]) for context in (one, size)] == [" one two", " size one"]


@pytest.mark.parametrize("task", ["for_while", "class_init"])
def test_at_most_one_context_a_side_is_chosen_of_a_document(task: str) -> None:
    texts = [
        text.replace("def f", f"def f{i}").replace("self, ", f"self, a{i}, ")
        for i in range(6)
        for text in (LOOPS, INIT)
    ]
    sides, copying = mined(task, *texts), task not in ANSWERS
    pairs = choose(task, sides, 100, seed=0, copying=copying)
    assert len(pairs) == (3 if copying else 6) and max(map(len, sides)) >= 12
    for contexts in zip(*pairs, strict=True):
        assert len({context.document.text for context in contexts}) == len(contexts)
    if copying:
        assert len({context.document.text for pair in pairs for context in pair}) == 6
