"""What ablate reports, against laws that hold for any circuit."""

from __future__ import annotations

import pytest
import torch

from pipeline.ablate import WrongModelError, ablate_task, check_belongs
from pipeline.ablate.bootstrap import interval
from pipeline.ablate.conditions import Condition, Runner, accuracy, pair_losses
from pipeline.ablate.controls import nonzero_edges, random_edges, random_nodes
from pipeline.circuit import Circuit
from pipeline.data.pairs import PairBatch
from pipeline.model.ablation import record
from pipeline.model.scoring import mean_loss, score
from pipeline.prune.edges import induced_edges


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, 24, (20, 7), generator=generator)
    return PairBatch(tokens, torch.full((20,), 6), torch.tensor([[3, 4], [4, 3]]).repeat(10, 1))


@pytest.fixture
def model(tiny_model):
    return tiny_model(sink=True, afrac=0.5)


def circuit_of(model, batch, frac):
    """A circuit of random nodes, with all edges between them."""
    _, values = record(model, batch.tokens)
    means = {key: value.mean((0, 1)) + 0.1 for key, value in values.items()}
    generator = torch.Generator().manual_seed(9)
    masks = {key: (torch.rand(mean.shape, generator=generator) < frac).float() for key, mean in means.items()}
    nodes = {key: mask.nonzero().flatten() for key, mask in masks.items() if mask.any()}
    return Circuit(nodes, induced_edges(model, masks), means, means, about={"model_hash": "abc"})


def answers(model, circuit, condition, batch):
    return Runner(model, circuit.means).answers(circuit, condition, batch)


@pytest.mark.parametrize("frac", [0.1, 0.5, 0.9])
def test_cutting_every_edge_outside_an_induced_circuit_equals_ablating_the_nodes_outside(tiny_model, batch, frac):
    """Without AbsTopK; with it, nodes outside also compete for a place, and in the two cases with other values."""
    model = tiny_model(sink=True, afrac=1.0)
    circuit = circuit_of(model, batch, frac)
    nodes, edges = (answers(model, circuit, c, batch) for c in (Condition.CIRCUIT, Condition.EDGES_ONLY))
    torch.testing.assert_close(nodes, edges, rtol=1e-4, atol=1e-4)


def test_the_circuit_of_everything_is_the_model(model, batch):
    everything = circuit_of(model, batch, 1.1)
    for condition in (Condition.CIRCUIT, Condition.EDGES_ONLY):
        torch.testing.assert_close(answers(model, everything, condition, batch), score(model, batch))


def test_removing_nothing_is_the_model_and_removing_everything_leaves_no_difference_between_prompts(model, batch):
    nothing, everything = circuit_of(model, batch, -1), circuit_of(model, batch, 1.1)
    for condition in (Condition.ABLATED_NODES, Condition.ABLATED_EDGES):
        torch.testing.assert_close(answers(model, nothing, condition, batch), score(model, batch))
    same_end = PairBatch(batch.tokens.clone(), batch.last, batch.answers)
    same_end.tokens[:, 6] = 7  # embedding and bigram table are no part of a circuit: give all prompts the same end
    left = answers(model, everything, Condition.ABLATED_NODES, same_end)
    margins = (left[:, 0] - left[:, 1])[0::2]
    torch.testing.assert_close(margins, margins[:1].expand_as(margins), rtol=1e-4, atol=1e-4)


def test_a_missing_edge_changes_the_edge_level_circuit_only(model, batch):
    circuit = circuit_of(model, batch, 0.5)
    key = "1.mlp_neuron->mlp_out"
    less = Circuit(circuit.nodes, dict(circuit.edges) | {key: circuit.edges[key][:-20]}, circuit.means, circuit.order)
    whole, part = (answers(model, c, Condition.EDGES_ONLY, batch) for c in (circuit, less))
    assert not torch.allclose(whole, part, atol=1e-4)
    assert torch.equal(
        answers(model, circuit, Condition.CIRCUIT, batch), answers(model, less, Condition.CIRCUIT, batch)
    )


def test_random_node_sets_have_the_circuit_s_size_at_every_site(model, batch):
    circuit = circuit_of(model, batch, 0.3)
    drawn = random_nodes(circuit, torch.Generator().manual_seed(0))
    assert {k: len(v) for k, v in drawn.nodes.items()} == {k: len(v) for k, v in circuit.nodes.items()}
    assert any(not torch.equal(drawn.nodes[key], circuit.nodes[key]) for key in circuit.nodes)


def test_random_edge_sets_have_the_circuit_s_size_per_kind_and_only_real_edges(model, batch):
    with torch.no_grad():
        model.transformer["h"][0].mlp.c_fc.weight[::2] = 0
    circuit = circuit_of(model, batch, 0.3)
    drawn = random_edges(circuit, model, torch.Generator().manual_seed(0))
    assert {k: len(v) for k, v in drawn.edges.items()} == {k: len(v) for k, v in circuit.edges.items()}
    real = {tuple(pair) for pair in nonzero_edges(model, "0.mlp_in->mlp_neuron").tolist()}
    chosen = [tuple(pair) for pair in drawn.edges["0.mlp_in->mlp_neuron"].tolist()]
    assert set(chosen) <= real and len(set(chosen)) == len(chosen)
    assert all(target % 2 for _, target in chosen)


def test_the_report_has_every_condition_its_interval_and_its_controls_and_repeats(model, batch, params):
    circuit = circuit_of(model, batch, 0.4)
    config = params.ablate.model_copy(update={"n_random": 3, "n_bootstrap": 100})
    row = ablate_task(model=model, circuit=circuit, batch=batch, config=config, seed=1)
    assert row == ablate_task(model=model, circuit=circuit, batch=batch, config=config, seed=1)
    assert row["unpruned_loss"] == pytest.approx(mean_loss(score(model, batch)), rel=1e-5)
    for name in ("unpruned", "circuit", "edges_only", "ablated_nodes", "ablated_edges"):
        low, high = row[f"{name}_loss_interval"]
        assert low <= row[f"{name}_loss"] <= high and 0 <= row[f"{name}_accuracy"] <= 1
    for name in ("random_circuit", "random_edges_only", "random_nodes", "random_edges"):
        assert len(row[f"{name}_losses"]) == 3
        assert sorted(row[f"{name}_losses"])[1] == row[f"{name}_loss_median"]


def test_a_circuit_of_another_checkpoint_is_refused_with_both_hashes(model, batch):
    with pytest.raises(WrongModelError, match="abc, not to def"):
        check_belongs(circuit_of(model, batch, 0.5), "def")


def test_a_tie_is_not_a_right_answer():
    assert accuracy(torch.tensor([[1.0, 0.0], [0.0, 0.0]])) == 0.5


def test_pair_losses_average_the_two_sides():
    assert pair_losses(torch.tensor([1.0, 3.0, 0.0, 1.0])).tolist() == [2.0, 0.5]


def test_the_interval_of_a_constant_is_the_constant_and_covers_the_mean_of_a_sample():
    generator = torch.Generator().manual_seed(0)
    assert interval(torch.full((9,), 2.0), 100, generator) == [2.0, 2.0]
    values = torch.randn(400, generator=generator)
    low, high = interval(values, 1000, generator)
    assert low < float(values.mean()) < high
    assert high - low == pytest.approx(2 * 1.96 * float(values.std()) / 20, rel=0.15)
