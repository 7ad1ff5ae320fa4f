"""A circuit's flow in one line, for a gallery: ``Reads `␣[[` → head 0.8 brings it to the end → writes `]]⏎` …``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.explain.story_steps import FlowPart, FlowStep
from pipeline.explain.story_words import StoryWords, read
from pipeline.explain.story_writes import default, pushes
from pipeline.explain.task_values import Head
from pipeline.explain.task_words import OTHERWISE
from pipeline.explain.words import MOST_NAMED, ended, heads_in_words

GIST = 140  # characters
MIDDLE = (FlowPart.MOVE, FlowPart.COMBINE)
LEFT_OUT = ((), (FlowPart.COMBINE,), MIDDLE, (FlowPart.READ, *MIDDLE))


def gist(steps: Sequence[FlowStep], words: StoryWords) -> str:
    """The flow in at most ``GIST`` characters; parts are left out where it would be longer."""
    parts = {part: [step for step in steps if step.part is part] for part in FlowPart}
    texts = {part: _of(part, parts, words) for part in FlowPart if parts[part]}
    for left_out in LEFT_OUT:
        said = " → ".join(text for part, text in texts.items() if part not in left_out)
        if len(said) < GIST:
            break
    return ended(f"{said[:1].upper()}{said[1 : GIST - 1]}")


def _of(part: FlowPart, parts: Mapping[FlowPart, Sequence[FlowStep]], words: StoryWords) -> str:
    steps = parts[part]
    nodes = [name for step in steps for name in step.nodes]
    if part is FlowPart.READ:
        return f"reads {read(words.first_place(steps[0].nodes))}"
    if part is FlowPart.MOVE:
        it = read(words.first_place(reads[0].nodes)) if (reads := parts[FlowPart.READ]) else ""
        return _moves([head for step in steps for head in words.heads(step)], it, words)
    if part is FlowPart.COMBINE:
        return f"{len(nodes)} neurons respond" if len(nodes) > 1 else "one neuron responds"
    return _writes(steps[-1], words)


def _moves(heads: Sequence[Head], it: str, words: StoryWords) -> str:
    """``heads 0.7 and 0.45 bring it to the end and head 0.47 `␣def```: by what each brings; ``it``: what is read."""
    if len(heads) > MOST_NAMED:
        return f"{len(heads)} heads bring it to the end"
    brought: dict[str, list[Head]] = {}
    for head in heads:
        what = words.brought(head)
        brought.setdefault("it" if what is None or it in what else what, []).append(head)
    said = [(heads_in_words(some), what, len(some) == 1) for what, some in brought.items()]
    who, what, one = said[0]
    rest = "".join(f" and {who} {what}" for who, what, _ in said[1:])
    return f"{who} bring{'s' * one} {what} to the end{rest}"


def _writes(step: FlowStep, words: StoryWords) -> str:
    if words.n_answers != 2:
        return "writes the answer"
    left = default(pushes(step.nodes, words.roles))
    if left is None or not words.words.after:
        return f"writes {words.answers()}"
    written, other = (words.words.quoted(words.words.answers[side]) for side in (1 - left, left))
    when = words.words.conditions[1 - left]
    return (
        f"writes {other} {words.words.conditions[left]} and {written} otherwise"
        if when == OTHERWISE
        else (f"writes {written} {when} and {other} otherwise")
    )
