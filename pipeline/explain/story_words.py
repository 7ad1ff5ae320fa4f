"""The steps of a circuit's flow in sentences: what is read, how it is moved, combined, and written as the answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

from pipeline.explain.roles import NEARLY_ZERO
from pipeline.explain.story_steps import FlowPart, FlowStep, site_of
from pipeline.explain.story_writes import in_words, pushes
from pipeline.explain.task_nodes import TaskReading
from pipeline.explain.task_places import AFTER
from pipeline.explain.task_values import Head
from pipeline.explain.task_words import OTHERS, OTHERWISE
from pipeline.explain.words import channels, ended, grouped, heads_in_words, numbered, verb
from pipeline.sites import Site, split_node_name, split_site_key

LEAST_GROUP = 0.1  # of what a step's nodes move together: smaller groups of them are only counted
NOT = "not "


class StoryWords:
    """Sentences about the ``steps`` of one circuit.

    ``falls``: of every node (``FlowSteps.falls``); ``margins``: how far the right answer leads on each side, in
    calibrated logits (None: not known)."""

    def __init__(
        self,
        reading: TaskReading,
        falls: Mapping[str, float],
        steps: Sequence[FlowStep],
        margins: Sequence[float] | None = None,
    ) -> None:
        self.reading, self.words, self.roles, self.falls = reading, reading.words, reading.roles, falls
        self.steps, self.margins = steps, margins

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
        said += self._into(step)
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

    def _into(self, step: FlowStep) -> str:
        """The channels that a step fills, those first that a later one reads or that write the answer."""
        into = [name for name in step.carriers if not site_of(split_node_name(name)).reads_residual]
        later = self.steps[self.steps.index(step) + 1 :]
        read = {name for each in later for name in (each.nodes if each.part is FlowPart.WRITE else each.carriers)}
        said = apart(into, read, "that no step here reads")
        return f" into {said}" if said else ""

    def _reading(self, step: FlowStep) -> str:
        """The channels that a step reads what earlier steps wrote from, those first that a step here fills."""
        from_ = [name for name in step.carriers if site_of(split_node_name(name)).reads_residual]
        earlier = self.steps[: self.steps.index(step)]
        said = apart(from_, {name for each in earlier for name in each.carriers}, "that no step here fills")
        return f"reading {said}, " if said else ""

    def _fire(self, names: Sequence[str], place: str) -> str:
        statement = self.reading.statements[names[0]]
        low, high = sorted(map(abs, statement.means)) if statement else (1.0, 1.0)
        only = "only " if low <= NEARLY_ZERO * high else "more "
        where = f"except {place.removeprefix(NOT)}" if place.startswith(NOT) else only + place
        layer = split_site_key(split_node_name(names[0])[0])[0]
        return f"{numbered('neuron', names)} of layer {layer} {verb(names, 'fire')} {where}"

    def _write(self, step: FlowStep) -> str:
        if self.n_answers == 2:
            return in_words(pushes(step.nodes, self.roles), self.words, self.margins)
        return f"{channels(step.nodes)} {verb(step.nodes, 'write')} the answer{self._example(step.nodes)}"

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
        groups, fall = self._groups(names), self._fall(names)
        large = [place for n, place in enumerate(groups) if not n or self._fall(groups[place]) > LEAST_GROUP * fall]
        rest = sum(len(some) for place, some in groups.items() if place not in large)
        said = [tell(groups[place], place) for place in large]
        return " and ".join(said) + f" ({rest} more elsewhere)" * (rest > 0)

    def _groups(self, names: Sequence[str]) -> Mapping[str, list[str]]:
        """The nodes of a step by where they are high, those first that move most together."""
        groups = grouped(names, self.place)
        return dict(sorted(groups.items(), key=lambda group: -self._fall(group[1])))

    def first_place(self, names: Sequence[str]) -> str:
        """Where those of a step's nodes are high that move most together."""
        return next(iter(self._groups(names)))

    def brought(self, head: Head) -> str | None:
        """The token that a head copies from: ```␣def```; None where it looks at no one place."""
        found = self.roles.looked_at(head)
        return None if found is None or found[0].name == AFTER else self.words.place(*found, flow=True)

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


def apart(names: Sequence[str], others: Iterable[str], which: str) -> str:
    """``channels 938 and 69``; ``channel 938 and 1 that no step here fills``, of those whose channel is none of the
    others'."""
    known = {split_node_name(name)[1] for name in others}
    told = [name for name in names if split_node_name(name)[1] in known]
    n_left = len({split_node_name(name)[1] for name in names} - known)
    if not told or not n_left:
        return channels(names) if names else ""
    return f"{channels(told)} and {n_left} {which}"


def half_in_words(step: FlowStep) -> str:
    return f"{'attention' if step.site.in_attention else 'the MLP'} of layer {step.layer}"


def read(place: str) -> str:
    """What is read where a node is high: ``at `␣[[``` becomes ```␣[[```."""
    if place.startswith(f"{NOT}at "):
        return f"tokens other than {place.removeprefix(f'{NOT}at ')}"
    if place.startswith(NOT):
        return f"what does not stand {place.removeprefix(NOT)}"
    return place.removeprefix("at ") if place.startswith("at ") else f"what stands {place}"


def agree(way: str, plural: bool) -> str:
    """``copies from …``, of several heads ``copy from …``."""
    if not plural:
        return way
    first, *rest = way.split(" ", 1)
    return " ".join([{"copies": "copy", "averages": "average"}[first], *rest])
