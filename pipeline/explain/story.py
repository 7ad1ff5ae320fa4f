"""A circuit told in sentences, by rule, each checked against an intervention (``pipeline.explain.swaps``).

The steps are chosen on one half of the pairs, those on which the statements about nodes are chosen too, and checked on
the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

import torch

from pipeline.explain.roles import Roles
from pipeline.explain.rounding import HUNDREDTHS
from pipeline.explain.story_gist import gist
from pipeline.explain.story_steps import FlowStep, FlowSteps, joined, site_of
from pipeline.explain.story_words import StoryWords
from pipeline.explain.swaps import Outcome, Swaps
from pipeline.explain.task_nodes import TaskReading
from pipeline.explain.task_places import TaskPlaces
from pipeline.explain.words import heads_in_words, numbered, percent, together
from pipeline.rows import Story, StoryNumbers, StoryOutcome, StorySentence
from pipeline.sites import Site, split_node_name

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
    steps = told_steps(flow, choice)
    words = StoryWords(reading, flow.falls, steps, side_margins(choice))
    outcomes = [check(step.nodes) if check else NOT_CHECKED for step in steps]
    sentences = [sentence(step, words, outcome) for step, outcome in zip(steps, outcomes, strict=True)]
    nodes = [name for step in steps for name in step.nodes]
    every = check(nodes) if check and nodes else NOT_CHECKED
    return {
        "gist": gist(steps, words) if steps else NO_STEP,
        "sentences": sentences,
        "all": whole(every, reading.circuit.node_names, named_by(sentences), reading.roles),
        "limit": limit(sentences, every.shorter),
    }


def named_by(sentences: Iterable[StorySentence]) -> set[str]:
    """The nodes that sentences are about."""
    return {name for each in sentences for name in (*each["nodes"], *each["carriers"])}


def untold() -> Story:
    """The story of a circuit without nodes."""
    return {"gist": NO_NODE, "sentences": [], "all": {"text": "", **numbers(NOT_CHECKED)}, "limit": ""}


def halves(reading: TaskReading, half: int) -> Swaps | None:
    """Swaps on the pairs of one half; None where it has none."""
    pairs = torch.arange(reading.values.batch.n_pairs)[half::2][:MOST_PAIRS]
    return Swaps(reading.model, reading.circuit, reading.values.take(pairs)) if len(pairs) else None


def side_margins(swaps: Swaps) -> list[float]:
    """How far the right answer leads on side a and on side b, in calibrated logits."""
    side_a = TaskPlaces(swaps.batch, str).side_a
    return [float(swaps.margins[side].mean()) for side in (side_a, ~side_a)]


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
        text = also(text, "There was no pair to check this on.")
    elif weak:
        text = also(text, f"Swapping it moves the answer in {percent(outcome.moved or 0.0)} of prompts only.")
    nodes, carriers = list(step.nodes), list(step.carriers)
    few = outcome.moved is not None and outcome.moved < MIN_MOVED
    return {
        "text": text,
        "nodes": nodes,
        "carriers": carriers,
        "weak": weak,
        "apart": few and not weak,
        **numbers(outcome),
    }


def also(text: str, more: str) -> str:
    """Two sentences, of which the first may end with a token and without a full stop."""
    return f"{text} {more}" if text.endswith(".") else f"{text} – {more[0].lower()}{more[1:]}"


def limit(sentences: Sequence[StorySentence], shorter: float) -> str:
    """That some prompts are counted apart, where they are: the shorter ones of their pairs."""
    apart = {n: each["moved_whole"] or 0.0 for n, each in enumerate(sentences, start=1) if each["apart"]}
    if not apart:
        return ""
    steps = either_step(list(apart))
    least, most = percent(min(apart.values())), percent(max(apart.values()))
    return (
        f"{percent(shorter)} of the prompts are shorter than their pair’s other one and have no place for all of "
        f"{steps} (*); of the others {least if least == most else f'{least} to {most}'} move."
    )


def either_step(numbers: Sequence[int]) -> str:
    """``step 2``, ``steps 1, 2 and 4``."""
    return f"step{'s' * (len(numbers) > 1)} {together([str(number) for number in numbers])}"


def whole(outcome: Outcome, nodes: Sequence[str], named: Set[str], roles: Roles) -> StoryOutcome:
    """What swapping all steps at once did, and which nodes no sentence is about: heads and neurons by name."""
    left = [name for name in nodes if name not in named]
    text = ""
    if left:
        among, about = units_in_words(left, named, roles), f"are about {len(nodes) - len(left)} of {len(nodes)} nodes"
        others = "the other one is" if len(left) == 1 else "the others are"
        why = "much the same for both prompts of a pair, or hardly moving the answer"
        text = f"The steps {about}; {others} {why}{among and f', among them {among}'}."
    if outcome.flips is not None:
        pairs = f"{outcome.n_prompts} prompts that the sentences were not made from"
        text = f"All steps swapped at once flip {percent(outcome.flips)} of the right answers on {pairs}. {text}"
    return {"text": text.strip(), **numbers(outcome)}


def units_in_words(left: Sequence[str], named: Set[str], roles: Roles) -> str:
    """The heads of which no node is named, and the neurons, among those that are left."""
    nodes = [(split_node_name(name), name) for name in left]
    in_steps = {roles.head(node) for node in map(split_node_name, named) if site_of(node).in_head}
    heads = list(dict.fromkeys(roles.head(node) for node, _ in nodes if site_of(node).in_head))
    heads = [head for head in heads if head not in in_steps]
    neurons = [name for node, name in nodes if site_of(node) is Site.MLP_NEURON]
    said = (heads_in_words(heads) if heads else "", numbered("neuron", neurons) if neurons else "")
    return " and ".join(filter(None, said))


def numbers(outcome: Outcome) -> StoryNumbers:
    """An outcome as it is kept."""
    found = (outcome.moved, outcome.moved_whole, outcome.flips, outcome.share)
    moved, moved_whole, flips, share = (None if value is None else round(value, HUNDREDTHS) for value in found)
    return {
        "moved": moved,
        "moved_whole": moved_whole,
        "flips": flips,
        "share": share,
        "n_prompts": outcome.n_prompts,
    }
