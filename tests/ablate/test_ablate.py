"""What ablate reports, against laws that hold for any circuit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.ablate import ablate_task
from pipeline.circuit import Circuit, WrongModelError
from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.conditions import Ablator, Condition, accuracy
from pipeline.circuit.graph import induced_edges
from pipeline.circuit.interventions import mask_nodes
from pipeline.circuit.random_circuits import Complement, nonzero_edges
from pipeline.data.pairs import PairBatch, of_pairs
from pipeline.model.record import record
from pipeline.model.scoring import mean_loss, score
from pipeline.stats import interval


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, 24, (20, 7), generator=generator)
    return PairBatch(tokens, torch.full((20,), 6), torch.tensor([[3, 4], [4, 3]]).repeat(10, 1))


@pytest.fixture
def model(tiny_model):
    return tiny_model(sink=True, afrac=0.5)


def circuit_of(model, batch, frac, **changes):
    """A circuit of random nodes, with all edges between them."""
    _, values = record(model, batch.tokens)
    means = {key: value.mean((0, 1)) + 0.1 for key, value in values.items()}
    generator = torch.Generator().manual_seed(9)
    masks = {key: (torch.rand(mean.shape, generator=generator) < frac).float() for key, mean in means.items()}
    nodes = {key: mask.nonzero().flatten() for key, mask in masks.items() if mask.any()}
    return Circuit(nodes, induced_edges(model, masks), means, means, about={"model_hash": "abc"}, **changes)


def answers(model, circuit, condition, batch):
    return Ablator(model, circuit.ablation_values).answers(circuit, condition, batch)


def masked(model, circuit, batch, draw=0):
    """The answers by the definition of a circuit's run."""
    return circuit(model, draw)(batch.tokens, at=batch.last).gather(1, batch.answers)


@pytest.fixture
def resampled(model, batch):
    """A circuit of random nodes without some of their edges, all else held at values of three other prompts."""
    _, values = record(model, batch.tokens[:3])
    circuit = circuit_of(
        model, batch, 0.5, ablations=(AblationValues.resampled({key: value[:, 2] for key, value in values.items()}),)
    )
    return replace(circuit, edges={key: pairs[::2] for key, pairs in circuit.edges.items()}, calibration=(2.0, 0.5))


@pytest.mark.parametrize("frac", [0.1, 0.5, 0.9])
def test_a_circuit_with_all_edges_between_its_nodes_equals_its_nodes_alone(tiny_model, batch, frac):
    """Without AbsTopK; with it, nodes outside also compete for a place, and in the two cases with other values."""
    model = tiny_model(sink=True, afrac=1.0)
    circuit = circuit_of(model, batch, frac)
    edges, nodes = (answers(model, circuit, c, batch) for c in (Condition.CIRCUIT, Condition.NODES_ONLY))
    torch.testing.assert_close(nodes, edges, rtol=1e-4, atol=1e-4)


def test_the_circuit_alone_is_the_masked_model_at_every_draw_whatever_the_prompts_lengths(model, batch, resampled):
    mixed = PairBatch(batch.tokens, torch.tensor([3, 3, 6, 6, 5]).repeat(4), batch.answers)
    expected = torch.stack([masked(model, resampled, mixed, draw) for draw in range(3)])
    found = answers(model, resampled, Condition.CIRCUIT, mixed)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_a_node_without_edges_has_its_own_constant_value_in_the_circuit_and_in_its_nodes_alone(tiny_model, batch):
    model = tiny_model(sink=True, afrac=1.0)
    circuit = circuit_of(model, batch, -1)
    alone = replace(circuit, nodes={"1.mlp_out": torch.tensor([5])})
    _, values = record(model, batch.tokens[:1], mask_nodes(circuit.node_masks(), circuit.means))
    block = model.transformer["h"][1].mlp
    value = float(block.c_proj.bias[5] + block.c_proj.weight[5] @ values["1.mlp_neuron"][0, 0])
    ablated_to = replace(circuit, means=dict(circuit.means) | {"1.mlp_out": circuit.means["1.mlp_out"].clone()})
    ablated_to.means["1.mlp_out"][5] = value
    expected = answers(model, ablated_to, Condition.CIRCUIT, batch)
    assert not torch.allclose(expected, answers(model, circuit, Condition.CIRCUIT, batch), atol=1e-3)
    for condition in (Condition.CIRCUIT, Condition.NODES_ONLY):
        torch.testing.assert_close(answers(model, alone, condition, batch), expected, rtol=1e-4, atol=1e-4)


def test_the_circuit_of_everything_is_the_model(model, batch):
    everything = circuit_of(model, batch, 1.1)
    for condition in (Condition.CIRCUIT, Condition.NODES_ONLY):
        found = answers(model, everything, condition, batch)
        torch.testing.assert_close(found[0], score(model, batch), rtol=1e-4, atol=1e-4)


def test_removing_nothing_is_the_model_and_removing_everything_leaves_no_difference_between_prompts(model, batch):
    nothing, everything = circuit_of(model, batch, -1), circuit_of(model, batch, 1.1)
    for condition in (Condition.ABLATED_NODES, Condition.ABLATED_EDGES):
        torch.testing.assert_close(answers(model, nothing, condition, batch)[0], score(model, batch))
    same_end = PairBatch(batch.tokens.clone(), batch.last, batch.answers)
    same_end.tokens[:, 6] = 7  # embedding and bigram table are no part of a circuit: give all prompts the same end
    left = answers(model, everything, Condition.ABLATED_NODES, same_end)[0]
    margins = (left[:, 0] - left[:, 1])[0::2]
    torch.testing.assert_close(margins, margins[:1].expand_as(margins), rtol=1e-4, atol=1e-4)


def test_a_missing_edge_changes_the_circuit_and_not_its_nodes_alone(model, batch):
    circuit = circuit_of(model, batch, 0.5)
    key = "1.mlp_neuron->mlp_out"
    less = replace(circuit, edges=dict(circuit.edges) | {key: circuit.edges[key][:-20]})
    whole, part = (answers(model, c, Condition.CIRCUIT, batch) for c in (circuit, less))
    assert not torch.allclose(whole, part, atol=1e-4)
    whole, part = (answers(model, c, Condition.NODES_ONLY, batch) for c in (circuit, less))
    assert torch.equal(whole, part)


def test_losses_are_means_over_draws_with_and_without_calibration(model, batch, resampled, params):
    row = ablate_task(model=model, circuit=resampled, batch=batch, config=brief(params), seed=1)
    drawn = [masked(model, resampled, batch, draw) for draw in range(3)]
    for name, calibration in (("circuit_loss_uncalibrated", (1.0, 0.0)), ("circuit_loss", (2.0, 0.5))):
        losses = [mean_loss(part, calibration) for part in drawn]
        assert row[name] == pytest.approx(sum(losses) / 3, rel=1e-3) and max(losses) - min(losses) > 1e-3
    one = replace(
        resampled, ablations=(AblationValues(resampled.ablation_values.kind, resampled.ablation_values.draws[:1]),)
    )
    assert ablate_task(model=model, circuit=one, batch=batch, config=brief(params), seed=1) != row


def test_a_circuit_held_at_zero_is_tested_at_zero(model, batch):
    circuit = circuit_of(model, batch, 0.4)
    zero = replace(circuit, ablations=(AblationValues.at_zero(circuit.means),))
    by_hand = replace(circuit, means={key: torch.zeros_like(mean) for key, mean in circuit.means.items()})
    for condition in Condition:
        assert torch.equal(answers(model, zero, condition, batch), answers(model, by_hand, condition, batch))


def test_random_node_sets_have_the_circuit_s_size_at_every_site(model, batch):
    circuit = circuit_of(model, batch, 0.3)
    drawn = Complement(model, circuit).random_set(circuit, torch.Generator().manual_seed(0), of_edges=False)
    assert {k: len(v) for k, v in drawn.nodes.items()} == {k: len(v) for k, v in circuit.nodes.items()}
    assert any(not torch.equal(drawn.nodes[key], circuit.nodes[key]) for key in circuit.nodes)


def test_random_edge_sets_have_the_circuit_s_size_per_kind_and_only_real_edges(model, batch):
    with torch.no_grad():
        model.transformer["h"][0].mlp.c_fc.weight[::2] = 0
    circuit = circuit_of(model, batch, 0.3)
    drawn = Complement(model, circuit).random_set(circuit, torch.Generator().manual_seed(0), of_edges=True)
    assert {k: len(v) for k, v in drawn.edges.items()} == {k: len(v) for k, v in circuit.edges.items()}
    real = {tuple(pair) for pair in nonzero_edges(model, "0.mlp_in->mlp_neuron").tolist()}
    chosen = [tuple(pair) for pair in drawn.edges["0.mlp_in->mlp_neuron"].tolist()]
    assert set(chosen) <= real and len(set(chosen)) == len(chosen)
    assert all(target % 2 for _, target in chosen)


def brief(params):
    return params.ablate.model_copy(update={"n_random": 3, "n_bootstrap": 100})


def test_the_report_has_every_condition_its_interval_and_its_controls_and_repeats(model, batch, params):
    circuit = circuit_of(model, batch, 0.4)
    row = ablate_task(model=model, circuit=circuit, batch=batch, config=brief(params), seed=1)
    assert row == ablate_task(model=model, circuit=circuit, batch=batch, config=brief(params), seed=1)
    assert row["unpruned_loss"] == pytest.approx(mean_loss(score(model, batch)), rel=1e-5)
    for name in ("unpruned", "circuit", "nodes_only", "ablated_nodes", "ablated_edges"):
        low, high = row[f"{name}_loss_interval"]
        assert low <= row[f"{name}_loss"] <= high and 0 <= row[f"{name}_accuracy"] <= 1
    for name in ("random_circuit", "random_nodes_only", "random_nodes", "random_edges"):
        assert len(row[f"{name}_losses"]) == 3
        assert sorted(row[f"{name}_losses"])[1] == row[f"{name}_loss_median"]
    assert not any("edges_only" in key for key in row)


def test_the_controls_of_a_circuit_are_circuits_of_random_edges(model, batch, params, monkeypatch):
    """Whatever the controls draw, their loss is that of a circuit that holds just that, uncalibrated."""
    circuit, drawn, random_set = circuit_of(model, batch, 0.3), [], Complement.random_set

    def noted(*given, of_edges):
        found = random_set(*given, of_edges=of_edges)
        drawn.extend([found] if of_edges else [])
        return found

    monkeypatch.setattr(Complement, "random_set", noted)
    row = ablate_task(model=model, circuit=circuit, batch=batch, config=brief(params), seed=1)
    losses = [mean_loss(masked(model, one, batch)) for one in drawn[:3]]
    assert row["random_circuit_losses"] == pytest.approx(losses, rel=1e-3)
    assert len(drawn) == 6  # for the circuit, and for its edges ablated


def test_a_circuit_without_nodes_and_edges_is_tested_as_any_other(model, batch, params):
    row = ablate_task(model=model, circuit=circuit_of(model, batch, -1), batch=batch, config=brief(params), seed=1)
    assert row["random_circuit_losses"] == [row["circuit_loss"]] * 3
    assert row["ablated_edges_loss"] == pytest.approx(row["unpruned_loss"], rel=1e-5)


def test_random_sets_are_of_the_complement_and_of_none_where_the_circuit_is_everything(model, batch, params):
    circuit = circuit_of(model, batch, 0.4)
    complement = Complement(model, circuit)
    for of_edges in (False, True):
        drawn = complement.random_set(circuit, torch.Generator().manual_seed(0), of_edges=of_edges)
        own, found = (one.edges if of_edges else one.nodes for one in (circuit, drawn))
        assert not any(set(map(str, own[key].tolist())) & set(map(str, found[key].tolist())) for key in found)
    row = ablate_task(model=model, circuit=circuit_of(model, batch, 1.1), batch=batch, config=brief(params), seed=1)
    for name in ("random_nodes", "random_edges"):
        assert row[f"{name}_losses"] == pytest.approx([row["unpruned_loss"]] * 3, rel=1e-5)


def test_a_circuit_of_another_checkpoint_is_refused_with_both_hashes(model, batch, params):
    model.checkpoint = "def"
    with pytest.raises(WrongModelError, match="abc, not to def"):
        ablate_task(model=model, circuit=circuit_of(model, batch, 0.5), batch=batch, config=brief(params), seed=1)


def test_a_tie_is_not_a_right_answer():
    assert accuracy(torch.tensor([[1.0, 0.0], [0.0, 0.0]])) == 0.5


def test_pair_losses_average_the_two_sides():
    assert of_pairs(torch.tensor([1.0, 3.0, 0.0, 1.0])).tolist() == [2.0, 0.5]


def test_the_interval_of_a_constant_is_the_constant_and_covers_the_mean_of_a_sample():
    generator = torch.Generator().manual_seed(0)
    assert interval(torch.full((9,), 2.0), 100, generator) == pytest.approx([2.0, 2.0])
    values = torch.randn(400, generator=generator)
    low, high = interval(values, 1000, generator)
    assert low < float(values.mean()) < high
    assert high - low == pytest.approx(2 * 1.96 * float(values.std()) / 20, rel=0.15)
