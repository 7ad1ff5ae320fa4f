"""The label of every node of a circuit in its task: where it differs, how surely, and its role in the flow."""

from __future__ import annotations

from collections.abc import Collection

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


def task_labels(
    model: Transformer, circuit: Circuit, batch: PairBatch, tokenizer: Tokenizer, names: Collection[str]
) -> dict[str, TaskLabel]:
    """Name → label, of nodes of a circuit on all pairs of a batch. Raises WrongModelError, CompiledModelError."""
    values = TaskValues.of(model, circuit, batch, names)
    statements = TaskStatements(values, lambda token: tokenizer.decode([token]))
    words = TaskWords(statements.places)
    roles = Roles(circuit, model, values, words)
    shorts = Shorts(roles)
    found = dict[str, TaskLabel]()
    for name in names:
        statement = statements(name)
        found[name] = label_of(statement, words, float(values.nodes[name][statements.places.there].mean()))
        found[name]["role"] = roles(split_node_name(name), statement)
        found[name]["short"] = shorts(split_node_name(name), statement)
    return found


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
