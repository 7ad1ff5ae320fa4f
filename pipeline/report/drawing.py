"""A circuit as a small SVG, in the spirit of the paper's figures.

Rows are sites, the forward pass goes upwards; vertical lines are residual channels; edges are coloured by the sign of
their weight and drawn thicker the larger it is. Edges of one sign and strength share one <path>, so that a circuit of
thousands of edges stays small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.report.layout import RESIDUAL_SITES, TOP, WRITES, Layout, NodeId, lay_out
from pipeline.report.templating import render
from pipeline.sites import Site, split_edge_key, split_site_key

LEVELS = 4  # strengths that are told apart
SHORT = {Site.ATTN_Q: "q", Site.ATTN_K: "k", Site.ATTN_V: "v"}
LABEL_PITCH = 20  # pixels between nodes, from which their labels have room


@dataclass(frozen=True)
class Readout:
    """The end of the picture: two answer tokens, and what each final residual channel adds to first minus second."""

    answers: tuple[str, str]
    weights: Mapping[int, float]  # residual channel → difference of the two unembedding rows


def edge_weights(circuit: Circuit, state: Mapping[str, Tensor]) -> dict[str, Float[Tensor, " n_edges"]]:
    """Edge key → the weights of the circuit's edges, in their order, from a checkpoint's state dict."""
    weights = {}
    for key, ends in circuit.edges.items():
        layer, kind = split_edge_key(key)
        matrix = state[f"transformer.h.{layer}.{kind.weight}.weight"]
        matrix = matrix[kind.rows(len(matrix))]
        weights[key] = matrix[ends[:, 1], ends[:, 0]]
    return weights


def readout_weights(circuit: Circuit, state: Mapping[str, Tensor], answers: tuple[int, int]) -> dict[int, float]:
    """Written residual channel → what it adds to the first answer's logit minus the second's, per normalised unit."""
    first, second = (state["lm_head.weight"][token] for token in answers)
    towards = ((first - second) * state["transformer.ln_f.weight"]).tolist()
    written = {
        int(index) for key, indices in circuit.nodes.items() if split_site_key(key)[1] in WRITES for index in indices
    }
    return {channel: towards[channel] for channel in sorted(written) if towards[channel] != 0}


def draw_circuit(
    circuit: Circuit,
    weights: Mapping[str, Float[Tensor, " n_edges"]],
    *,
    title: str,
    readout: Readout | None = None,
    standalone: bool = False,
) -> str:
    """SVG text of the circuit: a <circle> per node, and a curve per edge in at most 2 · LEVELS paths.

    ``weights`` are those of ``edge_weights``. ``standalone`` adds what a file of its own needs: namespace and style.
    """
    layout = lay_out(circuit)
    return render(
        "circuit.svg.j2",
        layout=layout,
        title=title,
        standalone=standalone,
        paths=_edge_paths(circuit, weights, layout),
        residual=_residual_path(layout),
        readout=_readout(layout, readout),
        nodes=[_node(node, spot, layout) for node, spot in layout.spots.items()],
        top=TOP,
    )


def _edge_paths(circuit: Circuit, weights: Mapping[str, Tensor], layout: Layout) -> list[dict[str, Any]]:
    """One path per sign and strength; strength is the weight's share of the largest in its kind of edge."""
    buckets: dict[tuple[str, int], list[str]] = {}
    for key, ends in circuit.edges.items():
        layer, kind = split_edge_key(key)
        largest = max((float(weight.abs().max()) for other, weight in weights.items() if _same(other, key)), default=0)
        start, end = f"{layer}.{kind.source.value}", f"{layer}.{kind.target.value}"
        for (source, target), weight in zip(ends.tolist(), weights[key].tolist(), strict=True):
            level = min(int(LEVELS * abs(weight) / largest), LEVELS - 1) if largest else 0
            curve = _curve(layout.spots[start, source], layout.spots[end, target])
            buckets.setdefault(("n" if weight < 0 else "p", level), []).append(curve)
    return [{"sign": sign, "level": level, "d": "".join(buckets[sign, level])} for sign, level in sorted(buckets)]


def _same(key: str, other: str) -> bool:
    """Whether two edge keys with edges are of one kind, in whatever layers."""
    return key.partition(".")[2] == other.partition(".")[2]


def _curve(start: tuple[float, float], end: tuple[float, float]) -> str:
    x, y = round(start[0]), round(start[1])
    dx, dy = round(end[0]) - x, round(end[1]) - y
    return f"M{x} {y}c0 {dy // 2} {dx} {dy - dy // 2} {dx} {dy}".replace(" -", "-")


def _residual_path(layout: Layout) -> str:
    """The vertical lines: each channel from its first to its last kept node."""
    heights: dict[int, list[float]] = {}
    for (key, index), (_, y) in layout.spots.items():
        if split_site_key(key)[1] in RESIDUAL_SITES:
            heights.setdefault(index, []).append(y)
    spans = [(layout.channels[channel], min(ys), max(ys)) for channel, ys in heights.items()]
    return "".join(f"M{round(x)} {round(low)}V{round(high)}" for x, low, high in spans if high > low)


def _readout(layout: Layout, readout: Readout | None) -> dict[str, Any] | None:
    """Lines from the last write of each channel to the answers, thick where they weigh much."""
    if readout is None:
        return None
    x = layout.width / 2
    largest = max((abs(weight) for weight in readout.weights.values()), default=1.0)
    last = {
        index: min(y for (key, i), (_, y) in layout.spots.items() if i == index and split_site_key(key)[1] in WRITES)
        for index in readout.weights
    }
    lines = [
        {
            "sign": "n" if weight < 0 else "p",
            "level": min(int(LEVELS * abs(weight) / largest), LEVELS - 1),
            "d": f"M{round(layout.channels[index])} {round(last[index])}V{TOP + 18}L{round(x)} {TOP - 18}",
        }
        for index, weight in readout.weights.items()
    ]
    return {"x": round(x), "y": TOP - 26, "first": readout.answers[0], "second": readout.answers[1], "lines": lines}


def _node(node: NodeId, spot: tuple[float, float], layout: Layout) -> dict[str, Any]:
    key, index = node
    site = split_site_key(key)[1]
    kind = "res" if site in RESIDUAL_SITES else SHORT.get(site, "mlp")
    label = f"{SHORT.get(site, '')}{index}" if layout.pitch >= LABEL_PITCH else ""
    return {"x": round(spot[0]), "y": round(spot[1]), "kind": kind, "label": label, "name": f"{key}.{index}"}
