"""What the channels that lead into the answer push, in words: which answer, and how far after each side's tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import chain

from pipeline.explain.roles import NEARLY_ZERO, Roles
from pipeline.explain.task_words import OTHERWISE, TaskWords, numbers
from pipeline.explain.words import channels, together, verb
from pipeline.sites import split_node_name

LEAST_PUSH = 0.1  # of the largest push: smaller ones are only counted


@dataclass(frozen=True)
class Push:
    """Writes that push one side's answer, most on the same side; ``logits``: how far they do together on side a and on
    side b, to first order."""

    names: tuple[str, ...]
    answer: int
    side: int
    logits: tuple[float, float]

    @property
    def most(self) -> float:
        return self.logits[self.side]


def pushes(names: Sequence[str], roles: Roles) -> list[Push]:
    """The writes of a step by the answer that they push and the side on which they do so most, the largest first; in
    calibrated logits."""
    groups: dict[tuple[int, int], list[str]] = {}
    scale = roles.circuit.calibration[0]
    right = {name: [scale * push for push in roles.pushes(name)] for name in names}  # each side's right answer
    for name, own in right.items():
        side = int(abs(own[1]) > abs(own[0]))
        groups.setdefault((side if own[side] > 0 else 1 - side, side), []).append(name)
    found = []
    for (answer, side), some in groups.items():
        sums = [sum(right[name][n] for name in some) for n in (0, 1)]
        found.append(Push(tuple(some), answer, side, (sums[0], -sums[1]) if answer == 0 else (-sums[0], sums[1])))
    return sorted(found, key=lambda push: -push.most)


def told(found: Sequence[Push]) -> list[Push]:
    """Those that are not small beside the largest."""
    return [push for push in found if push.most >= LEAST_PUSH * found[0].most]


def default(found: Sequence[Push]) -> int | None:
    """The side whose answer nothing pushes there, so that it wins by default; None where both are pushed."""
    left = 1 - found[0].answer
    pushed = sum(push.logits[left] if push.answer == left else -push.logits[left] for push in found)
    named = any(push.answer == left for push in told(found))
    return None if named or pushed >= NEARLY_ZERO * found[0].most else left


def in_words(found: Sequence[Push], words: TaskWords, margins: Sequence[float] | None) -> str:
    """``Channels 631 and 617 push `]]⏎` by 5.2 logits after `␣[[` and 0 after `␣[` – nothing pushes `]⏎` …``;
    ``margins``: how far each side's right answer leads in all, in logits."""
    several = _several(found)
    said, small = " – ".join(_of(push, words, several) for push in told(found)), len(found) - len(told(found))
    if small:
        said += f" ({sum(len(push.names) for push in found[-small:])} more: little)"
    left = default(found)
    if left is not None:
        said += f" – nothing pushes {words.quoted(words.answers[left])} and it wins by default"
    return said if margins is None else f"{said} – in all, {_leads(margins, words)}"


def _several(found: Sequence[Push]) -> set[int]:
    """The channels that several nodes write which do not push the same."""
    by_push = [{split_node_name(name)[1] for name in push.names} for push in found]
    return {channel for channel, n in Counter(chain.from_iterable(by_push)).items() if n > 1}


def _leads(margins: Sequence[float], words: TaskWords) -> str:
    """```:⏎` leads by 4.1 logits after `␣while` and `␣in` by 2.3 after `␣for```."""
    far = numbers((margins[0], margins[1]))
    order = sorted((0, 1), key=lambda side: words.conditions[side] == OTHERWISE)
    said = [f"{words.quoted(words.answers[n])} {'leads by' if not i else 'by'} {far[n]}" for i, n in enumerate(order)]
    return f"{said[0]} logits {words.conditions[order[0]]} and {said[1]} {words.conditions[order[1]]}"


def _of(push: Push, words: TaskWords, several: Set[int]) -> str:
    """``channel 475 pushes `")⏎` by 2.3 logits after `("` and 0 after `('```; of a push that turns on the other side,
    the other answer there; the side that is pushed more first, ``otherwise`` last."""
    order = sorted((0, 1), key=lambda side: (words.conditions[side] == OTHERWISE, side != push.side))
    turns = push.logits[1 - push.side] <= -NEARLY_ZERO * push.most
    far = numbers((abs(push.logits[0]), abs(push.logits[1]))) if turns else numbers(push.logits)
    said = [f"{far[side]}{' logits' * (side == order[0])} {words.conditions[side]}" for side in order]
    if turns:
        answers = [push.answer if side == push.side else 1 - push.answer for side in order]
        said = [f"{words.quoted(words.answers[n])} by {each}" for n, each in zip(answers, said, strict=True)]
    else:
        said[0] = f"{words.quoted(words.answers[push.answer])} by {said[0]}"
    own = any(split_node_name(name)[1] in several for name in push.names)  # a channel alone would not tell who
    who = together(push.names) if own else channels(push.names)
    return f"{who} {verb(push.names, 'push', 'pushes')} {' and '.join(said)}"
