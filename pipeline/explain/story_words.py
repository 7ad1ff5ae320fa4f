"""The steps of a circuit's flow in sentences: what is read, how it is moved, combined, and written as the answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

from pipeline.explain.roles import NEARLY_ZERO
from pipeline.explain.story_steps import FlowPart, FlowStep, site_of
from pipeline.explain.task_nodes import TaskReading
from pipeline.explain.task_values import Head
from pipeline.explain.task_words import OTHERS, OTHERWISE
from pipeline.explain.words import MOST_NAMED, ended, grouped, heads_in_words, together
from pipeline.sites import Site, split_node_name, split_site_key

LEAST_GROUP = 0.1  # of what a step's nodes move together: smaller groups of them are only counted
GIST = 140  # characters, for a gallery
NOT = "not "


class StoryWords:
    """Sentences about the steps of one circuit. ``falls``: of every node (``FlowSteps.falls``)."""

    def __init__(self, reading: TaskReading, falls: Mapping[str, float]) -> None:
        self.reading, self.words, self.roles, self.falls = reading, reading.words, reading.roles, falls

    def sentence(self, step: FlowStep) -> str:
        """``Channels 834 and 860 read `␣[[` – 0.attn_in.834 is 4.9 at `␣[[` and −1.9 at `␣[```."""
        tell = {
            FlowPart.READ: self._read,
            FlowPart.MOVE: self._move,
            FlowPart.COMBINE: self._combine,
            FlowPart.WRITE: self._write,
        }
        text = tell[step.part](step)
        return ended(f"{text[0].upper()}{text[1:]}")

    def _read(self, step: FlowStep) -> str:
        said = self._by_place(step.nodes, lambda names, place: f"{channels(names)} {verb(names, 'read')} {read(place)}")
        where = "" if step.site is Site.ATTN_IN and step.layer == 0 else f" for {half_in_words(step)}"
        return f"{said}{where}{self._example(step.nodes)}"

    def _move(self, step: FlowStep) -> str:
        ways = grouped(self.heads(step), self.roles.way)
        said = " and ".join(
            f"{heads_in_words(heads)} {agree(way, len(heads) > 1)}{self.roles.mostly(heads[0])}"
            for way, heads in ways.items()
        )
        values = [name for name in step.nodes if site_of(split_node_name(name)) is Site.ATTN_V]
        into = [name for name in step.carriers if not site_of(split_node_name(name)).reads_residual]
        said += f" into {channels(into)}" if into else ""
        shown = [name for name in values if self._looked_at(name)]
        return f"{self._reading(step)}{said}{self._example(shown)}"

    def _looked_at(self, name: str) -> bool:
        """Whether a value is far from 0 where its head looks; a head of one side's tokens shows no other side's."""
        look, statement = self.roles.looked_at(self.roles.head(split_node_name(name))), self.reading.statements[name]
        if look is None or look[1] is None or statement is None or not statement.of_sides:
            return True
        return statement.larger == look[1]

    def _combine(self, step: FlowStep) -> str:
        said = self._by_place(step.nodes, self._fire)
        return f"{self._reading(step)}{said}{self._example(step.nodes)}"

    @staticmethod
    def _reading(step: FlowStep) -> str:
        """The channels that a step reads what earlier steps wrote from."""
        from_ = [name for name in step.carriers if site_of(split_node_name(name)).reads_residual]
        return f"reading {channels(from_)}, " if from_ else ""

    def _fire(self, names: Sequence[str], place: str) -> str:
        statement = self.reading.statements[names[0]]
        low, high = sorted(map(abs, statement.means)) if statement else (1.0, 1.0)
        only = "only " if low <= NEARLY_ZERO * high else "more "
        where = f"except {place.removeprefix(NOT)}" if place.startswith(NOT) else only + place
        layer = split_site_key(split_node_name(names[0])[0])[0]
        return f"{numbered('neuron', names)} of layer {layer} {verb(names, 'fire')} {where}"

    def _write(self, step: FlowStep) -> str:
        default, answers = self.default(step), self.answers()
        written = f": {answers}" if answers else ""
        if default is not None:
            side, less = default
            won, when = (self.words.quoted(self.words.answers[n]) for n in (1 - side, side)), self.words.conditions
            written = f" {next(won)} {when[1 - side]} – {when[side]} {less} and {next(won)} wins by default"
        said = f"{channels(step.nodes)} {verb(step.nodes, 'write')} the answer{written}"
        return f"{said}{self._example(step.nodes)}"

    def default(self, step: FlowStep) -> tuple[int, str] | None:
        """The side whose right answer the writes of a step do not push, and what they do there; None where they push
        both sides' answers, or where answers or sides are too many to be named."""
        if self.n_answers != 2 or not self.words.after:
            return None
        pushes = [sum(self.roles.pushes(name)[side] for name in step.nodes) for side in (0, 1)]
        side = int(pushes[1] < pushes[0])
        if pushes[side] >= NEARLY_ZERO * pushes[1 - side] or pushes[1 - side] <= 0:
            return None
        nothing = abs(pushes[side]) < NEARLY_ZERO * pushes[1 - side]
        return side, "next to nothing is written" if nothing else "it is pushed less"

    @cached_property
    def n_answers(self) -> int:
        return len(self.words.places.batch.answers[:, 0].unique())

    def answers(self) -> str:
        """```]]⏎` after `␣[[` and `]⏎` after `␣[```; nothing where there are more than two."""
        if self.n_answers != 2:
            return ""
        answers = [self.words.quoted(answer) for answer in self.words.answers]
        if not self.words.after:
            return " or ".join(answers)
        said = [f"{answer} {when}" for answer, when in zip(answers, self.words.after, strict=True)]
        others = self.words.after.index(OTHERWISE) if OTHERWISE in self.words.after else None
        second_first = others == 0 or (others is None and self.reads_second)
        return " and ".join(reversed(said) if second_first else said)

    @cached_property
    def reads_second(self) -> bool:
        """Whether the circuit reads what side b of the pairs has, rather than side a."""
        reads = [name for name in self.falls if site_of(split_node_name(name)).reads_residual]
        statement = self.reading.statements[max(reads, key=self.falls.__getitem__)] if reads else None
        return statement is not None and statement.of_sides and statement.larger == 1

    def heads(self, step: FlowStep) -> list[Head]:
        return list(dict.fromkeys(self.roles.head(split_node_name(name)) for name in step.nodes))

    def _by_place(self, names: Sequence[str], tell: Callable[[Sequence[str], str], str]) -> str:
        """The nodes of a step by where they are high."""
        groups, fall = grouped(names, self.place), self._fall(names)
        large = [place for n, place in enumerate(groups) if not n or self._fall(groups[place]) > LEAST_GROUP * fall]
        rest = sum(len(some) for place, some in groups.items() if place not in large)
        said = [tell(groups[place], place) for place in large]
        return " and ".join(said) + f" ({rest} more elsewhere)" * (rest > 0)

    def _fall(self, names: Iterable[str]) -> float:
        return sum(self.falls[name] for name in names)

    def place(self, name: str) -> str:
        """Where a node has the larger magnitude: ``at `␣[[```, ``not after `␣def```."""
        statement = self.reading.statements[name]
        if statement is None:
            return "everywhere"
        side = statement.larger
        if not statement.of_sides:
            return NOT * side + self.words.place(statement.place)
        apart = self.words.apart(statement.place)
        groups = [f"at {tokens}" for tokens in apart] if apart else self.words.conditions
        rest = groups[side] in (f"at {OTHERS}", OTHERWISE)
        return NOT + groups[1 - side] if rest else groups[side]

    def _example(self, names: Sequence[str]) -> str:
        """``– at the end, 0.mlp_neuron.858 is 3.4 after `␣[[` and 0 after `␣[```: the first node, which moves most."""
        statement = self.reading.statements[names[0]] if names else None
        if statement is None:
            return ""
        who, text = names[0], self.words.text(statement)
        found = re.match(r"(.*?): (?=[−\d])", text)  # where, if that is said first
        return f" – {found[1]}, {who} is {text[found.end() :]}" if found else f" – {who} is {text}"

    def gist(self, steps: Sequence[FlowStep]) -> str:
        """The flow in at most ``GIST`` characters: ``Reads `␣[[` → head 0.8 brings it to the end → writes …``."""
        parts = [self._gist_of(part, [step for step in steps if step.part is part]) for part in FlowPart]
        for left_out in ((), (2,), (1, 2), (0, 1, 2)):
            said = " → ".join(text for n, text in enumerate(parts) if text and n not in left_out)
            if len(said) < GIST:
                break
        return ended(f"{said[:1].upper()}{said[1 : GIST - 1]}")

    def _gist_of(self, part: FlowPart, steps: Sequence[FlowStep]) -> str:
        if not steps:
            return ""
        nodes = [name for step in steps for name in step.nodes]
        if part is FlowPart.READ:
            return f"reads {read(self.place(nodes[0]))}"
        if part is FlowPart.MOVE:
            heads = [head for step in steps for head in self.heads(step)]
            who = heads_in_words(heads) if len(heads) <= MOST_NAMED else f"{len(heads)} heads"
            return f"{who} bring{'s' * (len(heads) == 1)} it to the end"
        if part is FlowPart.COMBINE:
            return f"{len(nodes)} neurons respond" if len(nodes) > 1 else "one neuron responds"
        default = self.default(steps[-1])
        if default is None:
            return f"writes {self.answers() or 'the answer'}"
        written, other = (self.words.quoted(self.words.answers[side]) for side in (1 - default[0], default[0]))
        return f"writes {written} {self.words.conditions[1 - default[0]]} and {other} otherwise"


def half_in_words(step: FlowStep) -> str:
    return f"{'attention' if step.site.in_attention else 'the MLP'} of layer {step.layer}"


def read(place: str) -> str:
    """What is read where a node is high: ``at `␣[[``` becomes ```␣[[```."""
    if place.startswith(f"{NOT}at "):
        return f"tokens other than {place.removeprefix(f'{NOT}at ')}"
    if place.startswith(NOT):
        return f"what does not stand {place.removeprefix(NOT)}"
    return place.removeprefix("at ") if place.startswith("at ") else f"what stands {place}"


def channels(names: Sequence[str]) -> str:
    return numbered("channel", names)


def numbered(kind: str, names: Sequence[str]) -> str:
    """``channels 834, 860, 707 and 5 more``; a channel that several nodes read or write once."""
    numbers = list(dict.fromkeys(str(split_node_name(name)[1]) for name in names))
    return f"{kind}{'s' * (len(numbers) > 1)} {together(numbers)}"


def verb(names: Sequence[str], plural: str) -> str:
    """The verb of one node or of several."""
    return plural if len({split_node_name(name)[1] for name in names}) > 1 else f"{plural}s"


def agree(way: str, plural: bool) -> str:
    """``copies from …``, of several heads ``copy from …``."""
    if not plural:
        return way
    first, *rest = way.split(" ", 1)
    return " ".join([{"copies": "copy", "averages": "average"}[first], *rest])
