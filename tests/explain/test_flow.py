"""What edges carry, the paths that decide and the circuits within, of circuits that were planted."""

from __future__ import annotations

import pytest
import torch

from pipeline.circuit import Circuit
from pipeline.circuit.interventions import edge_weights
from pipeline.data.pairs import PairBatch, counterparts
from pipeline.explain.carried import Aligned, carried, orientation
from pipeline.explain.flow import flow, inner, most_needed, shrunk
from pipeline.explain.paths import deciding_paths, steps
from pipeline.explain.task_values import TaskValues
from pipeline.model.scoring import mean_loss
from pipeline.planted import Algorithm, plant

D_HEAD = 16


def circuit_of(planted, **more):
    scores = {key: torch.zeros_like(mean) for key, mean in planted.means.items()}
    return Circuit(planted.nodes, planted.edges, planted.means, scores, **more)


@pytest.fixture(scope="module")
def quote():
    return plant(Algorithm.QUOTE, d_model=64, seed=0)


@pytest.fixture(scope="module")
def lists():
    return plant(Algorithm.LISTS, d_model=64, seed=0)


def by_name(circuit, numbers):
    return dict(
        zip(circuit.edge_names, [number for key in circuit.edges for number in numbers[key].tolist()], strict=True)
    )


def test_an_edge_carries_weight_times_difference_where_its_target_decides(lists):
    """At the end only, for a write that is read there: the neuron's difference times its weight, averaged by hand."""
    circuit, batch = circuit_of(lists), lists.batch("test", 20)
    (name,) = (name for name in circuit.edge_names if "mlp_neuron." in name and "mlp_out." in name)
    source, target = name.split("->")
    values = TaskValues.of(lists.model, circuit, batch, [source])
    at_end = values.nodes[source][torch.arange(40), batch.last]
    apart = (at_end[::2] - at_end[1::2]) * orientation(batch)
    (key,) = (key for key in circuit.edges if key.endswith("mlp_neuron->mlp_out"))
    weight = float(edge_weights(lists.model, key)[int(target.split(".")[2]), int(source.split(".")[2])])
    assert by_name(circuit, carried(lists.model, circuit, batch).edges)[name] == pytest.approx(
        weight * float(apart.mean()), rel=1e-4
    )


def test_behind_attention_an_edge_carries_what_the_head_brings(quote):
    """The write is its only edge's: it differs by just what the edge carries."""
    circuit, batch = circuit_of(quote), quote.batch("test", 20)
    (name,) = (name for name in circuit.edge_names if "attn_out" in name)
    target = name.split("->")[1]
    values = TaskValues.of(quote.model, circuit, batch, [target])
    at_end = values.nodes[target][torch.arange(40), batch.last]
    apart = float(((at_end[::2] - at_end[1::2]) * orientation(batch)).mean())
    assert by_name(circuit, carried(quote.model, circuit, batch).edges)[name] == pytest.approx(apart, rel=1e-4)


def test_the_order_of_a_pairs_prompts_changes_nothing(quote):
    circuit, batch = circuit_of(quote), quote.batch("test", 8)
    rows = torch.arange(16).view(8, 2)
    swapped = batch.prompts(torch.cat([rows[:4], rows[4:].flip(1)]).flatten())
    assert orientation(swapped).tolist() == [1.0] * 4 + [-1.0] * 4
    one, other = (by_name(circuit, carried(quote.model, circuit, each).edges) for each in (batch, swapped))
    assert other == pytest.approx(one, rel=1e-3, abs=1e-5)


def test_effects_into_the_answer_sum_up_to_the_difference_of_the_two_prompts_answers(quote):
    """The last write makes the whole answer; the mean of both slopes times its difference tells that within a fifth."""
    circuit, batch = circuit_of(quote), quote.batch("test", 20)
    found = carried(quote.model, circuit, batch)
    logits = circuit(quote.model)(batch.tokens, at=batch.last).gather(-1, batch.answers)
    apart = (logits[:, 0] - logits[:, 1]).view(-1, 2).sum(1).mean()
    assert float(found.direct["1.attn_out"].sum()) == pytest.approx(float(apart), rel=0.2)
    assert float(found.effects["1.attn_in->attn_v"].sum()) == pytest.approx(float(apart), rel=0.2)


def test_aligned_positions_are_those_of_the_pairs(quote):
    batch = quote.batch("test", 4)
    assert (counterparts(batch)[torch.arange(8), batch.last] >= 0).all()


def test_where_a_token_has_no_counterpart_the_mean_is_the_other_value_on_whichever_side_it_is():
    """``0 1 5`` against ``0 2 3 5``: the 2 has none. And the same with both prompts changed over."""
    x, mean = torch.tensor([[10.0, 11, 12, 0], [20, 21, 22, 23]])[..., None], torch.ones(1)
    wanted = torch.tensor([[-10.0, -11, -11, 0, 0, -20, 0, 0]])
    halved = torch.tensor([[-5.0, -5.5, -5.5, 0, 0, -21, 0, 0]])
    batch = PairBatch.of([[0, 1, 5], [0, 2, 3, 5]], [[6, 7], [7, 6]])
    aligned = Aligned.of(batch, torch.ones(1))
    assert torch.equal(aligned.difference(x, mean)[..., 0], wanted)
    assert torch.equal(aligned.mean(x)[..., 0], halved)
    other = Aligned.of(batch.prompts(torch.tensor([1, 0])), -torch.ones(1)).difference(x.flip(0), mean)[..., 0]
    assert torch.equal(other, torch.tensor([[-10.0, -20, -11, -11, 0, 0, 0, 0]]))


def test_the_planted_paths_decide_widest_first(quote, lists):
    """The quote's kind goes from two channels by value and write; the list's by a head, a neuron and its write."""
    circuit = circuit_of(quote)
    paths = deciding_paths(circuit, carried(quote.model, circuit, quote.batch("test", 32)), D_HEAD)
    sites = [[name.rpartition(".")[0] for name in path] for path in paths]
    assert sites == [["1.attn_in", "1.attn_v", "1.attn_out"]] * 2
    assert len({path[0] for path in paths}) == 2 and len({path[1] for path in paths}) == 1

    circuit = circuit_of(lists)
    found = carried(lists.model, circuit, lists.batch("test", 32))
    wanted = ["1.attn_in", "1.attn_v", "1.attn_out", "1.mlp_in", "1.mlp_neuron", "1.mlp_out"]
    paths = deciding_paths(circuit, found, D_HEAD)
    assert [[name.rpartition(".")[0] for name in path] for path in paths] == [wanted] * 2
    assert all(width > 0 for width in steps(circuit, found, D_HEAD).values())


def test_a_path_is_drawn_along_edges_of_the_circuit_or_along_a_channel(lists):
    circuit = circuit_of(lists)
    for path in flow(lists.model, circuit, lists.batch("test", 16), lists.batch("test", 4))["paths"]:
        for source, target in zip(path, path[1:], strict=False):
            same_channel = source.rpartition(".")[2] == target.rpartition(".")[2]
            assert f"{source}->{target}" in circuit.edge_names or same_channel


def test_how_much_an_edge_is_needed_is_the_certificates_loss_without_it(quote):
    losses = {key: [float(i) for i in range(len(pairs))] for key, pairs in quote.edges.items()}
    certified, bare = circuit_of(quote, certificate={"edges": losses}), circuit_of(quote)
    effects = carried(quote.model, bare, quote.batch("test", 8)).effects
    assert list(most_needed(certified, effects).values()) == [loss for key in losses for loss in losses[key]]
    assert list(most_needed(bare, effects).values()) == [abs(x) for key in effects for x in effects[key].tolist()]


@pytest.mark.parametrize("one_by_one", [400, 2])
def test_smaller_circuits_have_their_own_loss_and_the_cheapest_edge_goes_first(lists, monkeypatch, one_by_one):
    """Without either of the two detectors the loss is lower than without any other edge."""
    monkeypatch.setattr("pipeline.explain.flow.ONE_BY_ONE", one_by_one)
    monkeypatch.setattr("pipeline.explain.flow.PART", 2)
    circuit, few = circuit_of(lists), lists.batch("test", 8)
    order, found = shrunk(lists.model, circuit, most_needed(circuit, carried(lists.model, circuit, few).effects), few)
    assert found[0][0] == circuit.n_edges and [n for n, _ in found] == sorted({n for n, _ in found}, reverse=True)
    for n, loss in found:
        assert loss == pytest.approx(mean_loss(inner(circuit, order[:n]).answers(lists.model, few)), rel=6e-3)
    if one_by_one > circuit.n_edges:
        singly = [inner(circuit, [e for e in order if e != gone]).answers(lists.model, few) for gone in order]
        assert found[1][1] == pytest.approx(min(map(mean_loss, singly)), rel=6e-3)


def test_the_circuit_of_all_edges_is_the_circuit(lists):
    circuit = circuit_of(lists)
    whole = inner(circuit, range(circuit.n_edges))
    assert (whole.node_names, whole.edge_names) == (circuit.node_names, circuit.edge_names)


def test_what_is_kept_is_short_in_the_circuits_order_and_empty_without_edges(lists):
    circuit, batch = circuit_of(lists), lists.batch("test", 16)
    found = flow(lists.model, circuit, batch, batch.first(4))
    assert len(found["carried"]) == circuit.n_edges and sorted(found["order"]) == list(range(circuit.n_edges))
    assert all(number == float(f"{number:.3g}") for number in found["carried"])
    nothing = circuit.of_names(circuit.node_names, [])
    assert flow(lists.model, nothing, batch, batch) == {
        "carried": [],
        "pushes": {},
        "paths": [],
        "order": [],
        "sizes": [],
        "size_pairs": 16,
    }


def test_an_edge_and_a_write_push_the_answer_of_the_prompt_that_they_are_strong_on(quote):
    """A value copied from a channel that is far from 0 at one kind of quote pushes that kind's answer; from one that is
    at the other kind, the other answer; and a value of either sign that is so on side a pushes its answer."""
    circuit, batch = circuit_of(quote), quote.batch("test", 20)
    found = carried(quote.model, circuit, batch)
    pushes, raw, sides = (by_name(circuit, each) for each in (found.pushes, found.edges, found.sides))
    effects = by_name(circuit, found.effects)
    for name, number in pushes.items():
        assert abs(number) == pytest.approx(abs(raw[name]))
        assert number == 0 or (number > 0) == (effects[name] * sides[name] > 0)
    into_value = [number for name, number in pushes.items() if "attn_v" in name.split("->")[1]]
    assert min(into_value) < 0 < max(into_value)  # one channel for each kind of quote
    told = flow(quote.model, circuit, batch, batch.first(2))["pushes"]
    (write,) = (name for name in circuit.node_names if "attn_out" in name)
    values = TaskValues.of(quote.model, circuit, batch, [write])
    at_end = values.nodes[write][torch.arange(40), batch.last].abs()
    farther = float(((at_end[::2] - at_end[1::2]) * orientation(batch)).mean())
    assert list(told) == [write] and (told[write] > 0) == (farther > 0)


def test_paths_go_only_through_the_nodes_that_are_named(lists):
    circuit, batch = circuit_of(lists), lists.batch("test", 16)
    (first, _) = flow(lists.model, circuit, batch, batch.first(2))["paths"]
    assert flow(lists.model, circuit, batch, batch.first(2), set(first))["paths"] == [first]
    assert flow(lists.model, circuit, batch, batch.first(2), set(first[1:]))["paths"] == []
