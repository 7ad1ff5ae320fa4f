"""Prompts of bracket_counting that its circuit should fail at: long lists, and a stray bracket in a comment before.

Made from the task's own test pairs: their heads and names, rows drawn anew. The same pairs at every point, so that
points are compared pair by pair.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_lowercase

from pipeline.data.pairs import PairBatch
from pipeline.data.tasks.base import Pair, contrast
from pipeline.data.tasks.encode import EncodedPair, encode_pair
from pipeline.data.tokenizer import Tokenizer
from pipeline.data.words import TASK_WORDS

LENGTHS = (2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 48, 64)  # items of the row; the task's own are 2 to 4
NUMBERS = (2, 40)  # as the task draws them
NO_COMMENT, PLAIN = "none", "plain"
# Comment → the bracket that strays in it. "[[" is not the paper's: where a nested list opens with one token, the
# circuit may look for that token and not for brackets.
MARKS = {PLAIN: "", "[": " [", "[[": " [[", "]": " ]"}
COMMENTS = (NO_COMMENT, *MARKS)


@dataclass(frozen=True)
class Manipulation:
    """A change of the prompts: the bracket in the comment before the list, and how many items the list has."""

    comment: str
    length: int


Manipulated = Mapping[Manipulation, PairBatch]


def manipulated(
    test: PairBatch, tokenizer: Tokenizer, *, n_ctx: int, n_pairs: int, seed: int
) -> dict[Manipulation, PairBatch]:
    """``n_pairs`` pairs at every point, row i of each from the same test pair; all comments have as many tokens.

    Every prompt ends where a token ends, is followed by one of the task's two answer tokens, and fits into ``n_ctx``.
    The longest list is the longest for which enough pairs are left. Empty where there are not enough for any, or the
    vocabulary has no one-token words to fill comments with.
    """
    draw = random.Random(seed)
    answers = tuple(test.answers[0].tolist())
    fillers = [f" {letter}" for letter in ascii_lowercase if len(tokenizer.encode(f" {letter}")) == 1]
    if len(fillers) < 2:
        return {}
    made = []
    for i in range(test.n_pairs):
        flat = tokenizer.decode(test.tokens[2 * i, 1 : int(test.last[2 * i]) + 1].tolist())
        made.append(_of_head(flat, draw, tokenizer, fillers, answers, n_ctx))
    enough = [n for n in LENGTHS if sum(_reaches(points, n) for points in made) >= n_pairs]
    if not enough:
        return {}
    kept = [points for points in made if _reaches(points, enough[-1])][:n_pairs]
    return {point: _batch([points[point] for points in kept]) for point in kept[0] if point.length <= enough[-1]}


def example(points: Manipulated, tokenizer: Tokenizer) -> dict[str, str]:
    """Comment → the first flat prompt with it, of the shortest list."""
    shortest = min(point.length for point in points)
    batches = {point.comment: batch for point, batch in points.items() if point.length == shortest}
    return {name: tokenizer.decode(b.tokens[0, 1 : int(b.last[0]) + 1].tolist()) for name, b in batches.items()}


Made = dict[Manipulation, EncodedPair]


def _of_head(
    flat: str, draw: random.Random, tokenizer: Tokenizer, fillers: list[str], answers: tuple[int, ...], n_ctx: int
) -> Made:
    """Every point of one test pair that can be expressed in this vocabulary and fits."""
    row = [str(draw.randint(*NUMBERS)) for _ in range(LENGTHS[-1])]
    comments = _comments(draw, tokenizer, fillers)
    made: Made = {}
    for point in (Manipulation(comment, n) for n in LENGTHS for comment in comments):
        pair = encode_pair(0, with_comment(flat, comments[point.comment], row[: point.length]), tokenizer)
        if isinstance(pair, EncodedPair) and pair.answers == answers and max(map(len, pair.tokens)) <= n_ctx:
            made[point] = pair
    return made


def with_comment(flat: str, comment: str, row: list[str]) -> Pair:
    """A test pair, given by its flat prompt, with another row and a comment (or nothing) on the line before it."""
    before, _, line = flat[: flat.rindex("[")].rpartition("\n")
    head, items = f"{before}\n{comment}{line}", ", ".join(row)
    after = f"    return {line.split()[0]}\n"
    return contrast(head, (f"[{items}", "]\n", after), (f"[[{items}", "]]\n", after))


def _comments(draw: random.Random, tokenizer: Tokenizer, fillers: list[str]) -> dict[str, str]:
    """Comment → its line: fillers in front of the mark make up for its tokens, the words that end it are the same."""
    words, letters = draw.choice(TASK_WORDS["test"].strings), draw.sample(fillers, len(fillers))
    sizes = {name: len(tokenizer.encode(f"#{mark} {words}")) for name, mark in MARKS.items()}
    missing = {name: max(sizes.values()) - size for name, size in sizes.items()}
    lines = {name: f"    #{''.join(letters[: missing[name]])}{mark} {words}\n" for name, mark in MARKS.items()}
    return {NO_COMMENT: ""} | lines


def _reaches(points: Made, length: int) -> bool:
    """Whether all points up to a length of list are there, and all comments have as many tokens."""
    lengths = [n for n in LENGTHS if n <= length]
    if any(Manipulation(comment, n) not in points for n in lengths for comment in COMMENTS):
        return False
    return all(len({len(points[Manipulation(mark, n)].tokens[0]) for mark in MARKS}) == 1 for n in lengths)


def _batch(pairs: list[EncodedPair]) -> PairBatch:
    """Pairs as tensors, as a task's own."""
    prompts = [tokens for pair in pairs for tokens in pair.tokens]
    return PairBatch.of(prompts, [order for pair in pairs for order in (pair.answers, pair.answers[::-1])])
