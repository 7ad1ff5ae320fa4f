"""A circuit read on pairs of its task, and from that the label of each node: where it differs, and its role."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pipeline.circuit import Circuit
from pipeline.data.pairs import PairBatch
from pipeline.data.tokenizer import Tokenizer
from pipeline.explain.roles import Roles
from pipeline.explain.rounding import rounded
from pipeline.explain.shorts import Shorts
from pipeline.explain.task_labels import TaskStatement, TaskStatements
from pipeline.explain.task_values import TaskValues
from pipeline.explain.task_words import TaskWords
from pipeline.model.transformer import Transformer
from pipeline.rows import TaskLabel
from pipeline.sites import split_node_name

WEAK_AUC = 0.8  # below which a label says hardly anything, and has to look so
OF_SIDES = "AUC between the two sides, on pairs that it was not chosen on"
OF_PLACE = "AUC against all other places, on pairs that it was not chosen on"
STEADY_MEASURE = "the same at all places of the prompts within a tenth"


@dataclass(frozen=True)
class TaskReading:
    """A circuit as it is read on pairs of its task: what labels and sentences are made from.

    ``statements``: name → the best statement about the node, None for a node that has one value only.
    """

    model: Transformer
    circuit: Circuit
    values: TaskValues
    statements: Mapping[str, TaskStatement | None]
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
        return cls(model, circuit, values, best, words, Roles(circuit, model, values, words))

    def label(self, name: str) -> TaskLabel:
        """The label of a node: where it differs, how surely, and its role in the flow."""
        statement = self.statements[name]
        label = label_of(statement, self.words, float(self.values.nodes[name][self.words.places.there].mean()))
        node = split_node_name(name)
        label["role"], label["short"] = self.roles(node, statement), Shorts(self.roles)(node, statement)
        return label


def label_of(statement: TaskStatement | None, words: TaskWords, mean: float) -> TaskLabel:
    """A statement as it is kept, without a role; None: the node has about its ``mean`` everywhere."""
    if statement is None:
        text = f"about {words.number(mean)} everywhere, on both sides"
        return {"text": text, "role": "", "score": None, "measure": STEADY_MEASURE, "weak": False}
    return {
        "text": words.text(statement),
        "role": "",
        "score": rounded(statement.score),
        "measure": OF_SIDES if statement.of_sides else OF_PLACE,
        "weak": statement.score < WEAK_AUC,
    }
