"""A circuit told in sentences, by rule, each checked against an intervention (``pipeline.explain.swaps``).

The steps are chosen on one half of the pairs, those on which the statements about nodes are chosen too, and checked on
the other.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from pipeline.explain.rounding import HUNDREDTHS
from pipeline.explain.story_steps import FlowStep, FlowSteps, joined
from pipeline.explain.story_words import StoryWords
from pipeline.explain.swaps import Outcome, Swaps
from pipeline.explain.task_nodes import TaskReading
from pipeline.rows import Story, StoryNumbers, StoryOutcome, StorySentence

MOST_PAIRS = 64  # of each half
MOST_SENTENCES = 7
LEAST_STEP = 0.1  # of the way to the other answer that swapping a step goes, on the half of the choice, to be told
MIN_MOVED = 0.8  # share of prompts that a step moves, below which its sentence says so
NO_NODE = "No node is needed: the bigram table does the task."
NO_STEP = "No step of this circuit moves the answer by itself."
NOT_CHECKED = Outcome(None, None, None, None, 0)


def story(reading: TaskReading) -> Story:
    """The story of one circuit: its gist, its sentences with what swapping each step did, and all steps at once."""
    choice, check = (halves(reading, half) for half in (0, 1))
    if choice is None:
        return untold()
    flow = FlowSteps(reading, choice)
    steps, words = told_steps(flow, choice), StoryWords(reading, flow.falls)
    outcomes = [check(step.nodes) if check else NOT_CHECKED for step in steps]
    sentences = [sentence(step, words, outcome) for step, outcome in zip(steps, outcomes, strict=True)]
    nodes = [name for step in steps for name in step.nodes]
    named = {*nodes, *(name for step in steps for name in step.carriers)}
    every = check(nodes) if check and nodes else NOT_CHECKED
    return {
        "gist": words.gist(steps) if steps else NO_STEP,
        "sentences": sentences,
        "all": whole(every, reading.circuit.n_nodes - len(named), reading.circuit.n_nodes),
    }


def untold() -> Story:
    """The story of a circuit without nodes."""
    return {"gist": NO_NODE, "sentences": [], "all": {"text": "", **numbers(NOT_CHECKED)}}


def halves(reading: TaskReading, half: int) -> Swaps | None:
    """Swaps on the pairs of one half; None where it has none."""
    pairs = torch.arange(reading.values.batch.n_pairs)[half::2][:MOST_PAIRS]
    return Swaps(reading.model, reading.circuit, reading.values.take(pairs)) if len(pairs) else None


def told_steps(flow: Iterable[list[FlowStep]], choice: Swaps) -> list[FlowStep]:
    """The steps that move the answer on the half of the choice, in the order of the flow.

    Steps of one part and half layer of which none does so by itself are tried as one.
    """
    shares: dict[FlowStep, float] = {}
    for steps in flow:
        for some in (steps, [joined(steps)]):
            found = {step: choice(step.nodes).share or 0.0 for step in some}
            strong = {step: share for step, share in found.items() if share >= LEAST_STEP}
            shares |= strong
            if strong:
                break
    most = sorted(shares, key=lambda step: -shares[step])[:MOST_SENTENCES]
    return [step for step in shares if step in most]


def sentence(step: FlowStep, words: StoryWords, outcome: Outcome) -> StorySentence:
    """A step's sentence, which says where swapping moves too few prompts."""
    text, weak = words.sentence(step), (outcome.moved_whole or 0.0) < MIN_MOVED
    if outcome.moved is None:
        text += " There was no pair to check this on."
    elif outcome.moved < MIN_MOVED:
        text += f" Swapping it moves the answer in {percent(outcome.moved)} of prompts only{why_few(outcome)}."
    nodes, carriers = list(step.nodes), list(step.carriers)
    return {"text": text, "nodes": nodes, "carriers": carriers, "weak": weak, **numbers(outcome)}


def why_few(outcome: Outcome) -> str:
    """The reason where a step moves too few prompts because it has no place in the shorter ones."""
    some = outcome.moved_whole or 0.0
    reason = "the shorter prompt of a pair has no place for all of it; of the others"
    return f": {reason}, {percent(some)} move" if some >= MIN_MOVED else ""


def whole(outcome: Outcome, n_left: int, n_nodes: int) -> StoryOutcome:
    """What swapping all steps at once did, and how many nodes no sentence names."""
    verb = "is" if n_left == 1 else "are"
    why = "much the same for both prompts of a pair, or hardly moving the answer"
    text = f"{n_left} of {n_nodes} nodes {verb} not mentioned: {why}." if n_left else ""
    if outcome.flips is not None:
        others = f"{outcome.n_prompts} prompts that the sentences were not made from"
        text = f"All steps swapped at once flip {percent(outcome.flips)} of the right answers on {others}. {text}"
    return {"text": text.strip(), **numbers(outcome)}


def numbers(outcome: Outcome) -> StoryNumbers:
    """An outcome as it is kept."""
    moved, flips, share = (
        None if value is None else round(value, HUNDREDTHS) for value in (outcome.moved, outcome.flips, outcome.share)
    )
    return {"moved": moved, "flips": flips, "share": share, "n_prompts": outcome.n_prompts}


def percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"  # no line ends before the sign
