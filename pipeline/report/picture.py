"""The picture of a circuit as plain numbers: the layout, weights, biases, and the tokens at both ends.

The static SVG (``pipeline.report.drawing``), the page of a circuit (web/drawing.js) and ``sparse-circuits play`` draw
the same picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.graph import Node
from pipeline.circuit.interventions import edge_weights
from pipeline.data.pairs import PairBatch
from pipeline.model.transformer import Transformer
from pipeline.report.layout import GraphLayout, edge_ends, lay_out
from pipeline.sites import EDGE_KINDS, Site, site_key, split_site_key

END_TOKENS = 3  # at each end of a residual channel
EXAMPLE_PROMPTS = 4  # whose tokens come first at the embedding end
DIGITS = 3

Picture = dict[str, Any]


def picture_of(circuit: Circuit, model: Transformer, batch: PairBatch | None, texts: Sequence[str]) -> Picture:
    """The picture of a circuit, as JSON: columns of nodes and edges, places in whole pixels, 3 significant digits.

    ``batch``: pairs of the circuit's task, whose tokens and answers stand at the ends (None: any tokens); ``texts``:
    the text of every token of the vocabulary. ``nodes`` are in forward order; edges, links and ends refer to them by
    number. ``links`` are pairs of a query and a key channel that a head multiplies with each other. ``streams``:
    channel, x, upmost and lowest y of each residual line. ``inputs`` and ``outputs``: channel, x, y and the tokens or
    the weight at that end.
    """
    state = model.state_dict()
    layout = lay_out(circuit, model.config.d_head)
    number = {node: n for n, node in enumerate(layout.spots)}
    tokens = TokenTable(texts)
    return {
        "d_head": model.config.d_head,
        "width": layout.width,
        "height": layout.height,
        "pitch": round(layout.pitch, 1),
        "rows": [[row.layer, row.label, row.y] for row in layout.rows],
        "sites": list(circuit.nodes),
        "nodes": _nodes(circuit, state, layout),
        "edges": _edges(circuit, model, number),
        "heads": list(_heads(state, layout)),
        "links": list(_links(number)),
        "streams": _streams(layout),
        "inputs": list(_inputs(state, layout, batch, tokens)),
        "outputs": _outputs(circuit, state, layout, batch, tokens),
        "tokens": tokens.used,
    }


class TokenTable:
    """Texts of the tokens that occur, by a number of their own."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self._numbers: dict[int, int] = {}

    def __call__(self, token: int) -> int:
        return self._numbers.setdefault(token, len(self._numbers))

    @property
    def used(self) -> list[str]:
        return [self._texts[token] for token in self._numbers]


def rounded(value: float, digits: int = DIGITS) -> float:
    """``value`` with so many significant digits."""
    return float(f"{value:.{digits}g}")


def weights_of(circuit: Circuit, model: Transformer) -> list[float]:
    """The weights of the circuit's edges, in the order of its ``edge_names``."""
    found = (edge_weights(model, key)[ends[:, 1], ends[:, 0]] for key, ends in circuit.edges.items())
    return [weight for weights in found for weight in weights.tolist()]


def biases(state: Mapping[str, Tensor], n_layer: int) -> dict[str, Float[Tensor, " _width"]]:
    """Site key → the biases of its nodes; sites that read the residual stream have none."""
    found = {}
    for layer in range(n_layer):
        for kind in EDGE_KINDS:
            bias = state[f"transformer.h.{layer}.{kind.weight}.bias"]
            found[site_key(layer, kind.target)] = bias[kind.rows(len(bias))]
    return found


def readout_weights(circuit: Circuit, state: Mapping[str, Tensor], answers: tuple[int, int]) -> dict[int, float]:
    """Written residual channel → its weight on the first answer's logit minus the second's, per normalised unit."""
    first, second = (state["lm_head.weight"][token] for token in answers)
    towards = ((first - second) * state["transformer.ln_f.weight"]).tolist()
    writes = [indices for key, indices in circuit.nodes.items() if split_site_key(key)[1].writes_residual]
    written = {channel for indices in writes for channel in indices.tolist()}
    return {channel: towards[channel] for channel in sorted(written) if towards[channel] != 0}


def two_answers(batch: PairBatch | None) -> tuple[int, int] | None:
    """The two answers, right one of the first prompt first, where all pairs have the same two."""
    if batch is None:
        return None
    first, second = batch.answers[0].tolist()
    same = {tuple(row) for row in batch.answers.tolist()} <= {(first, second), (second, first)}
    return (first, second) if same else None


def _nodes(circuit: Circuit, state: Mapping[str, Tensor], layout: GraphLayout) -> dict[str, list[Any]]:
    """Columns: number of the site, index, place, bias, ablation value; 0 where there is no bias or ablation value."""
    sites, nodes = list(circuit.nodes), list(layout.spots)
    bias = biases(state, 1 + max((row.layer for row in layout.rows), default=-1))

    def at(values: Mapping[str, Tensor]) -> list[float]:
        return [rounded(float(values[key][index])) if key in values else 0 for key, index in nodes]

    return {
        "site": [sites.index(key) for key, _ in nodes],
        "index": [index for _, index in nodes],
        "x": [round(x) for x, _ in layout.spots.values()],
        "y": [round(y) for _, y in layout.spots.values()],
        "bias": at(bias),
        "ablated_to": at(circuit.constant_ablation.first),
    }


def _edges(circuit: Circuit, model: Transformer, number: Mapping[Node, int]) -> dict[str, list[Any]]:
    """Columns: numbers of the source and the target, weight."""
    ends = edge_ends(circuit)
    return {
        "source": [number[source] for source, _ in ends],
        "target": [number[target] for _, target in ends],
        "weight": [rounded(weight) for weight in weights_of(circuit, model)],
    }


def _heads(state: Mapping[str, Tensor], layout: GraphLayout) -> Iterator[list[Any]]:
    """Layer, head, left, right, y, and the logit of the head's sink (null: it has none)."""
    for box in layout.heads:
        sinks = state.get(f"transformer.h.{box.layer}.attn.sink_logit")
        sink = None if sinks is None else rounded(float(sinks[box.head]))
        yield [box.layer, box.head, round(box.left), round(box.right), box.y, sink]


def _links(number: Mapping[Node, int]) -> Iterator[list[int]]:
    """[query channel, key channel] of a head that are multiplied with each other: those of one index."""
    for (key, index), n in number.items():
        layer, site = split_site_key(key)
        other = number.get((site_key(layer, Site.ATTN_K), index))
        if site is Site.ATTN_Q and other is not None:
            yield [n, other]


def _streams(layout: GraphLayout) -> list[list[int]]:
    """Channel, x, lowest and highest y (as on the screen: upmost first) of its nodes."""
    return [
        [channel, round(layout.channels[channel]), round(min(ys)), round(max(ys))]
        for channel, ys in sorted(_heights(layout, lambda site: site.reads_residual or site.writes_residual).items())
    ]


def _heights(layout: GraphLayout, among: Callable[[Site], bool]) -> dict[int, list[float]]:
    """Residual channel → y of its nodes at the given sites."""
    heights: dict[int, list[float]] = {}
    for (key, index), (_, y) in layout.spots.items():
        if among(split_site_key(key)[1]):
            heights.setdefault(index, []).append(y)
    return heights


def _inputs(
    state: Mapping[str, Tensor], layout: GraphLayout, batch: PairBatch | None, tokens: TokenTable
) -> Iterator[list[Any]]:
    """The embedding end: of each channel that is read, the tokens with its largest entries, the prompts' own first."""
    embedding = state["transformer.wte.weight"]
    shown = torch.zeros(len(embedding), dtype=torch.bool)
    if batch is not None:
        for row, last in list(zip(batch.tokens, batch.last, strict=True))[:EXAMPLE_PROMPTS]:
            shown[row[: last + 1]] = True
    for channel, ys in sorted(_heights(layout, lambda site: site.reads_residual).items()):
        beside = channel >= embedding.shape[1]  # a position that is read beside the residual stream
        entries = [] if beside else _largest(embedding[:, channel], shown)
        found = [[tokens(token), rounded(value)] for token, value in entries]
        yield [channel, round(layout.channels[channel]), round(max(ys)), found]


def _largest(values: Float[Tensor, " vocab"], first: Tensor | None = None) -> list[tuple[int, float]]:
    """Up to END_TOKENS (token, value), largest size first; tokens that ``first`` marks before the others; no zeros."""
    size = values.abs()
    rank = size if first is None else torch.where(first & (size > 0), size + size.max(), size)
    order = rank.argsort(descending=True, stable=True)[:END_TOKENS].tolist()
    return [(token, float(values[token])) for token in order if values[token] != 0]


def _outputs(
    circuit: Circuit, state: Mapping[str, Tensor], layout: GraphLayout, batch: PairBatch | None, tokens: TokenTable
) -> dict[str, Any]:
    """The unembedding end: of each channel that is written, its weight on the first answer's logit minus the
    second's; where the answers differ from pair to pair, the tokens whose logits it moves most, as [token, value]."""
    answers = two_answers(batch)
    weights = readout_weights(circuit, state, answers) if answers else {}
    ends: list[list[Any]] = []
    for channel, ys in sorted(_heights(layout, lambda site: site.writes_residual).items()):
        place = [channel, round(layout.channels[channel]), round(min(ys))]
        if answers:
            ends += [[*place, rounded(weights[channel])]] if channel in weights else []
        else:
            moved = state["lm_head.weight"][:, channel] * state["transformer.ln_f.weight"][channel]
            ends.append([*place, [[tokens(token), rounded(value)] for token, value in _largest(moved)]])
    return {"answers": [tokens(token) for token in answers] if answers else None, "ends": ends}
