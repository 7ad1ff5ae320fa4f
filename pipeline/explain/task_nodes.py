"""A circuit read on pairs of its task, and from that the label of each node: where it differs, and its role."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.data.pairs import PairBatch
from pipeline.data.tokenizer import Tokenizer
from pipeline.explain.roles import Roles
from pipeline.explain.rounding import rounded
from pipeline.explain.shorts import Shorts
from pipeline.explain.task_labels import AS_STRONG, TaskStatement, TaskStatements, steady
from pipeline.explain.task_places import PARTING
from pipeline.explain.task_values import TaskValues
from pipeline.explain.task_words import TaskWords, numbers
from pipeline.model.transformer import Transformer
from pipeline.rows import TaskLabel
from pipeline.sites import split_node_name

WEAK_AUC = 0.8  # on the other half, below which a label says hardly anything, and has to look so
OF_SIDES = "AUC between the two sides, on pairs that it was not chosen on"
OF_PLACE = "AUC against all other places, on pairs that it was not chosen on"
STEADY_MEASURE = "the same at all places of the prompts within a tenth"
NO_MEASURE = "no place of the prompts at which it is high alone, and no difference between the sides"
COMMON = 0.5  # of the prompts that have another token for it to be told, too


@dataclass(frozen=True)
class TaskReading:
    """A circuit as it is read on pairs of its task: what labels and sentences are made from.

    ``statements``: name → the best statement about the node, None for a node that has one value only, or of which no
    place stands out; ``kinds``: of the latter, that about a kind of token, where one tells.
    """

    model: Transformer
    circuit: Circuit
    values: TaskValues
    statements: Mapping[str, TaskStatement | None]
    kinds: Mapping[str, TaskStatement | None]
    words: TaskWords
    roles: Roles

    @classmethod
    def of(
        cls, model: Transformer, circuit: Circuit, batch: PairBatch, tokenizer: Tokenizer, names: Collection[str]
    ) -> TaskReading:
        """Of the nodes of these names, on all pairs of a batch. Raises WrongModelError, CompiledModelError."""
        return cls.from_values(model, circuit, TaskValues.of(model, circuit, batch, names), tokenizer)

    @classmethod
    def from_values(cls, model: Transformer, circuit: Circuit, values: TaskValues, tokenizer: Tokenizer) -> TaskReading:
        """Of the nodes that have values."""
        statements = TaskStatements(values, lambda token: tokenizer.decode([token]))
        words = TaskWords(statements.places)
        best = {name: statements(name) for name in values.nodes}
        kinds = {name: statements.kind(name) for name, statement in best.items() if statement is None}
        return cls(model, circuit, values, best, kinds, words, Roles(circuit, model, values, words))

    def label(self, name: str) -> TaskLabel:
        """The label of a node: where it differs, how surely, and its role in the flow."""
        statement = self.statements[name]
        label = label_of(statement, self.words, self.values.nodes[name], self.kinds.get(name))
        node = split_node_name(name)
        label["role"], label["short"] = self.roles(node, statement), Shorts(self.roles)(node, statement)
        return label


def label_of(
    statement: TaskStatement | None,
    words: TaskWords,
    values: Float[Tensor, "prompt pos"],
    kind: TaskStatement | None = None,
) -> TaskLabel:
    """A statement as it is kept, without a role; None: the node has one value, or none that a place stands out by, but
    perhaps a kind of token."""
    if kind is not None:
        return label_of(kind, words, values) | {"text": f"no place stands out: {words.text(kind)}"}
    if statement is None:
        share = words.places.position / words.places.batch.last[:, None].clamp(min=1)
        return without_place(values[words.places.there], share[words.places.there])
    return {
        "text": words.text(statement) + also(statement, words, values),
        "role": "",
        "score": rounded(statement.score),
        "measure": OF_SIDES if statement.of_sides else OF_PLACE,
        "weak": statement.score < WEAK_AUC,
    }


def without_place(real: Float[Tensor, " n"], share: Float[Tensor, " n"]) -> TaskLabel:
    """The label of a node by its values at all positions alone; ``share``: of the prompt that lies before each."""
    if steady(real):
        text = f"about {TaskWords.number(float(real.mean()))} everywhere, on both sides"
        return {"text": text, "role": "", "score": None, "measure": STEADY_MEASURE, "weak": False}
    third = (3 * share).long().clamp(max=2)
    means = [float(real[third == n].mean()) for n in range(3)]
    early, midway, late = map(TaskWords.number, means)
    text = f"no place stands out: about {early} early, {midway} midway, {late} late in the prompt"
    return {"text": text, "role": "", "score": None, "measure": NO_MEASURE, "weak": True}


def also(statement: TaskStatement, words: TaskWords, values: Float[Tensor, "prompt pos"]) -> str:
    """`` – also −8.3 at `()⏎```: where the sides differ at their first difference, another common token at which the
    node is about as strong."""
    if not statement.of_sides or statement.place.name != PARTING:
        return ""
    tokens, elsewhere = words.places.batch.tokens, words.places.there & ~statement.place.mask
    named = words.tokens_at(statement.place.mask & words.sides[statement.larger][:, None])
    elsewhere &= ~torch.isin(tokens, torch.tensor(named))
    n = torch.bincount(tokens[elsewhere])
    means = torch.bincount(tokens[elsewhere], weights=values[elsewhere].double()) / n.clamp(min=1)
    strength = means.abs() * (n >= COMMON * len(tokens))
    best, larger = int(strength.argmax()), statement.means[statement.larger]
    if strength[best] < AS_STRONG * abs(larger):
        return ""
    return f" – also {numbers((float(means[best]), larger))[0]} at {words.quoted(best)}"
