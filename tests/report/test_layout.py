"""Every node has a place of its own, where it belongs, and the library's order leaves few crossings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.circuit import Circuit
from pipeline.model.transformer import Transformer
from pipeline.report.layout import GraphLayout, count_crossings, lay_out, spread
from pipeline.sites import split_edge_key

D_HEAD = 4


def circuit_of(nodes: dict[str, list[int]], edges: dict[str, list[list[int]]]) -> Circuit:
    found = {key: torch.tensor(pairs).view(-1, 2) for key, pairs in edges.items()}
    return Circuit({key: torch.tensor(indices) for key, indices in nodes.items()}, found, {}, {})


@pytest.fixture
def big(tiny_model: Callable[..., Transformer], make_circuit: Callable[..., Circuit]) -> Circuit:
    return make_circuit(tiny_model(d_model=32, d_head=8), 0.4, 0)


def crossings(circuit: Circuit, layout: GraphLayout) -> int:
    """Pairs of edges between the same two rows that cross, counted one by one."""
    found = 0
    rows: dict[tuple[float, float], list[tuple[float, float]]] = {}
    for key, ends in circuit.edges.items():
        layer, kind = split_edge_key(key)
        for source, target in ends.tolist():
            (x, y), (to_x, to_y) = (
                layout.spots[f"{layer}.{kind.source.value}", source],
                layout.spots[f"{layer}.{kind.target.value}", target],
            )
            rows.setdefault((y, to_y), []).append((x, to_x))
    for lines in rows.values():
        found += sum((a - c) * (b - d) < 0 for i, (a, b) in enumerate(lines) for c, d in lines[:i])
    return found


def test_sites_of_one_residual_channel_stand_above_each_other_in_forward_order() -> None:
    nodes = {"0.attn_in": [5, 6], "0.attn_v": [2], "0.attn_out": [5], "0.mlp_in": [5], "1.attn_in": [5, 7]}
    spots = lay_out(circuit_of(nodes, {"0.attn_in->attn_v": [[5, 2], [6, 2]]}), D_HEAD).spots
    column = [spots[key, 5] for key in ("0.attn_in", "0.attn_out", "0.mlp_in", "1.attn_in")]
    assert len({x for x, _ in column}) == 1
    assert [y for _, y in column] == sorted((y for _, y in column), reverse=True)
    assert len({x for x, _ in (spots["0.attn_in", 6], spots["1.attn_in", 7], column[0])}) == 3


def test_every_node_has_a_place_of_its_own_within_the_picture(big: Circuit) -> None:
    layout = lay_out(big, 8)
    assert len(layout.spots) == len(set(layout.spots.values())) == big.n_nodes
    assert all(0 < x < layout.width and 0 < y < layout.height for x, y in layout.spots.values())
    for row in layout.rows:
        xs = sorted(x for x, y in layout.spots.values() if y == row.y)
        assert all(b - a >= 0.999 * layout.pitch for a, b in pairwise(xs))


def test_a_heads_channels_stand_side_by_side_in_its_box_queries_before_keys_before_values(big: Circuit) -> None:
    layout = lay_out(big, 8)
    places = {
        (box.layer, box.head): [
            (x, key.partition(".")[2])
            for (key, index), (x, y) in layout.spots.items()
            if key.startswith(f"{box.layer}.attn_") and y == box.y and index // 8 == box.head
        ]
        for box in layout.heads
    }
    for box in layout.heads:
        found = sorted(places[box.layer, box.head])
        assert box.left < found[0][0] <= found[-1][0] < box.right
        names = [name for _, name in found]
        assert names == sorted(names, key=["attn_q", "attn_k", "attn_v"].index)
    for layer in (0, 1):
        boxes = sorted((box.left, box.right) for box in layout.heads if box.layer == layer)
        assert all(right < left for (_, right), (left, _) in pairwise(boxes))


def test_what_can_be_drawn_without_crossings_is() -> None:
    """Two stars whose channels alternate; a chain of neurons in no order, each reading two neighbouring channels."""
    reads = [[0, 0], [2, 0], [4, 0], [1, 9], [3, 9], [5, 9]]
    stars = circuit_of({"0.mlp_in": [*range(6)], "0.mlp_neuron": [0, 9]}, {"0.mlp_in->mlp_neuron": reads})
    assert crossings(stars, lay_out(stars, D_HEAD)) == 0
    order = [3, 0, 5, 1, 4, 2]
    chain = sorted([channel, neuron] for neuron, pair in enumerate(pairwise(order)) for channel in pair)
    path = circuit_of({"0.mlp_in": [*range(6)], "0.mlp_neuron": [*range(5)]}, {"0.mlp_in->mlp_neuron": chain})
    assert crossings(path, lay_out(path, D_HEAD)) == 0


def test_the_order_has_fewer_crossings_than_that_of_the_indices(
    tiny_model: Callable[..., Transformer], make_circuit: Callable[..., Circuit], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = make_circuit(tiny_model(d_model=64, d_head=16), 0.12, 3)
    chance = torch.Generator().manual_seed(0)
    edges = {key: pairs[torch.rand(len(pairs), generator=chance) < 0.1] for key, pairs in full.edges.items()}
    circuit = Circuit(full.nodes, edges, full.means, full.scores)
    layout = lay_out(circuit, 16)
    ordered = crossings(circuit, layout)
    assert ordered == count_crossings(circuit, layout)
    monkeypatch.setattr("pipeline.report.layout._order_part", lambda part, *_: sorted(part))
    assert 0 < ordered < crossings(circuit, lay_out(circuit, 16))


def test_equal_circuits_have_equal_layouts_in_one_process(
    tiny_model: Callable[..., Transformer], make_circuit: Callable[..., Circuit]
) -> None:
    """Also where objects come to lie at other addresses: hence many times."""
    circuit = make_circuit(tiny_model(), 0.3, 0)
    assert len({str(lay_out(circuit, 4)) for _ in range(10)}) == 1


def test_equal_circuits_have_equal_layouts_in_every_process() -> None:
    program = """
import torch
from pipeline.circuit import Circuit
from pipeline.report.layout import lay_out
g = torch.Generator().manual_seed(0)
nodes = {key: torch.arange(12) for key in ("0.attn_in", "0.attn_q", "0.attn_v", "0.mlp_in", "0.mlp_neuron")}
ends = {key: torch.randint(12, (20, 2), generator=g).unique(dim=0)
        for key in ("0.attn_in->attn_q", "0.attn_in->attn_v", "0.mlp_in->mlp_neuron")}
print(lay_out(Circuit(nodes, ends, {}, {}), 4))
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1 and found.pop().startswith("GraphLayout(")


def test_nothing_and_nodes_without_edges_can_be_laid_out() -> None:
    assert lay_out(circuit_of({}, {}), D_HEAD).spots == {}
    constants = lay_out(circuit_of({"1.mlp_out": [2, 3], "1.mlp_neuron": [7]}, {}), D_HEAD)
    assert len(set(constants.spots.values())) == 3


@given(st.lists(st.tuples(st.floats(-50, 150), st.floats(0.1, 20)), max_size=12))
def test_spread_intervals_keep_their_order_do_not_overlap_and_stay_within_bounds(
    wishes: list[tuple[float, float]],
) -> None:
    sizes = [size for _, size in wishes]
    places = spread(sorted(wish for wish, _ in wishes), sizes, 0, 100)
    fit = min(1, 100 / (sum(sizes) or 1))
    edges = [(place - fit * size / 2, place + fit * size / 2) for place, size in zip(places, sizes, strict=True)]
    assert all(left - right >= -1e-6 for (_, right), (left, _) in pairwise(edges))
    assert all(left >= -1e-6 and right <= 100 + 1e-6 for left, right in edges)


def test_spread_moves_crowded_intervals_apart_evenly_and_leaves_others_where_they_wish() -> None:
    assert spread([10, 10, 10, 80], [6] * 4, 0, 100) == pytest.approx([4, 10, 16, 80])
    assert spread([50, 50], [10, 20], 0, 100) == pytest.approx([42.5, 57.5])  # beside each other; mean of both kept
    assert spread([10, 10], [60, 60], 0, 100) == pytest.approx([25, 75])
