"""All that the page of one circuit needs, as one JSON value: the picture, its nodes' explanations, and its sizes.

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
from pipeline.report.picture import Picture, TokenTable, picture_of, rounded
from pipeline.rows import Explanation

MODEL_FIELDS = ("name", "kind", "n_layer", "d_model", "l0", "val_loss_nats")
ROW_FIELDS = (
    "n_nodes",
    "n_edges",
    "solved",
    "unpruned_loss",
    "validation_loss",
    "circuit_loss",
    "ablated_nodes_loss",
    "curve",
)
CORE_FROM = 30  # nodes of a circuit from which the paths that decide in it are also drawn alone
CONTEXTS = ("top", "bottom", "random")
FLOW = ("carried", "order", "sizes", "size_pairs")  # of the edges, as the explanation has them; nodes are renumbered


def circuit_bundle(
    circuit: Circuit,
    model: Transformer,
    *,
    task: str,
    model_row: Mapping[str, Any],
    row: Mapping[str, Any],
    batch: PairBatch | None,
    texts: Sequence[str],
    explanation: Explanation | None,
) -> dict[str, Any]:
    """The bundle of one circuit page.

    ``model_row`` and ``row``: the summary's entries of the model and of its task, of which a few fields are kept;
    ``batch``: the task's test pairs (None: not known); ``texts``: ``token_texts(tokenizer)``; ``explanation``: the
    contents of explanations/<model>.json (None: the page says that there is none). Raises KeyError where the
    explanation is of another circuit.
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
        "core": core_of(circuit, model, batch, texts, paths_of(explanation, task)),
        "larger": larger_of(circuit, model, batch, texts, of_task(explanation, task)),
        "explanation": explained(picture, explanation, task),
    }


def paths_of(explanation: Explanation | None, task: str) -> list[list[str]]:
    """The paths that decide in a circuit, as node names; none without an explanation."""
    return list((of_task(explanation, task) or {}).get("paths", ()))


def of_task(explanation: Explanation | None, task: str) -> Mapping[str, Any] | None:
    """What a model's explanation says of one circuit; None where it says nothing."""
    return explanation["circuits"].get(task) if explanation else None


def core_of(
    circuit: Circuit, model: Transformer, batch: PairBatch | None, texts: Sequence[str], paths: Sequence[Sequence[str]]
) -> Picture | None:
    """The picture of the nodes on some paths alone and of the edges between them; None for a small circuit, and where
    there are no paths."""
    names = {name for path in paths for name in path}
    if circuit.n_nodes < CORE_FROM or not names:
        return None
    edges = [edge for edge in circuit.edge_names if names.issuperset(edge.split("->"))]
    return picture_of(circuit.of_names(names, edges), model, batch, texts)


def larger_of(
    circuit: Circuit, model: Transformer, batch: PairBatch | None, texts: Sequence[str], told: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """The larger circuits around one (``pipeline.explain.larger_circuits``), the smallest first: ``target_loss``,
    ``loss`` in nats, ``drawing``; ``told``: what the explanation says of the circuit."""
    found = told.get("larger") if told else None
    if found is None:
        return []
    circuits = [(size, circuit.with_nodes(model, *found["nodes"][: size["n_added"]])) for size in found["sizes"]]
    return [
        {"target_loss": size["target_loss"], "loss": size["loss"], "drawing": picture_of(more, model, batch, texts)}
        for size, more in circuits
    ]


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


def explained(picture: Mapping[str, Any], explanation: Explanation | None, task: str) -> dict[str, Any] | None:
    """The part of a model's explanation that is about one circuit, nodes in the picture's order; None without one.

    ``nodes``: as in the explanation, and ``model``, ``circuit``, ``removed_loss`` and ``ablated_loss`` of the task;
    None for those of a large circuit that explain leaves out.
    """
    found = of_task(explanation, task)
    if explanation is None or found is None:
        return None
    table = TokenTable(explanation["tokens"])
    return {
        "nodes": [
            _node(explanation["nodes"][name], table) | found["nodes"][name] if name in found["nodes"] else None
            for name in node_names(picture)
        ],
        "prompts": [_renumbered(prompt, table) for prompt in found["prompts"]],
        "heads": found["heads"],
        "model_loss": found.get("model_loss"),
        "story": found.get("story"),
        **flow_part(picture, found),
        "tokens": table.used,
    }


def flow_part(picture: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """What an explanation says of a circuit's edges, in the picture's order of edges; ``paths``: numbers of nodes;
    ``pushes``: of each node, 0 where it writes nothing into the answer."""
    number = {name: n for n, name in enumerate(node_names(picture))}
    paths = [[number[name] for name in path] for path in found.get("paths", ())]
    pushes = {"pushes": [found["pushes"].get(name, 0) for name in number]} if "pushes" in found else {}
    return {"paths": paths} | pushes | {key: found[key] for key in FLOW if key in found}


def _node(entry: Mapping[str, Any], table: TokenTable) -> dict[str, Any]:
    """One node's entry with the tokens of its contexts renumbered."""
    return dict(entry) | {kind: [_renumbered(context, table) for context in entry[kind]] for kind in CONTEXTS}


def _renumbered(row: Mapping[str, Any], table: TokenTable) -> dict[str, Any]:
    return dict(row) | {"tokens": [table(token) for token in row["tokens"]]}


def common_part(explanation: Explanation) -> dict[str, Any]:
    """The part of a model's explanation that stands in the study's page once for all circuits of the model."""
    return {"tokens": explanation["tokens"], "nodes": explanation["nodes"]}


def own_part(bundle: Mapping[str, Any], explanation: Explanation | None) -> dict[str, Any]:
    """A bundle made without explanation, with the rest of the model's explanation that is about its task alone.

    Tokens keep the numbers of the model's table; web/app.js puts ``common_part`` and ``own_part`` together.
    """
    found = of_task(explanation, bundle["task"])
    if found is None:
        return dict(bundle)
    nodes = [found["nodes"].get(name) for name in node_names(bundle["drawing"])]
    facts = {key: found.get(key) for key in ("prompts", "heads", "model_loss", "story")}
    return dict(bundle) | {"explanation": {"nodes": nodes, **facts, **flow_part(bundle["drawing"], found)}}
