"""Pruning, worked out by hand where it can be, and checked against brute force where not."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.data.pairs import PairBatch
from pipeline.model.ablation import hold_at_means, record
from pipeline.model.held import held_linears
from pipeline.model.scoring import calibrated, mean_loss, score
from pipeline.prune import prune_task
from pipeline.prune.calibrate import calibrate
from pipeline.prune.discretise import smallest_that
from pipeline.prune.edges import induced_edges
from pipeline.prune.masks import Heaviside, by_site, flatten
from pipeline.prune.search import attribution, masked_loss, rank, search


@pytest.fixture
def pairs():
    """Twelve pairs of prompts of four to six tokens; token 1 or 2 in front decides between answers 3 and 4."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(5, 24, (12, 6), generator=generator).repeat_interleave(2, dim=0)
    tokens[0::2, 0], tokens[1::2, 0] = 1, 2
    last = torch.tensor([3, 4, 5]).repeat(4).repeat_interleave(2)
    answers = torch.tensor([[3, 4], [4, 3]]).repeat(12, 1)
    return PairBatch(tokens, last, answers)


@pytest.fixture
def case(tiny_model, pairs):
    model = tiny_model(sink=True, afrac=0.5)
    _, values = record(model, pairs.tokens)
    return model, {key: value.mean((0, 1)) for key, value in values.items()}


def test_heaviside_steps_at_zero_and_its_gradient_is_the_sigmoid_s():
    tau = torch.tensor([-0.5, 0.0, 0.25], requires_grad=True)
    mask = Heaviside.apply(tau, 0.5)
    assert mask.tolist() == [0, 0, 1]
    mask.sum().backward()
    expected = [s * (1 - s) / 0.5 for s in (1 / (1 + math.exp(-t / 0.5)) for t in (-0.5, 0.0, 0.25))]
    assert tau.grad.tolist() == pytest.approx(expected)


def test_flat_values_come_back_by_site(case):
    _, means = case
    again = by_site(flatten(means), means)
    assert list(again) == list(means) and all(torch.equal(again[key], means[key]) for key in means)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 1.0])
def test_held_linear_maps_change_neither_logits_nor_gradients(case, pairs, kept):
    model, means = case
    flat = (torch.rand(len(flatten(means)), generator=torch.Generator().manual_seed(1)) < kept).float()
    plain_mask, held_mask = flat.clone().requires_grad_(True), flat.clone().requires_grad_(True)
    plain = model(pairs.tokens, at=pairs.last, intervene=hold_at_means(by_site(plain_mask, means), means))
    masks = by_site(held_mask, means)
    cuts = held_linears(model, {key: mask.detach() > 0 for key, mask in masks.items()}, means)
    held = model(pairs.tokens, at=pairs.last, intervene=hold_at_means(masks, means), cuts=cuts)
    torch.testing.assert_close(held, plain, rtol=1e-4, atol=1e-4)
    weights = torch.randn(plain.shape, generator=torch.Generator().manual_seed(2))
    (plain * weights).sum().backward()
    (held * weights).sum().backward()
    torch.testing.assert_close(held_mask.grad, plain_mask.grad, rtol=1e-3, atol=1e-3)


def test_attribution_is_the_first_order_rise_of_the_loss_without_a_node(case, pairs):
    model, means = case
    ones = torch.ones(len(flatten(means)))
    attributed = attribution(model, means, ones, pairs)
    node, step = int(attributed.abs().argmax()), 1e-2
    less = ones.clone()
    less[node] -= step
    with torch.no_grad():
        rise = masked_loss_of_soft(model, means, less, pairs) - masked_loss_of_soft(model, means, ones, pairs)
    assert float(rise) == pytest.approx(step * float(attributed[node]), rel=0.1)


def masked_loss_of_soft(model, means, mask, pairs):
    logits = model(pairs.tokens, at=pairs.last, intervene=hold_at_means(by_site(mask, means), means))
    right = logits.gather(-1, pairs.answers)
    return torch.nn.functional.softplus(right[:, 1] - right[:, 0]).mean()


def test_nodes_at_the_clamp_are_told_apart_by_attribution():
    order = rank(torch.tensor([1.0, 0.5, 1.0, -1.0, 1.0]), torch.tensor([0.2, 9.0, 0.1, 9.0, 0.3]))
    assert order.argsort(descending=True).tolist() == [4, 0, 2, 1, 3]
    assert order[1] == 0.5 and order[3] == -1


@pytest.mark.parametrize("threshold", [0, 1, 7, 40, 99, 100])
@pytest.mark.parametrize("start", [1, 10, 100])
def test_bisection_finds_the_smallest_k_of_a_monotone_condition(threshold, start):
    asked = []

    def holds(k):
        asked.append(k)
        return k >= threshold

    assert smallest_that(holds, start, 100) == threshold
    assert len(asked) <= 16


def test_bisection_says_so_when_nothing_meets_the_target():
    assert smallest_that(lambda k: False, 5, 100) is None


def test_calibration_finds_scale_and_shift_worked_out_by_hand():
    # Margins of +3 and +1 with equal noise: the shift that evens the two sides out is −1 on side a's answer.
    answers = torch.tensor([[3.0, 0.0], [1.0, 0.0], [-0.5, 0.0], [-2.5, 0.0]])
    scale, shift = calibrate(answers, 50)
    assert shift / scale == pytest.approx(-1.0, abs=1e-2)
    assert mean_loss(answers, (scale, shift)) < mean_loss(answers)


def test_calibration_of_no_steps_or_no_use_is_the_identity():
    perfect = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    assert calibrate(perfect, 16) == (1.0, 0.0)
    assert calibrate(torch.randn(4, 2), 0) == (1.0, 0.0)
    assert torch.equal(calibrated(perfect, (1.0, 0.0)), perfect)


def test_one_neuron_reading_one_channel_and_writing_one_is_three_nodes_and_two_edges(case):
    model, means = case
    masks = {key: torch.zeros_like(mean) for key, mean in means.items()}
    masks["1.mlp_in"][3] = masks["1.mlp_neuron"][17] = masks["1.mlp_out"][5] = 1
    edges = induced_edges(model, masks)
    assert {key: pairs.tolist() for key, pairs in edges.items()} == {
        "1.mlp_in->mlp_neuron": [[3, 17]],
        "1.mlp_neuron->mlp_out": [[17, 5]],
    }


def test_a_zero_weight_is_no_edge_and_q_k_v_have_their_own_rows(case):
    model, means = case
    masks = {key: torch.zeros_like(mean) for key, mean in means.items()}
    masks["0.attn_in"][2] = masks["0.attn_q"][1] = masks["0.attn_v"][4] = masks["0.attn_out"][0] = 1
    c_attn, c_proj = model.transformer["h"][0].attn.c_attn, model.transformer["h"][0].attn.c_proj
    c_attn.weight[1, 2] = 0
    assert c_attn.weight[2 * 16 + 4, 2] != 0 and c_proj.weight[0, 4] != 0
    assert set(induced_edges(model, masks)) == {"0.attn_in->attn_v", "0.attn_v->attn_out"}


def test_everything_kept_gives_every_nonzero_weight_as_an_edge(case):
    model, means = case
    edges = induced_edges(model, {key: torch.ones_like(mean) for key, mean in means.items()})
    blocks = (p for name, p in model.named_parameters() if ".h." in name and name.endswith("weight") and p.ndim == 2)
    assert sum(map(len, edges.values())) == sum(int(torch.count_nonzero(p)) for p in blocks)


def test_the_loss_at_an_all_ones_mask_is_the_model_s(case, pairs):
    model, means = case
    ones = torch.ones(len(flatten(means)))
    assert float(masked_loss(model, means, ones, pairs)) == pytest.approx(mean_loss(score(model, pairs)), rel=1e-5)


def test_a_task_that_the_model_cannot_do_has_no_circuit(case, pairs, params):
    model, means = case
    config = params.prune.model_copy(update={"steps": 2, "batch_pairs": 4})
    batches = {"train": pairs, "validation": pairs, "test": pairs}
    pruned = prune_task(model=model, means=means, batches=batches, config=config, seed=0, about={})
    assert pruned.row["unpruned_validation_loss"] > config.target_loss
    assert pruned.circuit is None and pruned.row["solved"] is False and pruned.row["n_edges"] is None


@pytest.fixture
def able(tiny_model, pairs):
    """A model that does the task in one way: a token's embedding carries the answer, attention of layer 0 brings it."""
    model = tiny_model(seed=4, sink=False, afrac=1.0)
    optimizer = torch.optim.Adam(model.requires_grad_(True).parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        right = model(pairs.tokens, at=pairs.last).gather(-1, pairs.answers)
        torch.nn.functional.softplus(right[:, 1] - right[:, 0]).mean().backward()
        optimizer.step()
    _, values = record(model.requires_grad_(False), pairs.tokens)
    return model, {key: value.mean((0, 1)) for key, value in values.items()}


def test_a_circuit_is_smaller_than_the_model_meets_the_target_and_repeats_bit_for_bit(able, pairs, params):
    model, means = able
    config = params.prune.model_copy(update={"steps": 60, "batch_pairs": 8, "k_coef": [3e-3], "lr": 0.03})
    batches = {"train": pairs, "validation": pairs, "test": pairs}
    first, second = (
        prune_task(model=model, means=means, batches=batches, config=config, seed=1, about={"task": "t"})
        for _ in range(2)
    )
    assert first.row == second.row
    circuit = first.circuit
    assert circuit is not None and 0 < circuit.n_nodes < len(flatten(means)) / 2
    held = score(model, pairs, intervene=hold_at_means(circuit.node_masks(), means))
    assert mean_loss(held, circuit.calibration) == pytest.approx(first.row["validation_loss"], abs=1e-4)
    assert first.row["validation_loss"] <= config.target_loss
    targets = [point["n_nodes"] for point in first.row["curve"] if point["n_nodes"] is not None]
    assert targets == sorted(targets)


def test_the_search_keeps_tau_within_its_clamp(able, pairs, params):
    model, means = able
    config = params.prune.model_copy(update={"steps": 20, "batch_pairs": 4, "lr": 0.5})
    order = search(model, means, pairs, config, 1e-2, seed=0)
    assert order.min() >= -1 and order.max() <= 2
