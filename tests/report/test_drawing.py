"""A drawing shows exactly the nodes and edges of its circuit, where they belong, and what stands at both ends."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
import torch

from pipeline.circuit import Circuit
from pipeline.data.pairs import PairBatch
from pipeline.model.transformer import Transformer
from pipeline.report.drawing import TURNS, draw_circuit, pushed_ends
from pipeline.report.picture import Picture, picture_of, readout_weights, weights_of

TEXTS = [f"t{token}" for token in range(24)]
TEXTS[1:4] = ["]\n", "]]\n", "a <b>"]
BATCH = PairBatch(torch.tensor([[5, 6, 7], [5, 6, 8]]), torch.tensor([2, 2]), torch.tensor([[1, 2], [2, 1]]))
NODES = {"0.attn_in": [5], "0.attn_q": [3], "0.attn_k": [3], "0.attn_v": [2], "0.attn_out": [5], "0.mlp_in": [5],
         "0.mlp_neuron": [9], "0.mlp_out": [7]}  # fmt: skip
EDGES = {"0.attn_in->attn_q": [[5, 3]], "0.attn_in->attn_k": [[5, 3]], "0.attn_in->attn_v": [[5, 2]],
         "0.attn_v->attn_out": [[2, 5]], "0.mlp_in->mlp_neuron": [[5, 9]],
         "0.mlp_neuron->mlp_out": [[9, 7]]}  # fmt: skip


def circuit_of(nodes: dict[str, list[int]], edges: dict[str, list[list[int]]]) -> Circuit:
    means = {key: torch.zeros(64) for key in nodes}
    found = {key: torch.tensor(pairs).view(-1, 2) for key, pairs in edges.items()}
    return Circuit({key: torch.tensor(indices) for key, indices in nodes.items()}, found, means, {})


@pytest.fixture
def circuit() -> Circuit:
    """Channel 5 is read by three channels of a head and written by one; a neuron reads it and writes channel 7."""
    return circuit_of(NODES, EDGES)


@pytest.fixture
def model(tiny_model: Callable[..., Transformer]) -> Transformer:
    return tiny_model()


@pytest.fixture
def picture(circuit: Circuit, model: Transformer) -> Picture:
    return picture_of(circuit, model, BATCH, TEXTS)


def edge_segments(svg: str, sign: str) -> int:
    paths = re.findall(rf'<path class="e {sign} w\d" d="([^"]*)"', svg)
    return sum(path.count("M") for path in paths)


def spot(picture: Picture, key: str, index: int) -> tuple[int, int]:
    """Where the picture has a node."""
    n = list(zip(picture["nodes"]["site"], picture["nodes"]["index"], strict=True))
    number = n.index((picture["sites"].index(key), index))
    return picture["nodes"]["x"][number], picture["nodes"]["y"][number]


def test_a_drawing_has_one_disc_per_node_and_one_curve_per_edge_of_its_sign(
    circuit: Circuit, model: Transformer, picture: Picture
) -> None:
    svg = draw_circuit(picture, title="t")
    weights = torch.tensor(weights_of(circuit, model))
    assert svg.count("<circle ") == circuit.n_nodes == 8
    assert edge_segments(svg, "p") == int((weights > 0).sum())
    assert edge_segments(svg, "n") == int((weights < 0).sum())
    names = re.findall(r"<title>(\d\.[^<,]+)[^<]*</title>", svg)
    assert sorted(names) == sorted(f"{key}.{int(i)}" for key, indices in circuit.nodes.items() for i in indices)


def test_only_the_circuits_edges_are_drawn_and_nodes_without_edges_are_discs(model: Transformer) -> None:
    """An edge that was minimised away between two kept nodes leaves no curve, its nodes stay."""
    kept = {key: EDGES[key] for key in ("0.mlp_in->mlp_neuron", "0.mlp_neuron->mlp_out")}
    less = circuit_of(NODES | {"0.mlp_out": [3, 7]}, kept)
    picture = picture_of(less, model, BATCH, TEXTS)
    svg = draw_circuit(picture, title="t")
    assert svg.count("<circle ") == less.n_nodes == 9
    assert edge_segments(svg, "p") + edge_segments(svg, "n") == 2
    assert len(set(zip(picture["nodes"]["x"], picture["nodes"]["y"], strict=True))) == 9  # none hides another


def test_nothing_and_a_constant_can_be_drawn(model: Transformer) -> None:
    nothing = picture_of(circuit_of({}, {}), model, BATCH, TEXTS)
    assert "<circle" not in draw_circuit(nothing, title="nothing needed")
    constant = picture_of(circuit_of({"1.mlp_out": [2]}, {}), model, None, TEXTS)
    assert draw_circuit(constant, title="t").count("<circle ") == 1


def test_a_standalone_drawing_is_well_formed_xml_without_outside_references(picture: Picture) -> None:
    svg = draw_circuit(picture, title='a < b & "c"')
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert "href" not in svg and "url(" not in svg


def test_the_residual_line_spans_the_first_and_last_node_of_its_channel_only(picture: Picture) -> None:
    (x, low), (_, high) = spot(picture, "0.mlp_in", 5), spot(picture, "0.attn_in", 5)
    assert f'<path class="stream" d="M{x} {low}V{high}"/>' in draw_circuit(picture, title="t")


def test_larger_weights_of_a_kind_are_drawn_thicker(picture: Picture) -> None:
    n_edges = len(picture["edges"]["weight"])
    picture["edges"] = {
        "source": [0, 0],
        "target": [picture["edges"]["target"][0]] * 2,
        "weight": [0.1, 1.0],
    }
    assert n_edges == 6
    assert re.findall(r'class="e p (w\d)"', draw_circuit(picture, title="t")) == ["w0", "w3"]


def test_neither_sign_lies_over_the_other_where_there_are_many_edges(picture: Picture) -> None:
    """Of edges of like weight, each sign is the upper one about as often; no path more than there are turns."""
    n = 2000
    target = [picture["edges"]["target"][0]] * n
    weights = [(1 - 0.0001 * i) * (1 if i % 2 else -1) for i in range(n)]
    picture["edges"] = {"source": [0] * n, "target": target, "weight": weights}
    svg = draw_circuit(picture, title="t")
    assert edge_segments(svg, "p") == edge_segments(svg, "n") == n // 2
    order = re.findall(r'<path class="e ([np]) w3"', svg)
    assert len(order) == 2 * TURNS
    above = ["".join(order[i : i + 2]) for i in range(0, len(order), 2)]
    assert above.count("pn") == above.count("np") == TURNS // 2


def test_strong_edges_lie_above_weak_ones(picture: Picture) -> None:
    target = [picture["edges"]["target"][0]] * 3
    picture["edges"] = {"source": [0, 0, 0], "target": target, "weight": [1.0, -0.1, 0.5]}
    assert re.findall(r'<path class="e ([np] w\d)"', draw_circuit(picture, title="t")) == ["n w0", "p w2", "p w3"]


def test_heads_are_boxes_with_a_name_and_an_arc_from_each_query_to_the_key_it_meets(picture: Picture) -> None:
    svg = draw_circuit(picture, title="t")
    assert len(re.findall('<rect class="head"', svg)) == 1 and "head 0" in svg
    (x, y), (to_x, _) = spot(picture, "0.attn_q", 3), spot(picture, "0.attn_k", 3)
    assert f"M{x} {y}q" in svg and f" {to_x - x} 0" in svg
    assert len(picture["links"]) == 1  # the value channel has none


def test_biases_and_sinks_are_the_models(picture: Picture, model: Transformer) -> None:
    """c_attn stacks queries, keys and values; sites that read the residual stream have no bias."""
    block, width = model.transformer["h"][0], model.config.n_head * model.config.d_head
    wanted = {
        "0.attn_in.5": 0, "0.attn_q.3": block.attn.c_attn.bias[3], "0.attn_k.3": block.attn.c_attn.bias[width + 3],
        "0.attn_v.2": block.attn.c_attn.bias[2 * width + 2], "0.attn_out.5": block.attn.c_proj.bias[5],
        "0.mlp_in.5": 0, "0.mlp_neuron.9": block.mlp.c_fc.bias[9], "0.mlp_out.7": block.mlp.c_proj.bias[7],
    }  # fmt: skip
    assert picture["nodes"]["bias"] == pytest.approx([float(bias) for bias in wanted.values()], rel=5e-3)
    sinks = model.state_dict().get("transformer.h.0.attn.sink_logit")
    assert picture["heads"][0][5] == (None if sinks is None else pytest.approx(float(sinks[0]), rel=5e-3))
    assert draw_circuit(picture, title="t").count('class="bias ') == 6


def test_the_embedding_end_has_the_prompts_tokens_first_then_the_largest_of_all(model: Transformer) -> None:
    with torch.no_grad():
        model = type(model)(model.config, 24)
        column = torch.zeros(24)
        column[[3, 4, 6, 8]] = torch.tensor([9.0, -5.0, 0.25, -0.5])  # 6 and 8 are in the prompts
        model.transformer["wte"].weight[:, 5] = column
    picture = picture_of(circuit_of(NODES, EDGES), model, BATCH, TEXTS)
    (end,) = picture["inputs"]
    assert end[:3] == [5, *spot(picture, "0.attn_in", 5)]
    assert [(picture["tokens"][token], value) for token, value in end[3]] == [("t8", -0.5), ("t6", 0.25), ("a <b>", 9)]
    assert "t8 · t6 · a␣&lt;b&gt;" in draw_circuit(picture, title="t")


def test_the_readout_starts_at_the_last_write_of_a_channel_and_names_the_answers(picture: Picture) -> None:
    svg = draw_circuit(picture, title="t")
    for key, channel in (("0.attn_out", 5), ("0.mlp_out", 7)):
        x, y = spot(picture, key, channel)
        assert re.search(rf'<path class="e out [pn] w\d" d="M{x} {y}V', svg)
    assert "]⏎" in svg and "]]⏎" in svg


def test_where_the_answers_vary_the_unembedding_end_has_the_tokens_that_a_channel_moves_most(
    circuit: Circuit, model: Transformer
) -> None:
    varied = PairBatch(BATCH.tokens, BATCH.last, torch.tensor([[1, 2], [3, 1]]))
    picture = picture_of(circuit, model, varied, TEXTS)
    assert picture["outputs"]["answers"] is None
    moved = model.lm_head.weight[:, 7] * model.transformer["ln_f"].weight[7]
    channel, _, _, tokens = picture["outputs"]["ends"][1]
    assert channel == 7
    assert [picture["tokens"][token] for token, _ in tokens] == [
        TEXTS[token] for token in moved.abs().topk(3).indices.tolist()
    ]


def test_weights_and_readout_are_those_of_the_model(model: Transformer, circuit: Circuit, picture: Picture) -> None:
    state, block = model.state_dict(), model.transformer["h"][0]
    weights = dict(zip(circuit.edge_names, weights_of(circuit, model), strict=True))
    width = model.config.d_model
    assert weights["0.attn_in.5->0.attn_v.2"] == block.attn.c_attn.weight[2 * width + 2, 5].item()
    assert weights["0.mlp_neuron.9->0.mlp_out.7"] == block.mlp.c_proj.weight[7, 9].item()
    assert picture["edges"]["weight"] == pytest.approx(list(weights.values()), rel=5e-3)
    found = readout_weights(circuit, state, (1, 2))
    difference = (model.lm_head.weight[1] - model.lm_head.weight[2]) * model.transformer["ln_f"].weight
    assert found == {5: difference[5].item(), 7: difference[7].item()}


def test_a_circuit_of_four_thousand_edges_stays_small(
    tiny_model: Callable[..., Transformer], make_circuit: Callable[..., Circuit]
) -> None:
    model = tiny_model(d_model=64, d_head=16)
    circuit = make_circuit(model, 0.21, 0)
    assert 3000 < circuit.n_edges < 9000
    svg = draw_circuit(picture_of(circuit, model, BATCH, TEXTS), title="t")
    assert edge_segments(svg, "p") + edge_segments(svg, "n") == circuit.n_edges
    assert len(svg) < 50 * circuit.n_edges


def explained(picture: Picture, shorts: dict[int, str], **more: object) -> dict[str, object]:
    """The part of a bundle's explanation that a drawing needs: words for some nodes, by number."""
    labels = [{"task_label": {"short": shorts[n], "weak": n % 2 == 1}} if n in shorts else None for n in range(8)]
    return {"nodes": labels, "paths": [], **more}


def words_of(svg: str) -> list[tuple[str, str]]:
    """(class, text) of the words beside nodes."""
    return re.findall(r'<text class="(word[^"]*)"[^>]*>([^<]*)</text>', svg)


def test_nodes_have_their_words_weak_ones_dim_and_old_explanations_have_none(picture: Picture) -> None:
    svg = draw_circuit(picture, title="t", explanation=explained(picture, {0: "`␣[[`", 1: "finds <b>"}))
    assert words_of(svg) == [("word", "␣[["), ("word weak", "finds &lt;b&gt;")]
    ElementTree.fromstring(svg)
    old = {"nodes": [{"task_label": {"text": "t", "weak": False}}, None, {}], "paths": []}
    assert words_of(draw_circuit(picture, title="t", explanation=old)) == []
    assert words_of(draw_circuit(picture, title="t")) == []


def test_where_words_have_no_room_those_on_a_path_that_decides_stay(picture: Picture) -> None:
    picture["nodes"]["x"] = [100, 105, 110, *picture["nodes"]["x"][3:]]
    picture["nodes"]["y"] = [300, 300, 300, *picture["nodes"]["y"][3:]]
    shorts = {0: "zero", 1: "one", 2: "two"}
    assert [word for _, word in words_of(draw_circuit(picture, title="t", explanation=explained(picture, shorts)))] == [
        "zero"
    ]
    decided = explained(picture, shorts) | {"paths": [[1, 4]]}
    assert [word for _, word in words_of(draw_circuit(picture, title="t", explanation=decided))] == ["one"]


def test_edges_are_drawn_by_what_they_carry_and_those_that_decide_are_bold(picture: Picture) -> None:
    source, target = picture["edges"]["source"], picture["edges"]["target"]
    first = 3  # the edge from the value
    path = [source[2], target[2], target[first]]
    svg = draw_circuit(picture, title="t", explanation=explained(picture, {}, carried=[-1.0] * 6) | {"paths": [path]})
    assert edge_segments(svg, "p") == 0
    assert len(re.findall(r'class="e n w3 path"', svg)) == 2
    assert edge_segments(svg, "n") == 4  # the others


def test_steps_of_a_path_that_are_no_edges_are_dotted(picture: Picture) -> None:
    written = next(n for n, site in enumerate(picture["nodes"]["site"]) if picture["sites"][site] == "0.attn_out")
    (x, low), (_, high) = spot(picture, "0.mlp_in", 5), spot(picture, "0.attn_out", 5)
    svg = draw_circuit(picture, title="t", explanation=explained(picture, {}) | {"paths": [[written, written + 1]]})
    assert f'<path class="way" d="M{x} {high}c0' in svg and low < high
    assert 'class="way"' not in draw_circuit(picture, title="t")


def test_lines_into_the_answers_show_what_the_nodes_of_a_channel_push() -> None:
    picture = {"nodes": {"index": [4, 4, 7]}, "outputs": {"ends": [[4, 10, 20, 0.5], [7, 30, 20, -0.5]]}}
    assert pushed_ends(picture, [2.0, -3.0, 0.25]) == [[4, 10, 20, -1.0], [7, 30, 20, 0.25]]
    assert pushed_ends(picture, None) == picture["outputs"]["ends"]
