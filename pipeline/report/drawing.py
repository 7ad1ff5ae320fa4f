"""A circuit as a small SVG, in the spirit of the paper's figures (Gao et al. 2025, Figs 3 to 5).

Rows are sites, the forward pass goes upwards; vertical lines are residual channels; edges are coloured by the sign of
their weight and drawn thicker the larger it is. With an explanation, what an edge carries on a pair is in place of its
weight, the paths that decide are bold, and nodes have words. Edges of one sign and strength share few <path>s, so that
a circuit of thousands of edges stays small; the two signs take turns, so that neither lies over the other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.report.bundle import node_names
from pipeline.report.picture import Picture
from pipeline.report.templating import render
from pipeline.sites import Site, split_site_key
from pipeline.whitespace import all_visible

LEVELS = 4  # strengths that are told apart
TURNS = 12  # of each strength: how often the two signs take turns in lying above
SHORT = {Site.ATTN_Q: "q", Site.ATTN_K: "k", Site.ATTN_V: "v", Site.MLP_NEURON: "mlp"}
LABEL_PITCH = 20  # pixels between nodes, from which their labels have room
TOKEN_PITCH = 9  # and those of the tokens at the ends, which stand upright
END_CHARS = 18  # of the tokens at an end together
ANSWER_Y = 22
WORD_PITCH = 13  # pixels between two slanted words of a row


def draw_circuit(picture: Picture, *, title: str, explanation: Mapping[str, Any] | None = None) -> str:
    """An SVG file's text of a picture: a <circle> per node, a curve per edge in at most 2 · LEVELS · TURNS paths, and
    one for each that is on a path that decides. ``explanation``: of the circuit's bundle, where there is one."""
    explanation = explanation or {}
    labelled, roomy = picture["pitch"] >= LABEL_PITCH, picture["pitch"] >= TOKEN_PITCH
    return render(
        "circuit.svg.j2",
        picture=picture,
        title=title,
        paths=_edge_paths(picture, explanation.get("carried"), decisive_edges(picture, explanation)),
        streams="".join(f"M{x} {top}V{bottom}" for _, x, top, bottom in picture["streams"] if bottom > top),
        links="".join(_links(picture)),
        ways="".join(_ways(picture, explanation)),
        nodes=list(_nodes(picture, labelled, _words(picture, explanation))),
        tight=not labelled,
        inputs=_inputs(picture) if roomy else [],
        outputs=_outputs(picture, roomy, explanation.get("pushes")),
    )


def node_kinds(picture: Picture) -> list[str]:
    """Each node's kind, which colours it: q, k, v, mlp, or res of the residual stream."""
    sites = [split_site_key(key)[1] for key in picture["sites"]]
    kinds = [SHORT.get(site, "res") for site in sites]
    return [kinds[site] for site in picture["nodes"]["site"]]


def _nodes(picture: Picture, labelled: bool, words: Mapping[int, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    nodes = picture["nodes"]
    columns = (nodes[column] for column in ("index", "x", "y", "bias"))
    for n, (name, kind, index, x, y, bias) in enumerate(
        zip(node_names(picture), node_kinds(picture), *columns, strict=True)
    ):
        label = f"{kind if kind in 'qkv' else ''}{index}" if labelled else ""
        sign = "" if not bias else "n" if bias < 0 else "p"
        found = {"name": name, "kind": kind, "x": x, "y": y, "label": label, "bias": bias, "sign": sign}
        yield found | {"word": unquoted(words.get(n, {}).get("short", "")), "weak": words.get(n, {}).get("weak", False)}


def unquoted(text: str) -> str:
    """Text in which tokens stand between back quotes, without these (web/elements.js: ``bare``)."""
    return re.sub(r"`([^`]+|`)`", r"\1", text)


def _words(picture: Picture, explanation: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """Number of a node → its label in the task, of those whose short form has room: of a path that decides first."""
    labels = {
        n: node["task_label"]
        for n, node in enumerate(explanation.get("nodes", ()))
        if node and node.get("task_label", {}).get("short")
    }
    decisive = {n for path in explanation.get("paths", ()) for n in path}
    xs, ys = picture["nodes"]["x"], picture["nodes"]["y"]
    taken: dict[int, list[int]] = {}
    for n in sorted(labels, key=lambda n: (n not in decisive, n)):
        row = taken.setdefault(ys[n], [])
        if all(abs(xs[n] - xs[other]) >= WORD_PITCH for other in row):
            row.append(n)
    return {n: labels[n] for row in taken.values() for n in row}


def path_steps(explanation: Mapping[str, Any]) -> set[tuple[int, int]]:
    """The steps of the paths that decide, as numbers of two nodes."""
    return {step for path in explanation.get("paths", ()) for step in zip(path, path[1:], strict=False)}


def decisive_edges(picture: Picture, explanation: Mapping[str, Any]) -> set[int]:
    """Numbers of the edges that are steps of a path that decides."""
    steps = path_steps(explanation)
    ends = zip(picture["edges"]["source"], picture["edges"]["target"], strict=True)
    return {e for e, step in enumerate(ends) if step in steps}


def strengths(picture: Picture, numbers: Sequence[float] | None = None) -> list[float]:
    """Of every edge, the share (0 to 1) of the largest in its kind of edge: of these numbers, or of its weight."""
    names = [key.partition(".")[2] for key in picture["sites"]]
    kinds = [names[picture["nodes"]["site"][target]] for target in picture["edges"]["target"]]
    sizes = [abs(number) for number in numbers or picture["edges"]["weight"]]
    largest: dict[str, float] = {}
    for kind, size in zip(kinds, sizes, strict=True):
        largest[kind] = max(largest.get(kind, 0), size)
    return [size / largest[kind] if largest[kind] else 0 for kind, size in zip(kinds, sizes, strict=True)]


def _edge_paths(picture: Picture, carried: Sequence[float] | None, decisive: set[int]) -> list[dict[str, Any]]:
    """Paths of edges of one sign and strength, the strongest last, so that they lie above; strength is of what the
    edge carries, or else of its weight. Those on a path that decides come last, each by itself."""
    nodes, edges = picture["nodes"], picture["edges"]
    numbers = carried or edges["weight"]
    strokes: dict[int, list[tuple[float, str, str]]] = {}
    bold: list[dict[str, Any]] = []
    columns = zip(strengths(picture, carried), edges["source"], edges["target"], numbers, strict=True)
    for e, (strength, source, target, number) in enumerate(columns):
        curve, sign = edge_curve(*(nodes[axis][end] for end in (source, target) for axis in "xy")), sign_of(number)
        if e in decisive:
            bold.append({"sign": sign, "level": _level(strength), "d": curve, "bold": True})
        else:
            strokes.setdefault(_level(strength), []).append((strength, sign, curve))
    faint = [path for level in sorted(strokes) for path in _by_turns(level, sorted(strokes[level]))]
    return [*faint, *bold]


def _by_turns(level: int, strokes: Sequence[tuple[float, str, str]]) -> Iterator[dict[str, Any]]:
    """Paths of (weight, sign, curve) of one strength: a TURNS-th of the edges after the other, first its edges of one
    sign, then of the other, in the next one the other way round."""
    size = math.ceil(len(strokes) / TURNS)
    for turn, start in enumerate(range(0, len(strokes), size)):
        for sign in ("n", "p") if turn % 2 else ("p", "n"):
            curves = [curve for _, own, curve in strokes[start : start + size] if own == sign]
            if curves:
                yield {"sign": sign, "level": level, "d": "".join(curves), "bold": False}


def sign_of(weight: float) -> str:
    """The class of a weight's colour."""
    return "n" if weight < 0 else "p"


def _level(strength: float) -> int:
    return min(int(LEVELS * strength), LEVELS - 1)


def edge_curve(x: int, y: int, to_x: int, to_y: int) -> str:
    """Path of an edge, upright at both ends."""
    dx, dy = to_x - x, to_y - y
    return f"M{x} {y}c0 {dy // 2} {dx} {dy - dy // 2} {dx} {dy}".replace(" -", "-")


def _ways(picture: Picture, explanation: Mapping[str, Any]) -> list[str]:
    """The steps of paths that decide which are no edges: along a residual channel, or from a query or key to a
    write."""
    edges = set(zip(picture["edges"]["source"], picture["edges"]["target"], strict=True))
    steps = path_steps(explanation) - edges
    x, y = picture["nodes"]["x"], picture["nodes"]["y"]
    return [edge_curve(x[a], y[a], x[b], y[b]) for a, b in sorted(steps)]


def _links(picture: Picture) -> Iterator[str]:
    """Arcs below the row, from a query channel to the key channel that it is multiplied with."""
    nodes = picture["nodes"]
    for query, key in picture["links"]:
        x, y, dx = nodes["x"][query], nodes["y"][query], nodes["x"][key] - nodes["x"][query]
        yield f"M{x} {y}q{dx // 2} {min(10 + abs(dx) // 4, 22)} {dx} 0"


def _written(picture: Picture, tokens: Sequence[Sequence[Any]]) -> str:
    """As many of the tokens as have room, at least one."""
    texts = [all_visible(picture["tokens"][token]) for token, _ in tokens]
    while len(texts) > 1 and len(" · ".join(texts)) > END_CHARS:
        texts.pop()
    return " · ".join(texts)


def _inputs(picture: Picture) -> list[dict[str, Any]]:
    """The tokens under each channel that is read."""
    bottom = picture["rows"][0][2] + 34 if picture["rows"] else 0
    return [
        {"x": x, "y": bottom, "d": f"M{x} {y}V{bottom - 6}", "text": _written(picture, tokens)}
        for _, x, y, tokens in picture["inputs"]
        if tokens
    ]


def _outputs(picture: Picture, roomy: bool, pushes: Sequence[float] | None) -> dict[str, Any] | None:
    """Lines from the last write of each channel to the two answers, thick where what its nodes push (or without that
    its weight) is large, or its tokens."""
    outputs = picture["outputs"]
    if not outputs["ends"]:
        return None
    top = picture["rows"][-1][2] - 34
    if outputs["answers"] is None:
        texts = [{"x": x, "y": top, "text": _written(picture, tokens)} for _, x, _, tokens in outputs["ends"] if tokens]
        line = {"sign": "", "level": 0, "d": "".join(f"M{x} {y}V{top + 6}" for _, x, y, _ in outputs["ends"])}
        return {"answers": None, "lines": [line], "texts": texts if roomy else []}
    middle = picture["width"] // 2
    answers = [all_visible(picture["tokens"][token]) for token in outputs["answers"]]
    lines = list(_readout_lines(pushed_ends(picture, pushes), top, middle))
    return {"answers": answers, "x": middle, "y": ANSWER_Y, "lines": lines, "texts": []}


def pushed_ends(picture: Picture, pushes: Sequence[float] | None) -> list[list[Any]]:
    """The ends of channels that are written, with what their nodes push in place of their weight, where that is
    known."""
    ends: list[list[Any]] = picture["outputs"]["ends"]
    if pushes is None:
        return ends
    index = picture["nodes"]["index"]
    return [[c, x, y, sum(push for n, push in enumerate(pushes) if index[n] == c)] for c, x, y, _ in ends]


def _readout_lines(ends: Sequence[Sequence[Any]], top: int, middle: int) -> Iterator[Mapping[str, Any]]:
    largest = max(abs(weight) for *_, weight in ends)
    for _, x, y, weight in ends:
        path = f"M{x} {y}V{top}L{middle} {ANSWER_Y + 8}"
        strength = abs(weight) / largest if largest else 0
        yield {"sign": sign_of(weight), "level": _level(strength), "d": path}
