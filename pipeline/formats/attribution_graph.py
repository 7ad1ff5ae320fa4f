"""A circuit on one prompt as an attribution graph, in the JSON that circuit-tracer's and Neuronpedia's viewers read.

Attention patterns and the scales of norms are frozen at what they are in the circuit's run; a link then has the direct
effect of its source's value on its target, before the target's nonlinearity. Queries and keys have no such effect and
are left out, and so are ablated nodes and biases, which are constants (docs/formats.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.artifacts import write_json
from pipeline.circuit import Circuit
from pipeline.circuit.graph import half_of
from pipeline.circuit.heads import attention_patterns
from pipeline.circuit.interventions import edge_weights
from pipeline.circuit.masked import Masked
from pipeline.formats.errors import refuse
from pipeline.model.norm import RMSNorm
from pipeline.model.record import record
from pipeline.model.transformer import Transformer
from pipeline.sites import EDGE_KINDS, EdgeKind, Site, edge_key, residual_names, site_key, split_site_key

ROWS = tuple(site for site in Site if site.partner is None)  # a layer's rows in a picture: sites but queries and keys
SHOWN = 2  # likeliest next tokens

Vertex = tuple[str, int, int]  # site key (or EMBEDDING, LOGIT), index (or token), position
EMBEDDING, LOGIT = "E", "L"


@dataclass(frozen=True)
class Link:
    """The direct effect of a source on a target, both at their positions."""

    source: Vertex
    target: Vertex
    weight: float


class Attribution:
    """The values of a circuit's run on one prompt, and all direct effects between its nodes."""

    def __init__(self, circuit: Circuit, model: Transformer, tokens: Int[Tensor, " pos"]) -> None:
        circuit.check_model(model)
        has = {"LayerNorm": model.config.norm != "rms", "a nonlinear residual stream": not model.config.adds_up}
        refuse(
            "attribution graph", (name for name, there in has.items() if there), "this model's effects do not add up"
        )
        self.circuit, self.model, self.tokens = circuit, model, tokens.to(model.device)
        masked = Masked(model, circuit.nodes, circuit.edges, circuit.constant_ablation.first)
        with torch.no_grad():
            logits, values = record(model, self.tokens[None], masked.intervene, masked.cuts, residual=True)
        self.values = {key: value[0].double() for key, value in values.items()}
        self.probabilities = logits[0, -1].double().softmax(-1)

    @cached_property
    def answers(self) -> list[int]:
        """The likeliest next tokens of the circuit."""
        return self.probabilities.topk(SHOWN).indices.tolist()

    def links(self) -> Iterator[Link]:
        """All direct effects that are not zero."""
        layers = range(self.model.config.n_layer)
        for layer in layers:
            for kind in EDGE_KINDS:
                yield from self._along(layer, kind)
            yield from self._into(site_key(layer, Site.ATTN_IN), self._norm(layer, "ln_1"), f"{layer}.resid_pre")
            yield from self._into(site_key(layer, Site.MLP_IN), self._norm(layer, "ln_2"), f"{layer}.resid_mid")
        yield from self._out()

    def _norm(self, layer: int, name: str) -> RMSNorm:
        return getattr(self.model.transformer["h"][layer], name)

    def _along(self, layer: int, kind: EdgeKind) -> Iterator[Link]:
        """Effects along edges: of a value at its own position, or behind attention at all later ones."""
        source, target = site_key(layer, kind.source), site_key(layer, kind.target)
        weights = edge_weights(self.model, edge_key(layer, kind)).double()
        if kind.target.partner is not None:
            return
        for i, j in self.circuit.edges.get(edge_key(layer, kind), torch.zeros(0, 2, dtype=torch.long)).tolist():
            effect = weights[j, i] * self.values[source][:, i]
            if kind.source is not Site.ATTN_V:
                yield from _nonzero((source, i), (target, j), torch.diag(effect))
            else:
                pattern = self._pattern(layer)[i // self.model.config.d_head]
                yield from _nonzero((source, i), (target, j), pattern * effect)

    def _pattern(self, layer: int) -> Float[Tensor, "head query key"]:
        q, k = (self.values[site_key(layer, site)][None] for site in (Site.ATTN_Q, Site.ATTN_K))
        sink = self.model.transformer["h"][layer].attn.sink_logit
        pattern = attention_patterns(q, k, sink, self.model.config.n_head)[0]
        return pattern if sink is None else pattern[..., 1:]

    def _into(self, target: str, norm: RMSNorm, place: str) -> Iterator[Link]:
        """Effects of embeddings and of earlier writes on the reads of a half layer, where those are not zero."""
        channels = self.circuit.nodes.get(target, torch.zeros(0, dtype=torch.long)).tolist()
        factor = norm.scale(self.values[place]) * norm.weight.double()  # [pos, d_model]
        for c in channels:
            if c >= self.model.config.d_model:
                continue  # a position, read beside the residual stream
            passed = (self.values[target][:, c] != 0) * factor[:, c]  # AbsTopK lets a value through or not
            for source, value in self._written(c, target):
                yield from _nonzero(source, (target, c), torch.diag(passed * value))

    def _written(self, channel: int, before: str | None) -> Iterator[tuple[tuple[str, int], Float[Tensor, " pos"]]]:
        """What is added to a channel of the residual stream before a site: the embedding, and the circuit's writes."""
        yield (EMBEDDING, -1), self._embedded[:, channel]
        for key, indices in self.circuit.nodes.items():
            if before is not None and half_of(key) >= half_of(before):
                continue
            if split_site_key(key)[1].writes_residual and bool((indices == channel).any()):
                yield (key, channel), self.values[key][:, channel]

    @cached_property
    def _embedded(self) -> Float[Tensor, "pos d_model"]:
        embedding = self.model.transformer["wte"].weight[self.tokens].double()
        if self.model.config.positions:
            embedding = embedding + self.model.transformer["wpe"].weight[: len(self.tokens)].double()
        return embedding.detach()

    def _out(self) -> Iterator[Link]:
        """Effects of embeddings and writes on the logits of the likeliest tokens, at the prompt's end."""
        place, last = residual_names(self.model.config.n_layer)[-1], len(self.tokens) - 1
        norm: RMSNorm = self.model.transformer["ln_f"]
        factor = (norm.scale(self.values[place]) * norm.weight.double())[last]
        head = self.model.lm_head.weight.double()
        for token in self.answers:
            direct = factor * head[token]
            total = float((direct * self._embedded[last]).sum().detach())
            yield Link((EMBEDDING, int(self.tokens[last]), last), (LOGIT, token, last), total)
            for key, indices in self.circuit.nodes.items():
                if split_site_key(key)[1].writes_residual:
                    for c in indices.tolist():
                        weight = float((direct[c] * self.values[key][last, c]).detach())
                        if weight:
                            yield Link((key, c, last), (LOGIT, token, last), weight)


def _nonzero(source: tuple[str, int], target: tuple[str, int], effect: Float[Tensor, "query key"]) -> Iterator[Link]:
    for query, key in effect.detach().nonzero().tolist():
        yield Link((*source, key), (*target, query), float(effect[query, key]))


def leading_to_logits(links: Sequence[Link]) -> list[Link]:
    """The links on a path to a logit."""
    into: dict[Vertex, list[Link]] = {}
    for link in links:
        into.setdefault(link.target, []).append(link)
    ahead, seen = [vertex for vertex in into if vertex[0] == LOGIT], set[Vertex]()
    while ahead:
        vertex = ahead.pop()
        if vertex not in seen:
            seen.add(vertex)
            ahead += [link.source for link in into.get(vertex, ())]
    return [link for link in links if link.target in seen]


def attribution_graph(
    circuit: Circuit, model: Transformer, tokens: Int[Tensor, " pos"], texts: Sequence[str], slug: str
) -> dict[str, Any]:
    """The attribution graph of a circuit on a prompt. ``texts``: what each token of the vocabulary says."""
    found = Attribution(circuit, model, tokens)
    ids = [int(token) for token in tokens]
    links = leading_to_logits([_at_tokens(link, ids) for link in found.links()])
    vertices = dict.fromkeys(vertex for link in links for vertex in (link.source, link.target))
    n_rows = model.config.n_layer * len(ROWS)
    nodes = [_node(vertex, found, texts, n_rows) for vertex in vertices]
    return {
        "metadata": {
            "slug": slug,
            "scan": str(circuit.about.get("model", "model")),
            "transcoder_list": [],
            "prompt_tokens": [texts[token] for token in ids],
            "prompt": "".join(texts[token] for token in ids),
            "node_threshold": None,
            "schema_version": 1,
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": nodes,
        "links": [
            {"source": _id(link.source, n_rows), "target": _id(link.target, n_rows), "weight": link.weight}
            for link in links
        ],
    }


def _at_tokens(link: Link, ids: Sequence[int]) -> Link:
    """The link with an embedding's token as its index."""
    key, _, position = link.source
    return Link((key, ids[position], position), link.target, link.weight) if key == EMBEDDING else link


def _row(key: str, n_rows: int) -> str:
    if key in (EMBEDDING, LOGIT):
        return key if key == EMBEDDING else str(n_rows + 1)
    layer, site = split_site_key(key)
    return str(layer * len(ROWS) + ROWS.index(site))


def _id(vertex: Vertex, n_rows: int) -> str:
    return f"{_row(vertex[0], n_rows)}_{vertex[1]}_{vertex[2]}"


def _node(vertex: Vertex, found: Attribution, texts: Sequence[str], n_rows: int) -> dict[str, Any]:
    """A node as the viewers want it; a feature's number pairs its row and its index in one."""
    key, index, position = vertex
    row = _row(key, n_rows)
    node: dict[str, Any] = {"node_id": _id(vertex, n_rows), "layer": row, "ctx_idx": position, "run_idx": 0}
    node |= {"reverse_ctx_idx": 0, "token_prob": 0.0, "is_target_logit": False, "influence": None, "activation": None}
    if key == EMBEDDING:
        return node | {
            "feature": position,
            "feature_type": "embedding",
            "jsNodeId": f"E_{index}-{position}",
            "clerp": "",
        }
    if key == LOGIT:
        probability = float(found.probabilities[index])
        said = f'Output "{texts[index]}" (p={probability:.3f})'
        node |= {"feature": index, "feature_type": "logit", "jsNodeId": f"L_{index}-{position}", "clerp": said}
        return node | {"token_prob": probability, "is_target_logit": index == found.answers[0]}
    both = int(row) + index
    node |= {"feature": both * (both + 1) // 2 + index, "feature_type": "cross layer transcoder"}
    node |= {"jsNodeId": f"{row}_{index}-0", "clerp": f"{key}.{index}"}
    return node | {"activation": float(found.values[key][position, index])}


def write_attribution_graph(path: Path, graph: Mapping[str, Any]) -> None:
    """Write ``attribution_graph`` as a file for the viewers."""
    write_json(path, graph, compact=True)
