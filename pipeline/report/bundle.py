"""All that the page of one circuit needs, as one JSON value: the picture, what explains its nodes, and its sizes.

Nodes are numbers in the picture's order, and texts of tokens numbers in a table, so that a hundred circuits fit into
one page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.circuit import Circuit
from pipeline.data.pairs import PairBatch
from pipeline.data.tokenizer import END_OF_TEXT, Tokenizer
from pipeline.model.transformer import Transformer
from pipeline.report.picture import picture_of, rounded

MODEL_FIELDS = ("name", "kind", "n_layer", "d_model", "l0", "val_loss_nats")
ROW_FIELDS = ("n_nodes", "n_edges", "solved", "unpruned_loss", "validation_loss", "circuit_loss", "ablated_nodes_loss")
CONTEXTS = ("top", "bottom", "random")


def circuit_bundle(
    circuit: Circuit,
    model: Transformer,
    *,
    task: str,
    model_row: Mapping[str, Any],
    row: Mapping[str, Any],
    batch: PairBatch,
    texts: Sequence[str],
    explanation: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The bundle of one circuit page.

    ``model_row`` and ``row``: the summary's entries of the model and of its task, of which a few fields are kept;
    ``batch``: the task's test pairs; ``texts``: ``token_texts(tokenizer)``; ``explanation``: the contents of
    explanations/<model>.json (None: the page says that there is none). Raises KeyError where the explanation is of
    another circuit.
    """
    picture = picture_of(circuit, model, batch, texts)
    return {
        "model": model_row["name"],
        "task": task,
        "row": {field: row.get(field) for field in ROW_FIELDS},
        "model_row": {field: model_row.get(field) for field in MODEL_FIELDS},
        "calibration": [rounded(value) for value in circuit.calibration],
        "certificate": certified(circuit, picture),
        "drawing": picture,
        "explanation": explained(picture, explanation, task),
    }


def token_texts(tokenizer: Tokenizer) -> list[str]:
    """The text of every token; bytes that are no text are written ``\\xe2``."""
    encoding = tokenizer.encoding
    raw = (encoding.decode_single_token_bytes(token) for token in range(tokenizer.eot))
    return [token.decode(errors="backslashreplace") for token in raw] + [END_OF_TEXT]


def node_names(picture: Mapping[str, Any]) -> list[str]:
    """Names of a picture's nodes, in its order: ``0.attn_q.53``."""
    sites, nodes = picture["sites"], picture["nodes"]
    return [f"{sites[site]}.{index}" for site, index in zip(nodes["site"], nodes["index"], strict=True)]


def certified(circuit: Circuit, picture: Mapping[str, Any]) -> dict[str, Any] | None:
    """The loss of the circuit on its validation pairs, whole and without each single node and edge, in the picture's
    order; None where it was not minimised."""
    if not circuit.certificate:
        return None
    losses = circuit.removal_losses
    return {
        "loss": rounded(circuit.certificate["loss"]),
        "nodes": [rounded(losses[name]) for name in node_names(picture)],
        "edges": [rounded(losses[name]) for name in circuit.edge_names],
    }


def explained(picture: Mapping[str, Any], explanation: Mapping[str, Any] | None, task: str) -> dict[str, Any] | None:
    """The part of a model's explanation that is about one circuit, nodes in the picture's order; None without one.

    ``nodes``: as in the explanation, and ``model``, ``circuit``, ``removed_loss`` and ``ablated_loss`` of the task;
    None for those of a large circuit that explain leaves out.
    """
    found = (explanation or {}).get("circuits", {}).get(task)
    if explanation is None or found is None:
        return None
    table = _Renumbered(explanation["tokens"])
    names = node_names(picture)
    return {
        "nodes": [
            _node(explanation["nodes"][name], table) | found["nodes"][name] if name in found["nodes"] else None
            for name in names
        ],
        "prompts": [prompt | {"tokens": table.all(prompt["tokens"])} for prompt in found["prompts"]],
        "heads": found["heads"],
        "model_loss": found.get("model_loss"),
        "tokens": table.used,
    }


class _Renumbered:
    """A table of the texts that occur, by the numbers that another table has for them."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self._numbers: dict[int, int] = {}

    def all(self, tokens: Sequence[int]) -> list[int]:
        return [self._numbers.setdefault(token, len(self._numbers)) for token in tokens]

    @property
    def used(self) -> list[str]:
        return [self._texts[token] for token in self._numbers]


def _node(entry: Mapping[str, Any], table: _Renumbered) -> dict[str, Any]:
    """One node's entry with the tokens of its contexts renumbered."""
    contexts = {
        kind: [context | {"tokens": table.all(context["tokens"])} for context in entry[kind]] for kind in CONTEXTS
    }
    return dict(entry) | contexts
