"""A drawing shows exactly the nodes and edges of its circuit, where they belong."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.circuit import Circuit
from pipeline.model.transformer import Transformer
from pipeline.report.drawing import Readout, draw_circuit, edge_weights, readout_weights
from pipeline.report.layout import lay_out, spread


@pytest.fixture
def circuit() -> Circuit:
    """Channel 5 is read by two heads' channels and written by one; a neuron reads it and writes channel 7."""
    nodes = {"0.attn_in": [5], "0.attn_k": [3], "0.attn_v": [2], "0.attn_out": [5], "0.mlp_in": [5],
             "0.mlp_neuron": [9], "0.mlp_out": [7]}  # fmt: skip
    edges = {"0.attn_in->attn_k": [[5, 3]], "0.attn_in->attn_v": [[5, 2]], "0.attn_v->attn_out": [[2, 5]],
             "0.mlp_in->mlp_neuron": [[5, 9]], "0.mlp_neuron->mlp_out": [[9, 7]]}  # fmt: skip
    return Circuit(
        nodes={key: torch.tensor(value) for key, value in nodes.items()},
        edges={key: torch.tensor(value) for key, value in edges.items()},
        means={},
        order={},
    )


WEIGHTS = {
    "0.attn_in->attn_k": torch.tensor([-1.0]),
    "0.attn_in->attn_v": torch.tensor([0.5]),
    "0.attn_v->attn_out": torch.tensor([2.0]),
    "0.mlp_in->mlp_neuron": torch.tensor([0.1]),
    "0.mlp_neuron->mlp_out": torch.tensor([-0.3]),
}


def edge_segments(svg: str, sign: str) -> int:
    paths = re.findall(rf'<path class="e {sign} w\d" d="([^"]*)"', svg)
    return sum(path.count("M") for path in paths)


def test_a_drawing_has_one_disc_per_node_and_one_curve_per_edge_of_its_sign(circuit: Circuit) -> None:
    svg = draw_circuit(circuit, WEIGHTS, title="t", standalone=True)
    assert svg.count("<circle ") == circuit.n_nodes == 7
    assert (edge_segments(svg, "p"), edge_segments(svg, "n")) == (3, 2)
    names = re.findall(r"<title>(\d\.[^<]+)</title>", svg)
    assert sorted(names) == sorted(f"{key}.{int(i)}" for key, indices in circuit.nodes.items() for i in indices)


def test_only_the_circuits_edges_are_drawn_and_nodes_without_edges_are_discs(circuit: Circuit) -> None:
    """An edge that was minimised away between two kept nodes leaves no curve, its nodes stay."""
    kept = {key: circuit.edges[key] for key in ("0.mlp_in->mlp_neuron", "0.mlp_neuron->mlp_out")}
    nodes = dict(circuit.nodes) | {"0.mlp_out": torch.tensor([3, 7])}
    less = Circuit(nodes, kept, {}, {})
    svg = draw_circuit(
        less, {key: WEIGHTS[key] for key in kept}, title="t", readout=Readout(("a", "b"), {3: 1.0, 7: 0.5})
    )
    assert svg.count("<circle ") == less.n_nodes == 8
    assert (edge_segments(svg, "p"), edge_segments(svg, "n")) == (1, 1)
    spots = lay_out(less).spots
    assert len({spots[key, int(i)] for key, indices in nodes.items() for i in indices}) == 8  # none hides another
    constants = Circuit({"1.mlp_out": torch.tensor([2])}, {}, {}, {})
    assert draw_circuit(constants, {}, title="t").count("<circle ") == 1


def test_a_standalone_drawing_is_well_formed_xml_without_outside_references(circuit: Circuit) -> None:
    svg = draw_circuit(circuit, WEIGHTS, title='a < b & "c"', standalone=True)
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert "href" not in svg and "url(" not in svg


def test_sites_of_one_residual_channel_stand_above_each_other_in_forward_order(circuit: Circuit) -> None:
    spots = lay_out(circuit).spots
    column = [spots[key, 5] for key in ("0.attn_in", "0.attn_out", "0.mlp_in")]
    assert len({x for x, _ in column}) == 1
    assert [y for _, y in column] == sorted((y for _, y in column), reverse=True)
    assert spots["0.mlp_out", 7][0] != column[0][0]


def test_the_residual_line_spans_the_first_and_last_node_of_its_channel_only(circuit: Circuit) -> None:
    svg = draw_circuit(circuit, WEIGHTS, title="t")
    spots = lay_out(circuit).spots
    (x, low), (_, high) = spots["0.mlp_in", 5], spots["0.attn_in", 5]
    assert f'<path class="stream" d="M{round(x)} {round(low)}V{round(high)}"/>' in svg


def test_larger_weights_of_a_kind_are_drawn_thicker(circuit: Circuit) -> None:
    ends = torch.tensor([[5, 2], [6, 2]])
    nodes = dict(circuit.nodes) | {"0.attn_in": torch.tensor([5, 6])}
    two = Circuit(nodes, {"0.attn_in->attn_v": ends}, {}, {})
    svg = draw_circuit(two, {"0.attn_in->attn_v": torch.tensor([0.1, 1.0])}, title="t")
    assert re.findall(r'class="e p (w\d)"', svg) == ["w0", "w3"]


def test_the_readout_starts_at_the_last_write_of_a_channel_and_names_the_answers(circuit: Circuit) -> None:
    svg = draw_circuit(circuit, WEIGHTS, title="t", readout=Readout(("]\n", "]]\n"), {7: -0.5}))
    x, y = lay_out(circuit).spots["0.mlp_out", 7]
    assert f'<path class="e out n w3" d="M{round(x)} {round(y)}V' in svg
    assert "]⏎" in svg and "]]⏎" in svg


def test_an_empty_circuit_can_be_drawn() -> None:
    assert "<circle" not in draw_circuit(Circuit({}, {}, {}, {}), {}, title="nothing needed")


def test_weights_and_readout_are_those_of_the_model(tiny_model: Callable[..., Transformer], circuit: Circuit) -> None:
    model = tiny_model()
    state, block = model.state_dict(), model.transformer["h"][0]
    weights = edge_weights(circuit, state)
    width = model.config.d_model
    assert weights["0.attn_in->attn_v"].tolist() == [block.attn.c_attn.weight[2 * width + 2, 5].item()]
    assert weights["0.mlp_neuron->mlp_out"].tolist() == [block.mlp.c_proj.weight[7, 9].item()]
    found = readout_weights(circuit, state, (1, 2))
    difference = (model.lm_head.weight[1] - model.lm_head.weight[2]) * model.transformer["ln_f"].weight
    assert found == {5: difference[5].item(), 7: difference[7].item()}


def test_a_circuit_of_four_thousand_edges_stays_small(
    tiny_model: Callable[..., Transformer], make_circuit: Callable[..., Circuit]
) -> None:
    model = tiny_model(d_model=64, d_head=16)
    circuit = make_circuit(model, 0.21, 0)
    assert 3000 < circuit.n_edges < 9000
    svg = draw_circuit(circuit, edge_weights(circuit, model.state_dict()), title="t")
    assert edge_segments(svg, "p") + edge_segments(svg, "n") == circuit.n_edges
    assert len(svg) < 50 * circuit.n_edges


@given(st.lists(st.floats(-50, 150), max_size=12), st.floats(0.1, 20))
def test_spread_places_keep_their_order_their_distance_and_their_bounds(wishes: list[float], pitch: float) -> None:
    places = spread(sorted(wishes), pitch, 0, 100)
    pitch = min(pitch, 100 / max(len(wishes) - 1, 1))
    assert len(places) == len(wishes)
    assert all(b - a >= pitch - 1e-6 for a, b in zip(places, places[1:], strict=False))
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in places)


def test_spread_moves_crowded_nodes_apart_evenly_and_leaves_others_where_they_wish() -> None:
    assert spread([10, 10, 10, 80], 6, 0, 100) == pytest.approx([4, 10, 16, 80])
