"""One model and its circuits: their next tokens after any text, with parts of a circuit switched off."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.heads import CHANNELS, attention_patterns
from pipeline.data.tasks import TaskError
from pipeline.data.tokenizer import END_OF_TEXT
from pipeline.model.record import record
from pipeline.model.scoring import calibrated
from pipeline.play.changes import Act, OtherText, PartChange, counterparts_of
from pipeline.play.switches import PlayError, Switches, by_node
from pipeline.report.picture import rounded as rounded_to
from pipeline.rows import Explanation
from pipeline.sites import site_key, split_node_name
from pipeline.workspace import LoadedModel, LoadedTask

N_TOP = 8  # tokens of a choice that are listed
DIGITS = 4  # significant ones of a number that is shown

rounded = partial(rounded_to, digits=DIGITS)

TextValues = Mapping[str, Tensor]  # site key → its values [pos, width] on one text


class Inside(StrEnum):
    """Where parts are switched off, and whose values are shown."""

    CIRCUIT = "circuit"  # the circuit alone: its complement is ablated
    MODEL = "model"  # the whole model: all else is live


@dataclass(frozen=True, repr=False)
class Session(LoadedModel):
    """A frozen model, the circuits that were cut out of it by name, the tasks of these (or the reason why their pairs
    cannot be had), and the output of the stage explain."""

    circuits: Mapping[str, Circuit]
    tasks: Mapping[str, LoadedTask | TaskError] = field(default_factory=dict)
    explanation: Explanation | None = None

    def run(
        self,
        text: str,
        circuit: str | None = None,
        off_nodes: Collection[str] = (),
        off_edges: Collection[str] = (),
        *,
        inside: Inside | str = Inside.CIRCUIT,
        at: int | None = None,
        node: str | None = None,
        answers: Sequence[int] = (),
        effects: bool = False,
        changes: Sequence[PartChange] = (),
        other: str | None = None,
        head: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """The next token by the model and by one of its circuits, and the nodes' values on the text, ready for JSON.

        ``tokens``: texts, ``<|endoftext|>`` in front; ``n_left_out``: tokens at the text's beginning that the model has
        no room for; ``at``: the index of the token after which they choose (default: the last). ``model`` and
        ``circuit``: their choices (``choice``), the one ``inside`` which parts are off also without these. ``nodes``:
        values of the circuit's nodes at that token, in the order of its ``node_names``; ``series``: values of one
        ``node`` at all tokens; ``look``: weights of a ``head``, layer and number, on the tokens up to that one; these
        are those ``inside``, ``before`` with all on and ``now`` with parts off. ``effects``, if asked for: the change
        by each node's switch (``effects_of``). ``changes``: what else is done to parts of the circuit, with values on
        the ``other`` text for those to be swapped. Raises PlayError for what cannot be done, in words for the person
        who asked.
        """
        tokens, n_left_out = self.encode(text)
        place = self._place(at, len(tokens))
        ids = torch.tensor(tokens, device=self.model.device)
        whole = self._run(ids)
        reply = {
            "tokens": [self.token(token) for token in tokens],
            "n_left_out": n_left_out,
            "at": place,
            "model": self.choice(whole[0][place], None, answers),
            "circuit": None,
        }
        if circuit is not None:
            alone = Inside(inside) is Inside.CIRCUIT
            switches = Switches.of(self.circuit(circuit), off_nodes, off_edges, changes)
            if any(change.act is Act.SWAP for change in changes):
                switches = replace(switches, other=self.on_other(switches.circuit, alone, tokens, other))
            reply |= self._with_circuit(switches, alone, whole, ids, place, node, answers, head)
            return reply | ({"effects": self.effects_of(switches, alone, ids, place, answers)} if effects else {})
        if off_nodes or off_edges or node or effects or changes or head:
            raise PlayError("choose a circuit first: its nodes and edges are what can be looked at and switched off")
        return reply

    def on_other(self, circuit: Circuit, alone: bool, tokens: Sequence[int], text: str | None) -> OtherText:
        """The values on another text, of the circuit alone or of the whole model, without changes."""
        if not text:
            raise PlayError("to swap a value, write the other prompt")
        there, _ = self.encode(text)
        changes = Switches.of(circuit).changes(self.model, alone=True) if alone else None
        values = self._run(torch.tensor(there, device=self.model.device), changes)[1]
        return OtherText(values, counterparts_of(tokens, there).to(self.model.device))

    def _run(self, ids: Tensor, changes: Mapping[str, Any] | None = None) -> tuple[Tensor, TextValues]:
        """Logits [pos, vocab] of one text [pos], and the values at all sites."""
        with torch.no_grad():
            logits, values = record(self.model, ids[None], **(changes or {}))
        return logits[0], {key: value[0] for key, value in values.items()}

    def _with_circuit(
        self,
        switches: Switches,
        alone: bool,
        whole: tuple[Tensor, TextValues],
        ids: Tensor,
        at: int,
        node: str | None,
        answers: Sequence[int],
        head: Sequence[int] | None,
    ) -> dict[str, Any]:
        """The part of a reply that a circuit adds or changes."""
        circuit = switches.circuit
        by_itself = self._run(ids, Switches.of(circuit).changes(self.model, alone=True))
        before = by_itself if alone else whole
        now = self._run(ids, switches.changes(self.model, alone=alone)) if switches else before
        changed = now[0][at] if switches else None
        return {
            "model": self.choice(whole[0][at], None if alone else changed, answers),
            "circuit": self.choice(by_itself[0][at], changed if alone else None, answers, circuit.calibration),
            "nodes": at_token(circuit, now[1], before[1], at),
            "series": None if node is None else series(circuit, now[1], before[1], node),
            "look": None if head is None else self.look(now[1], head, at),
        }

    def look(self, values: TextValues, head: Sequence[int], at: int) -> list[float]:
        """A head's weights, from one token of a text, on that and all before it; the sink has the rest of 1. Raises
        PlayError for a head that the model does not have."""
        (layer, number), config = head, self.model.config
        if not (0 <= layer < config.n_layer and 0 <= number < config.n_head):
            raise PlayError(f"head {layer}.{number}; allowed: {config.n_layer} layers of {config.n_head} heads")
        q, k = (values[site_key(layer, CHANNELS[letter])][None] for letter in "qk")
        sink = self.model.transformer["h"][layer].attn.sink_logit
        weights = attention_patterns(q, k, sink, config.n_head)[0, number, at, -k.shape[1] :]
        return [rounded(x) for x in weights[: at + 1].tolist()]

    def effects_of(
        self, switches: Switches, alone: bool, ids: Tensor, at: int, answers: Sequence[int]
    ) -> dict[str, Any]:
        """The change after one token when one more node is switched off, for every node in order.

        ``of``: the change of the first answer's logit less the second's, or without answers of the log probability of
        the token that is likeliest without the parts that are off. ``tokens``: texts of the answers, or of that token.
        """
        now = self._run(ids, switches.changes(self.model, alone=alone))[0][at]
        pair = list(self._answers(answers)) or [int(now.argmax())]

        def score(logits: Tensor) -> Tensor:
            own = logits[..., pair]
            return own[..., 0] - own[..., 1] if len(pair) == 2 else logits.log_softmax(-1)[..., pair[0]]

        changes = [score(part) - score(now) for part in switches.effects(self.model, ids, at, alone=alone)]
        return {
            "of": [rounded(x) for part in changes for x in part.tolist()],
            "tokens": [self.token(token) for token in pair],
        }

    def encode(self, text: str) -> tuple[list[int], int]:
        """Tokens of a text, ``<|endoftext|>`` in front as in training, and how many at its beginning are left out.

        Raises PlayError for an empty text.
        """
        if not text:
            raise PlayError("the text is empty: type some code, or take one of the examples")
        ids, room = self.tokenizer.encode(text), self.model.config.n_ctx - 1
        return [self.tokenizer.eot, *ids[-room:]], max(0, len(ids) - room)

    def token(self, token: int) -> str:
        """A token as text."""
        return END_OF_TEXT if token == self.tokenizer.eot else self.tokenizer.decode([token])

    def choice(
        self,
        before: Tensor,
        now: Tensor | None,
        answers: Sequence[int] = (),
        calibration: tuple[float, float] = (1.0, 0.0),
    ) -> dict[str, Any]:
        """The next token, as the logits [vocab] of all parts and of those that are on (None: all are) have it.

        ``tokens``: the likeliest of either and the task's two answers, ``[id, text, probability before, now]``, the
        likeliest now first; ``first``: the probability of the first answer, before and now, when no other token than
        these two is allowed, calibrated (None without answers).
        """
        pair = self._answers(answers)
        both = [before] if now is None else [before, now]
        p = [logits.softmax(-1) for logits in both]
        listed = {token for x in p for token in x.topk(min(N_TOP, len(x))).indices.tolist()} | set(pair)
        order = sorted(listed, key=lambda token: (-float(p[-1][token]), token))
        kept = [token for rank, token in enumerate(order) if rank < N_TOP or token in pair]
        answered = [calibrated(logits[list(pair)][None], calibration)[0] for logits in both if pair]
        return {
            "tokens": [[token, self.token(token), *(rounded(float(x[token])) for x in p)] for token in kept],
            "first": [rounded(float(logits.softmax(-1)[0])) for logits in answered] or None,
        }

    def _answers(self, answers: Sequence[int]) -> Sequence[int]:
        if answers and (len(answers) != 2 or not all(0 <= token < self.model.vocab_size for token in answers)):
            raise PlayError(f"answers {list(answers)}; allowed: two tokens from 0 to {self.model.vocab_size - 1}")
        return answers

    def circuit(self, name: str) -> Circuit:
        """Raises PlayError for a name that none of the circuits has."""
        if name not in self.circuits:
            raise PlayError(f"no circuit {name!r}; there are: {', '.join(self.circuits) or 'none'}")
        return self.circuits[name]

    def _place(self, at: int | None, n: int) -> int:
        """The token after which is chosen; the last where the text has become too short for the one asked for."""
        if at is not None and at < 0:
            raise PlayError(f"token {at}; allowed: 0 to {n - 1}")
        return n - 1 if at is None else min(at, n - 1)


def at_token(circuit: Circuit, now: TextValues, before: TextValues, at: int) -> dict[str, list[float]]:
    """Every node's value at one token, now and before, and its largest magnitude in this text (of both)."""
    values, old = by_node(circuit, now), by_node(circuit, before)
    if not values.numel():
        return {"now": [], "before": [], "largest": []}
    rows = {"now": values[at], "before": old[at], "largest": torch.maximum(values.abs(), old.abs()).amax(0)}
    return {name: [rounded(x) for x in row.tolist()] for name, row in rows.items()}


def series(circuit: Circuit, now: TextValues, before: TextValues, node: str) -> dict[str, Any]:
    """One node's values at all tokens. Raises PlayError for a node that is not in the circuit."""
    Switches.of(circuit, [node])
    key, index = split_node_name(node)
    rows = {"now": now[key][:, index], "before": before[key][:, index]}
    return {"node": node} | {name: [rounded(x) for x in row.tolist()] for name, row in rows.items()}
