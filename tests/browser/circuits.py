"""An invented circuit with an explanation, and the page of it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from pipeline.circuit import Circuit
from pipeline.data.pairs import PairBatch
from pipeline.model.transformer import Transformer
from pipeline.report.bundle import circuit_bundle
from pipeline.report.picture import picture_of

NODES = {"0.attn_in": [2, 5], "0.attn_q": [5], "0.attn_k": [5, 6], "0.attn_v": [7], "0.attn_out": [5],
         "0.mlp_in": [5], "0.mlp_neuron": [9], "0.mlp_out": [3]}  # fmt: skip
EDGES = {"0.attn_in->attn_q": [[5, 5]], "0.attn_in->attn_k": [[2, 5], [5, 6]], "0.attn_in->attn_v": [[2, 7]],
         "0.attn_v->attn_out": [[7, 5]], "0.mlp_in->mlp_neuron": [[5, 9]],
         "0.mlp_neuron->mlp_out": [[9, 3]]}  # fmt: skip
NAMES = [f"{key}.{index}" for key, indices in NODES.items() for index in indices]
TEXTS = [f"t{token}" for token in range(24)]
TEXTS[1:3] = ["]\n", "<b>\n"]
# the edges in order: two into the query's head's keys, …; the value's way is the one that decides
FLOW = {
    "carried": [0, 0.5, -0.25, 2.0, 4.0, -1.5, 0.125],
    "paths": [["0.attn_in.2", "0.attn_v.7", "0.attn_out.5"]],
    "order": [3, 4, 5, 6, 1, 2, 0],
    "sizes": [[7, 0.25], [4, 0.375], [2, 0.625]],
    "size_pairs": 16,
    "pushes": {"0.attn_out.5": -2.0, "0.mlp_out.3": 0.5},
}
BATCH = PairBatch(torch.tensor([[5, 6, 7], [5, 8, 7]]), torch.tensor([2, 2]), torch.tensor([[1, 2], [2, 1]]))
PROMPTS = [["def", " f", "(\n"], ["def", " <i>g</i>", "(\n"]]  # code that would be HTML, were it not text


def invented(model: Transformer, explained: bool = True) -> dict[str, Any]:
    """The bundle of a circuit of ten nodes and seven edges in a tiny model, with 0.125 as every node's mean; a larger
    one around it has a neuron and an edge more."""
    losses = {key: [0.5 + n / 10 for n in range(len(indices))] for key, indices in NODES.items()}
    certificate = {"loss": 0.25, "nodes": losses, "edges": {key: [0.375] * len(pairs) for key, pairs in EDGES.items()}}
    row = {"n_nodes": 10, "n_edges": 7, "unpruned_loss": 0.0625, "solved": True}
    bundle = circuit_bundle(
        replace(circuit_of(NODES, EDGES), certificate=certificate),
        model,
        task="lists",
        model_row={"name": "tiny", "kind": "dense", "n_layer": 2, "d_model": 16, "l0": 9, "val_loss_nats": 3.0},
        row=row,
        batch=BATCH,
        texts=TEXTS,
        explanation=explanation() if explained else None,
    )
    more = circuit_of(NODES | {"0.mlp_neuron": [9, 11]}, EDGES | {"0.mlp_in->mlp_neuron": [[5, 9], [5, 11]]})
    larger = {"target_loss": 0.0625, "loss": 0.03125, "drawing": picture_of(more, model, BATCH, TEXTS)}
    return bundle | {"larger": [larger] if explained else []}


def circuit_of(nodes: Mapping[str, list[int]], edges: Mapping[str, list[list[int]]]) -> Circuit:
    """A circuit with 0.125 as every node's mean."""
    means = {key: torch.full((64,), 0.125) for key in nodes}
    kept = {key: torch.tensor(indices) for key, indices in nodes.items()}
    return Circuit(kept, {key: torch.tensor(pairs) for key, pairs in edges.items()}, means, {})


def explanation() -> dict[str, Any]:
    """In the model a node is n at the first token, at the others 0; in the circuit alone, the second prompt's is −n."""
    texts = [text for prompt in PROMPTS for text in prompt]
    prompts = [
        {"pair": 0, "side": side, "tokens": [3 * n, 3 * n + 1, 3 * n + 2], "answer": "]\n", "other": "<b>\n",
         "model": {"logit_difference": 4.5}, "circuit": {"logit_difference": -1.5, "loss": 1.75}}
        for n, side in enumerate("ab")
    ]  # fmt: skip
    values = {
        name: {"model": [[n, 0, 0], [n, 0, 0]], "circuit": [[n, 0, 0], [-n, 0, 0]], "removed_loss": 0.5,
               "ablated_loss": 0.75, "task_label": in_task(name)}
        for n, name in enumerate(NAMES, start=1)
    }  # fmt: skip
    pattern = [[0.75], [0.5, 0.25], [0.25, 0.25, 0.125]]
    head = {"layer": 0, "head": 1, "q": [5], "k": [5, 6], "v": [7]}
    head |= {"patterns": {"model": [pattern, pattern], "circuit": [pattern, pattern]}}
    circuit = {"prompts": prompts, "nodes": values, "heads": [head], **FLOW}
    return {
        "model": "tiny",
        "tokens": texts,
        "nodes": {name: over_code(name) for name in NAMES},
        "circuits": {"lists": circuit},
    }


def in_task(name: str) -> dict[str, Any]:
    """What a node does in the task; weak for every other one."""
    weak = NAMES.index(name) % 2 == 1
    text = f"{NAMES.index(name)} at `␣<i>` and 0 at `⏎`"
    label = {"text": text, "role": "embeds", "score": 0.625 if weak else 1, "measure": "AUC", "weak": weak}
    return label | {"short": f"word {NAMES.index(name)}"}


def over_code(name: str) -> dict[str, Any]:
    """A node's entry: label, histogram, contexts."""
    top, bottom = ({"tokens": [0, 1, 2], "values": [0.0, value, 1.0], "at": 1} for value in (8.5, -4.5))
    label = {
        "text": f"high at <{name}>",
        "score": 0.875,
        "measure": "R²",
        "weak": False,
        "others": [{"text": "depth", "score": 0.5}],
    }
    return {
        "mean": 0.125, "std": 1.0, "density": 0.25, "least": -4.5, "most": 8.5, "label": label,
        "histogram": {"low": -4.5, "high": 8.5, "counts": [5, 0, 40]}, "top": [top], "bottom": [bottom], "random": [],
    }  # fmt: skip


def large(n_edges: int, seed: int = 0) -> dict[str, Any]:
    """A bundle of that many edges in one layer, each kind of the same number, at random; every node has words, and what
    edges carry is random too."""
    draw, sites, size = (
        random.Random(seed),
        [key for key in NODES if key not in ("0.attn_q", "0.attn_k")],
        n_edges // 20,
    )
    spots = [(site, i) for site in range(len(sites)) for i in range(size)]
    kinds = [kind * size for kind in (0, 1, 3, 4) for _ in range(n_edges // 4)]
    numbers = [round(draw.gauss(0, 1), 3) for _ in kinds]
    rows, nothing = [[0, key, 536 - 68 * i] for i, key in enumerate(sites)], [0] * len(spots)
    drawing = {
        "d_head": 16, "width": 1800, "height": 680, "pitch": 1600 / size, "rows": rows, "sites": sites,
        "heads": [], "links": [], "streams": [], "inputs": [], "tokens": [], "outputs": {"answers": None, "ends": []},
        "nodes": {
            "site": [site for site, _ in spots], "index": [i for _, i in spots], "bias": nothing, "ablated_to": nothing,
            "x": [round(120 + i * 1600 / size) for _, i in spots], "y": [536 - 68 * site for site, _ in spots],
        },
        "edges": {
            "source": [first + draw.randrange(size) for first in kinds], "weight": numbers,
            "target": [first + size + draw.randrange(size) for first in kinds],
        },
    }  # fmt: skip
    explained: dict[str, Any] = {"nodes": [{"task_label": in_task(NAMES[0])}] * len(spots), "carried": numbers[::-1]}
    explained |= {"prompts": [], "heads": [], "tokens": [], "paths": [], "order": list(range(len(kinds))), "sizes": []}
    row = {"n_nodes": len(spots), "n_edges": len(kinds)}
    facts = {"model": "tiny", "task": "lists", "row": row, "certificate": None}
    return facts | {"drawing": drawing, "explanation": explained}
