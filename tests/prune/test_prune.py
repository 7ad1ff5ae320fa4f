"""Pruning, worked out by hand where it can be, and checked against brute force where not."""

from __future__ import annotations

import math
import shutil

import pytest
import torch

from pipeline.circuit import Circuit
from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.graph import Subgraph, induced_edges
from pipeline.data.pairs import PairBatch, answer_logits
from pipeline.model.scoring import calibrate, calibrated, mean_loss, score
from pipeline.prune import prune_task
from pipeline.prune.discretise import smallest_that
from pipeline.prune.masks import Heaviside, UnitLayout
from pipeline.prune.problem import make_problem
from pipeline.prune.prune import baseline_scores
from pipeline.prune.search import NodeMasking
from pipeline.prune.tune import JOURNAL


def test_heaviside_steps_at_zero_and_its_gradient_is_the_sigmoid_s():
    tau = torch.tensor([-0.5, 0.0, 0.25], requires_grad=True)
    mask = Heaviside.apply(tau, torch.tensor(0.5))
    assert mask.tolist() == [0, 0, 1]
    mask.sum().backward()
    expected = [s * (1 - s) / 0.5 for s in (1 / (1 + math.exp(-t / 0.5)) for t in (-0.5, 0.0, 0.25))]
    assert tau.grad.tolist() == pytest.approx(expected)


def test_flat_values_come_back_by_site(problem):
    model, means = problem
    layout = UnitLayout(model.widths())
    again = layout.by_site(layout.flat(means))
    assert list(again) == list(means) and all(torch.equal(again[key], means[key]) for key in means)


def test_tied_queries_and_keys_are_one_unit_of_two_nodes(problem):
    model, means = problem
    layout, tied = UnitLayout(model.widths()), UnitLayout(model.widths(), tie_qk=True)
    assert layout.n_units - tied.n_units == 2 * len(means["0.attn_q"])
    assert tied.sizes.sum() == layout.n_units and tied.sizes.max() == 2
    mask = (torch.rand(tied.n_units, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    nodes = tied.nodes(mask)
    assert nodes["0.attn_q"].tolist() == nodes["0.attn_k"].tolist() != nodes["0.attn_v"].tolist()


@pytest.mark.parametrize("threshold", [0, 1, 7, 40, 99, 100])
@pytest.mark.parametrize("start", [1, 10, 100])
def test_bisection_finds_the_smallest_k_of_a_monotone_condition(threshold, start):
    asked = []

    def holds(k):
        asked.append(k)
        return k >= threshold

    assert smallest_that(holds, start, 100, tolerance=0) == threshold
    assert len(asked) <= 16


def test_bisection_says_so_when_nothing_meets_the_target():
    assert smallest_that(lambda k: False, 5, 100) is None


def test_calibration_finds_scale_and_shift_worked_out_by_hand():
    # Margins of +3 and +1 with equal noise: the shift that evens the two sides out is −1 on side a's answer.
    answers = torch.tensor([[3.0, 0.0], [1.0, 0.0], [-0.5, 0.0], [-2.5, 0.0]])
    scale, shift = calibrate(answers, 50, 100.0)
    assert shift / scale == pytest.approx(-1.0, abs=1e-2)
    assert mean_loss(answers, (scale, shift)) < mean_loss(answers)


def test_calibration_of_no_steps_or_no_use_is_the_identity():
    perfect = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    assert calibrate(perfect, 16, 10.0) == (1.0, 0.0)
    assert calibrate(torch.randn(4, 2), 0, 10.0) == (1.0, 0.0)
    assert torch.equal(calibrated(perfect, (1.0, 0.0)), perfect)


def test_calibration_is_torch_s_lbfgs_where_that_converges():
    answers = torch.randn((64, 2), generator=torch.Generator().manual_seed(0))
    answers[:, 0] += 0.4
    scale, shift = calibrate(answers, 50, 100.0)
    theirs = torch.tensor([1.0, 0.0], requires_grad=True)
    optimizer = torch.optim.LBFGS([theirs], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        signs = torch.tensor([1.0, -1.0]).repeat(32)
        loss = torch.nn.functional.softplus(-theirs[0] * (answers[:, 0] - answers[:, 1]) - theirs[1] * signs).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert [scale, shift] == pytest.approx(theirs.tolist(), abs=1e-3)


def test_calibration_stops_at_its_bound_and_turns_no_answer_round():
    right = torch.tensor([[0.1, 0.0], [0.1, 0.0]])
    assert calibrate(right, 16, 10.0)[0] == pytest.approx(10.0)
    assert calibrate(-right, 16, 10.0)[0] >= 0


def test_one_neuron_reading_one_channel_and_writing_one_is_three_nodes_and_two_edges(problem):
    model, means = problem
    masks = {key: torch.zeros_like(mean) for key, mean in means.items()}
    masks["1.mlp_in"][3] = masks["1.mlp_neuron"][17] = masks["1.mlp_out"][5] = 1
    edges = induced_edges(model, masks)
    assert {key: pairs.tolist() for key, pairs in edges.items()} == {
        "1.mlp_in->mlp_neuron": [[3, 17]],
        "1.mlp_neuron->mlp_out": [[17, 5]],
    }


def test_a_zero_weight_is_no_edge_and_q_k_v_have_their_own_rows(problem):
    model, means = problem
    masks = {key: torch.zeros_like(mean) for key, mean in means.items()}
    masks["0.attn_in"][2] = masks["0.attn_q"][1] = masks["0.attn_v"][4] = masks["0.attn_out"][0] = 1
    c_attn, c_proj = model.transformer["h"][0].attn.c_attn, model.transformer["h"][0].attn.c_proj
    c_attn.weight[1, 2] = 0
    assert c_attn.weight[2 * 16 + 4, 2] != 0 and c_proj.weight[0, 4] != 0
    assert set(induced_edges(model, masks)) == {"0.attn_in->attn_v", "0.attn_v->attn_out"}


def test_everything_kept_gives_every_nonzero_weight_as_an_edge(problem):
    model, means = problem
    edges = induced_edges(model, {key: torch.ones_like(mean) for key, mean in means.items()})
    blocks = (p for name, p in model.named_parameters() if ".h." in name and name.endswith("weight") and p.ndim == 2)
    assert sum(map(len, edges.values())) == sum(int(torch.count_nonzero(p)) for p in blocks)


def test_the_loss_at_an_all_ones_mask_is_the_model_s(problem, pairs):
    model, means = problem
    masking = NodeMasking.of(model, [AblationValues.at_means(means)], tie_qk=False)
    (loss,) = masking.losses(torch.ones(1, masking.layout.n_units), pairs, masking.behind(masking.draws[0], pairs))
    assert float(loss) == pytest.approx(mean_loss(score(model, pairs)), rel=1e-5)


def test_a_task_that_the_model_cannot_do_has_no_circuit(problem, pairs, params):
    model, means = problem
    config = params.prune.model_copy(update={"steps": 2, "batch_pairs": 4})
    batches = {"train": pairs, "validation": pairs, "test": pairs}
    pruned = prune_task(model=model, means=means, batches=batches, config=config, seed=0, about={})
    assert pruned.row["unpruned_validation_loss"] > config.target_loss
    assert pruned.circuit is None and pruned.row["solved"] is False and pruned.row["n_edges"] is None


def fast(config, **changes):
    """Settings of pruning that take seconds on a tiny model."""
    centre = config.centres[0].model_copy(update={"k_coef": 3e-3, "lr": 0.03})
    changes = {
        "steps": 60,
        "batch_pairs": 8,
        "centres": [centre],
        "curve_losses": [0.5, 0.15],
        "baselines": [],
    } | changes
    return config.model_copy(update=changes)


def pruned(able, pairs, config, **arguments):
    model, means = able
    batches = {"train": pairs, "validation": pairs, "test": pairs}
    arguments = {"seed": 1, "about": {"task": "t"}} | arguments
    return prune_task(model=model, means=means, batches=batches, config=config, **arguments)


def test_a_circuit_is_smaller_than_the_model_meets_the_target_and_repeats_bit_for_bit(able, pairs, params):
    model, means = able
    first, second = (pruned(able, pairs, fast(params.prune)) for _ in range(2))
    assert first.row == second.row and first.trials == second.trials
    circuit = first.circuit
    assert circuit is not None and 0 < circuit.n_nodes < sum(model.widths().values()) / 2
    answers = answer_logits(circuit(model)(pairs.tokens, at=pairs.last), pairs)
    assert mean_loss(answers, circuit.calibration) == pytest.approx(first.row["validation_loss"], abs=1e-3)
    assert first.row["validation_loss"] <= params.prune.target_loss
    sizes = [point["n_edges"] for point in first.row["curve"] if point["n_edges"] is not None]
    assert sizes == sorted(sizes) and circuit.n_edges in sizes


def test_a_circuit_comes_back_from_its_folder_and_runs_the_same(able, pairs, params, tmp_path):
    model, _ = able
    circuit = pruned(
        able, pairs, fast(params.prune, ablations=["zero"]), ablations=(AblationValues.at_zero(able[1]),)
    ).circuit
    circuit.save(tmp_path / "circuit")
    again = Circuit.load(tmp_path / "circuit")
    assert again.certificate == circuit.certificate and again.ablation_values.kind == "zero"
    tokens, at = pairs.tokens, pairs.last
    assert torch.equal(circuit(model)(tokens, at=at), again(model)(tokens, at=at))
    torch.testing.assert_close(again.compact(model)(tokens, at=at), again(model)(tokens, at=at), rtol=1e-4, atol=1e-4)


def test_no_single_node_and_no_single_edge_of_a_circuit_can_go(able, pairs, params):
    """Brute force: each removal by the masked model, against the certificate."""
    model, _ = able
    circuit = pruned(able, pairs, fast(params.prune)).circuit
    target, steps, most = params.prune.target_loss, params.prune.calibration_steps, params.prune.most_scale

    def loss(nodes, edges):
        masked = circuit_of(circuit, nodes, edges)(model)
        answers = answer_logits(masked(pairs.tokens, at=pairs.last), pairs)
        return mean_loss(answers, calibrate(answers, steps, most))

    for key, indices in circuit.nodes.items():
        for i, index in enumerate(indices):
            nodes = dict(circuit.nodes) | {key: torch.cat([indices[:i], indices[i + 1 :]])}
            removed = loss(nodes, without_node(circuit.edges, key, int(index)))
            assert removed == pytest.approx(circuit.certificate["nodes"][key][i], abs=2e-3) and removed > target - 2e-3
    for key, ends in circuit.edges.items():
        for i in range(len(ends)):
            removed = loss(circuit.nodes, dict(circuit.edges) | {key: torch.cat([ends[:i], ends[i + 1 :]])})
            assert removed == pytest.approx(circuit.certificate["edges"][key][i], abs=2e-3) and removed > target - 2e-3


def circuit_of(circuit, nodes, edges):
    return Circuit(nodes, edges, circuit.means, circuit.scores, circuit.ablations, circuit.calibration)


def without_node(edges, key, index):
    """The edges that do not end in a node."""
    left = {}
    for kind, ends in edges.items():
        layer, _, both = kind.partition(".")
        source, _, target = both.partition("->")
        gone = torch.zeros(len(ends), dtype=torch.bool)
        gone |= (key == f"{layer}.{source}") & (ends[:, 0] == index)
        gone |= (key == f"{layer}.{target}") & (ends[:, 1] == index)
        left[kind] = ends[~gone]
    return left


def test_tied_masks_keep_queries_and_keys_together(able, pairs, params):
    circuit = pruned(able, pairs, fast(params.prune, tie_qk=True)).circuit
    for layer in range(2):
        q, k = (circuit.nodes.get(f"{layer}.attn_{part}", torch.zeros(0)).tolist() for part in "qk")
        assert q == k


def test_resampled_values_are_an_option(able, pairs, params):
    model, means = able
    generator = torch.Generator().manual_seed(0)
    samples = {key: mean + 0.1 * torch.randn((3, len(mean)), generator=generator) for key, mean in means.items()}
    config = fast(params.prune, ablation="resample", draws=3)
    found = pruned(able, pairs, config, ablations=(AblationValues.resampled(samples),))
    losses = [
        mean_loss(
            answer_logits(found.circuit(model, draw)(pairs.tokens, at=pairs.last), pairs), found.circuit.calibration
        )
        for draw in range(3)
    ]
    assert sum(losses) / 3 == pytest.approx(found.row["validation_loss"], abs=2e-3)


def bits(circuit, folder):
    """The bytes of the files that a circuit is saved in."""
    if not folder.exists():
        circuit.save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_optuna_s_trials_are_seeded_and_go_on_from_wherever_they_were_killed(
    able, pairs, params, tmp_path, monkeypatch
):
    """From the journal as it was after each of its lines, with a ranking that nobody counts on yet beside it."""
    monkeypatch.setattr("pipeline.prune.limits.MAX_LEARNABLE_EDGES", 4000)  # the centre has more, the next one less
    config = fast(params.prune, budget=4, at_once=2)
    whole = pruned(able, pairs, config, storage=tmp_path / "whole")
    assert [trial["source"] for trial in whole.trials] == ["centre", "gentler"] + 4 * ["optuna"]
    lines = (tmp_path / "whole" / JOURNAL).read_bytes().splitlines(keepends=True)
    for at in sorted({*range(1, len(lines), len(lines) // 8), len(lines) - 1, len(lines)}):
        killed = shutil.copytree(tmp_path / "whole", tmp_path / str(at))
        (killed / JOURNAL).write_bytes(b"".join(lines[:at]))
        resumed = pruned(able, pairs, config, storage=killed)
        assert resumed.trials == whole.trials and resumed.row == whole.row, at
        assert bits(resumed.circuit, tmp_path / f"{at}.circuit") == bits(whole.circuit, tmp_path / "circuit")


def test_every_baseline_ranks_every_unit(able, pairs, params):
    model, means = able
    masking = NodeMasking.of(model, [AblationValues.at_means(means)], tie_qk=False)
    for kind in params.prune.baselines:
        scores = baseline_scores(kind, masking, pairs, 0, 4)
        assert scores.shape == (masking.layout.n_units,) and bool(scores.isfinite().all())


def test_where_no_centre_gives_few_edges_gentler_ones_are_tried(able, pairs, params, monkeypatch):
    """Anything is too many edges here, so that both gentler trials are made, each with less weight on the size."""
    monkeypatch.setattr("pipeline.prune.limits.MAX_LEARNABLE_EDGES", -1)
    trials = pruned(able, pairs, fast(params.prune, steps=20)).trials
    assert [trial["hyperparameters"]["k_coef"] for trial in trials] == pytest.approx([3e-3, 7.5e-4, 1.875e-4])


def test_a_search_that_ends_far_from_what_a_looser_target_takes_is_made_again(able, pairs, params, monkeypatch):
    """Every circuit counts as far here, so that gentler trials follow; a circuit as large at the looser target does
    not."""
    assert [trial["source"] for trial in pruned(able, pairs, fast(params.prune)).trials] == ["centre"]
    monkeypatch.setattr("pipeline.prune.limits.FAR_RATIO", 0.0)
    trials = pruned(able, pairs, fast(params.prune)).trials
    assert [trial["source"] for trial in trials] == ["centre", "gentler", "gentler"]


def test_circuits_too_large_to_be_minimised_are_not_searched_for_again(able, pairs, params, monkeypatch):
    monkeypatch.setattr("pipeline.prune.limits.MAX_LEARNABLE_EDGES", 10)
    found = pruned(able, pairs, fast(params.prune, max_minimised_edges=5))
    assert len(found.trials) == 1 and found.row["n_edges"] == found.row["discretised"]["n_edges"] > 10


def test_of_the_pairs_only_the_first_are_used(able, pairs, params):
    """What comes behind them may be anything."""
    few = fast(params.prune, train_pairs=10, validation_pairs=8, calibration_pairs=6)
    wrong = pairs.answers.clone()
    wrong[20:] = wrong[20:].flip(1)
    other = PairBatch(pairs.tokens, pairs.last, wrong)
    model, means = able
    problems = [
        make_problem(model, [AblationValues.at_means(means)], {"train": batch, "validation": batch}, few, 1)
        for batch in (pairs, other)
    ]
    whole = Subgraph(
        {key: torch.arange(width) for key, width in model.widths().items()},
        induced_edges(model, {key: torch.ones(width) for key, width in model.widths().items()}),
    )
    losses = [problem.evaluator(whole, 10.0).loss for problem in problems]
    assert losses[0] == losses[1] and [stage.pairs.n_pairs for stage in problems[0].evaluator.stages] == [6, 8, 4]
