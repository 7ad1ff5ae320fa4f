"""The steps of a circuit's flow that its story tells: sets of nodes that do the same, in the order of the flow.

Reads of tokens; heads that move what was read, by where they look; neurons; writes of the answer. Nodes that hardly
move the answer are in no step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby

import torch

from pipeline.circuit.graph import Node, half_of
from pipeline.explain.swaps import Swaps, on_other_prompt
from pipeline.explain.task_nodes import TaskReading
from pipeline.explain.task_values import Head
from pipeline.sites import Site, node_name, split_node_name, split_site_key

NEGLIGIBLE = 0.05  # of what its like move together, in logits: a node that moves less is in no step


class FlowPart(Enum):
    """The part that a step has in the flow."""

    READ = "read"
    MOVE = "move"
    COMBINE = "combine"
    WRITE = "write"


@dataclass(frozen=True)
class FlowStep:
    """Nodes that do the same, the most moving first; ``carriers``: the channels that they read or write between steps,
    which are named with them, and not swapped."""

    part: FlowPart
    layer: int
    nodes: tuple[str, ...]
    carriers: tuple[str, ...] = ()

    @property
    def site(self) -> Site:
        """The site of its first node."""
        return site_of(split_node_name(self.nodes[0]))


def joined(steps: Sequence[FlowStep]) -> FlowStep:
    """Steps of one part and layer as one."""
    nodes = tuple(name for step in steps for name in step.nodes)
    carriers = dict.fromkeys(name for step in steps for name in step.carriers)
    return FlowStep(steps[0].part, steps[0].layer, nodes, tuple(carriers))


def first_order_falls(swaps: Swaps) -> dict[str, float]:
    """Node → the mean fall of the right answer's logit less the wrong one's, where it is swapped; to first order.

    By the mean of the slopes on both prompts: of one prompt alone, a neuron that is off would never move anything.
    """
    falls = {}
    for name, own in swaps.values.nodes.items():
        here = swaps.values.slopes[name]
        # less the other prompt's, whose right answer is this one's wrong one
        slope = torch.where(swaps.aligned < 0, here, (here - on_other_prompt(here, swaps.aligned)) / 2)
        falls[name] = float((slope * (own - swaps.other[name])).sum(1).mean())
    return falls


def direct_falls(swaps: Swaps) -> dict[str, float]:
    """Node that writes into the residual stream → the mean fall of its own part in the same difference, at the end,
    before the last norm's scale: what it tells the answers without a reader of the circuit."""
    model, batch, falls = swaps.model, swaps.batch, dict[str, float]()
    right, wrong = (model.lm_head.weight[answers] for answers in batch.answers.to(model.device).unbind(1))
    direction = ((right - wrong) * model.transformer["ln_f"].weight).detach().cpu()
    for name, own in swaps.values.nodes.items():
        if site_of(split_node_name(name)).writes_residual:
            moved = (own - swaps.other[name]).gather(1, batch.last[:, None])[:, 0]
            falls[name] = float((direction[:, split_node_name(name)[1]] * moved).mean())
    return falls


class FlowSteps:
    """The steps of one circuit, by the falls of its nodes on some pairs."""

    def __init__(self, reading: TaskReading, swaps: Swaps) -> None:
        self.roles, self.falls, self.direct = reading.roles, first_order_falls(swaps), direct_falls(swaps)
        self.nodes = [split_node_name(name) for name in self.falls]

    def __iter__(self) -> Iterator[list[FlowStep]]:
        """Steps that may be told, in the order of the flow: those of one half layer and part at a time."""
        for half in sorted({half_of(key) for key, _ in self.nodes}):
            here = [node for node in self.nodes if half_of(node[0]) == half]
            yield from filter(None, (self._reads(here), self._heads(here), self._neurons(here)))
        writes = moving(self.direct, self.direct)
        if writes:
            yield [FlowStep(FlowPart.WRITE, self._layer(writes[-1]), tuple(writes))]

    def _reads(self, here: list[Node]) -> list[FlowStep]:
        return self._of(
            FlowPart.READ, [n for n in here if site_of(n).reads_residual and not self.roles.channels.writers(n)]
        )

    def _neurons(self, here: list[Node]) -> list[FlowStep]:
        return [
            FlowStep(step.part, step.layer, step.nodes, (*self.sources(step.nodes), *self.targets(step.nodes)))
            for step in self._of(FlowPart.COMBINE, [node for node in here if site_of(node) is Site.MLP_NEURON])
        ]

    def _of(self, part: FlowPart, nodes: list[Node]) -> list[FlowStep]:
        """The moving ones of some nodes as one step, if there are any."""
        names = moving([node_name(*node) for node in nodes], self.falls)
        return [FlowStep(part, self._layer(names[0]), tuple(names))] if names else []

    @staticmethod
    def _layer(name: str) -> int:
        return split_site_key(split_node_name(name)[0])[0]

    def _heads(self, here: list[Node]) -> list[FlowStep]:
        """Heads that look at the same place, each with its queries, keys and values."""
        channels: dict[Head, list[str]] = {}
        for node in here:
            if site_of(node).in_head:
                channels.setdefault(self.roles.head(node), []).append(node_name(*node))
        heads = [head for head, names in channels.items() if any(".attn_v." in name for name in names)]
        falls = {head: sum(self.falls[name] for name in channels[head]) for head in heads}
        least = NEGLIGIBLE * sum(max(fall, 0.0) for fall in falls.values())
        moving = sorted((head for head in heads if falls[head] > least), key=lambda head: -falls[head])
        ways = {head: self.roles.way(head) for head in moving}
        order = sorted(moving, key=lambda head: list(ways.values()).index(ways[head]))
        return [self._step_of(list(some), channels) for _, some in groupby(order, key=ways.__getitem__)]

    def _step_of(self, heads: list[Head], channels: dict[Head, list[str]]) -> FlowStep:
        nodes = tuple(name for head in heads for name in sorted(channels[head], key=lambda name: -self.falls[name]))
        read = [name for name in self.sources(nodes) if self.roles.channels.writers(split_node_name(name))]
        return FlowStep(FlowPart.MOVE, heads[0][0], nodes, (*read, *self.targets(nodes)))

    def sources(self, names: tuple[str, ...]) -> list[str]:
        """What nodes have moving edges from."""
        into = {node_name(*source) for name in names for source, _ in self.roles.sources.get(split_node_name(name), [])}
        return moving([name for name in self.falls if name in into], self.falls)

    def targets(self, names: tuple[str, ...]) -> list[str]:
        """What nodes have moving edges to."""
        some = {split_node_name(name) for name in names}
        to = {node_name(*t) for t, into in self.roles.sources.items() if any(source in some for source, _ in into)}
        return moving([name for name in self.falls if name in to], self.falls)


def moving(names: Collection[str], falls: Mapping[str, float]) -> list[str]:
    """Those that move the answer towards the other one by more than a negligible part of what all do, the most moving
    first."""
    least = NEGLIGIBLE * sum(max(falls[name], 0.0) for name in names)
    return sorted((name for name in names if falls[name] > least), key=lambda name: -falls[name])


def site_of(node: Node) -> Site:
    """The site that a node is at."""
    return split_site_key(node[0])[1]
