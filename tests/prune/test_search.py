"""Phase 2: trials in one batch, AdamW with its rate and clipping worked out by hand, and the scores of units."""

from __future__ import annotations

import pytest
import torch

from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.interventions import mask_nodes
from pipeline.circuit.node_masks import NodeMasks
from pipeline.data.pairs import answer_logits, prompt_losses
from pipeline.prune.masks import UnitLayout
from pipeline.prune.search import NodeMasking, TrialMasks, attribution, break_ties, search


@pytest.mark.parametrize("density", [1.0, 0.1])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 1.0])
def test_trials_in_one_batch_have_the_logits_and_gradients_of_each_alone(tiny_model, pairs, kept, density):
    model = tiny_model(sink=True, afrac=0.5, d_model=64, d_head=16)
    generator = torch.Generator().manual_seed(1)
    if density < 1:
        for parameter in model.transformer["h"].parameters():
            if parameter.ndim == 2:
                parameter.mul_((torch.rand(parameter.shape, generator=generator) < density).float())
    widths = model.widths()
    ablated_to = {key: 0.1 * torch.randn(width, generator=generator) for key, width in widths.items()}
    flat = (torch.rand((3, sum(widths.values())), generator=generator) < kept).float()
    weights = torch.randn((len(pairs.tokens), 24), generator=generator)
    layout, many = UnitLayout(widths), flat.clone().requires_grad_(True)
    logits = model(pairs.tokens, at=pairs.last, copies=3, **NodeMasks(model, ablated_to)(layout.by_site(many)))
    (logits.view(3, *weights.shape) * weights).sum().backward()
    for i, part in enumerate(logits.view(3, *weights.shape)):
        alone = flat[i].clone().requires_grad_(True)
        plain = model(pairs.tokens, at=pairs.last, intervene=mask_nodes(layout.by_site(alone), ablated_to))
        torch.testing.assert_close(part, plain, rtol=1e-4, atol=1e-4)
        (plain * weights).sum().backward()
        torch.testing.assert_close(many.grad[i], alone.grad, rtol=1e-3, atol=2e-3)


def test_attribution_is_the_first_order_rise_of_the_loss_without_a_node(problem, pairs):
    model, means = problem
    masking = NodeMasking.of(model, [AblationValues.at_means(means)], tie_qk=False)
    ones = torch.ones(masking.layout.n_units)
    attributed = attribution(masking, ones, pairs, 64)
    node, step = int(attributed.abs().argmax()), 1e-2
    less = ones.clone()
    less[node] -= step
    rise = masked_loss(masking, less, pairs) - masked_loss(masking, ones, pairs)
    assert float(rise) == pytest.approx(step * float(attributed[node]), rel=0.1)


def masked_loss(masking, mask, pairs):
    """The task loss under one mask, by the plain definition."""
    masks = masking.layout.by_site(mask)
    logits = masking.model(pairs.tokens, at=pairs.last, intervene=mask_nodes(masks, masking.ablations[0].first))
    return float(prompt_losses(answer_logits(logits, pairs)).mean())


def test_trials_take_the_steps_of_torch_s_adamw(params):
    trials = [c.model_copy(update={"warmup": 0.0, "weight_decay": 0.3}) for c in params.prune.centres[:2]]
    ours = TrialMasks(trials, [3, 4], 50, params.prune.model_copy(update={"grad_clip": 1e9, "steps": 10**9}))
    theirs = [tau.clone().requires_grad_(True) for tau in ours.tau]
    optimizers = [
        torch.optim.AdamW([tau], lr=t.lr, betas=(0.9, t.beta2), weight_decay=t.weight_decay)
        for tau, t in zip(theirs, trials, strict=True)
    ]
    generator = torch.Generator().manual_seed(0)
    for step in range(5):
        gradient = torch.randn(ours.tau.shape, generator=generator)
        ours.update(gradient, step)
        for tau, optimizer, part in zip(theirs, optimizers, gradient, strict=True):
            tau.grad = part.clone()
            optimizer.step()
    torch.testing.assert_close(ours.tau, torch.stack(theirs).detach(), rtol=1e-4, atol=1e-5)


def test_the_rate_rises_for_the_warm_up_and_falls_to_0(params):
    """Under a constant gradient AdamW moves τ by the rate: of 10 steps, 0.2 are warm-up, here 2."""
    trial = {"init_noise_scale": 0.0, "init_noise_bias": 0.9, "weight_decay": 0.0, "lr": 0.1, "warmup": 0.2}
    masks = trial_masks(params.prune, trial, n_trials=1, steps=10, grad_clip=1e9)
    moved = [float(step_of(masks, torch.ones(1, 2), step)[0, 0]) for step in range(10)]
    assert moved == pytest.approx([0.05, 0.09, 0.08, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01], abs=1e-6)


def test_each_trial_s_gradient_is_clipped_to_grad_clip(params):
    """(3, 4) has norm 5 and is clipped to (0.6, 0.8), so that AdamW sees that gradient twice and moves τ by the rate;
    the other trial's, of norm 0.5, is left alone. Unclipped, the second step were 0.0965, as worked out below."""
    trial = {
        "init_noise_scale": 0.0,
        "init_noise_bias": 0.5,
        "weight_decay": 0.0,
        "lr": 0.1,
        "warmup": 0.0,
        "beta2": 0.5,
    }
    first, second = torch.tensor([[3.0, 4.0], [0.3, 0.4]]), torch.tensor([[0.6, 0.8], [0.3, 0.4]])
    masks = trial_masks(params.prune, trial, n_trials=2, steps=10**9, grad_clip=1.0)
    for step, gradient in enumerate((first, second)):
        torch.testing.assert_close(step_of(masks, gradient, step), torch.full((2, 2), 0.1), rtol=0, atol=1e-6)
    masks = trial_masks(params.prune, trial, n_trials=1, steps=10**9, grad_clip=1e9)
    step_of(masks, first[:1], 0)
    mean, square = (0.9 * 0.1 * 5 + 0.1) / (1 - 0.9**2), (0.5 * 0.5 * 25 + 0.5) / (1 - 0.5**2)  # of gradients 5 and 1
    moved = step_of(masks, second[:1], 1)
    assert moved[0].tolist() == pytest.approx([0.1 * mean / square**0.5] * 2, abs=1e-6) and moved[0, 0] < 0.0966


def trial_masks(config, hyperparameters, n_trials, **changes):
    """τ of two units, the same in all trials."""
    trial = config.centres[0].model_copy(update=hyperparameters)
    return TrialMasks([trial] * n_trials, [0] * n_trials, 2, config.model_copy(update=changes))


def step_of(masks, gradient, step):
    """How far an update lowers τ [trial, unit]."""
    before = masks.tau.clone()
    masks.update(gradient, step)
    return before - masks.tau


def test_nodes_at_the_clamps_are_told_apart_by_attribution():
    tau = torch.tensor([1.0, 0.5, 1.0, -1.0, 1.0, -1.0, -0.5])
    scores = break_ties(tau, torch.tensor([0.2, 9.0, 0.1, 0.1, 0.3, 0.2, 0.0]))
    assert scores.argsort(descending=True).tolist() == [4, 0, 2, 1, 6, 5, 3]
    assert scores[1] == 0.5 and scores[6] == -0.5


def test_the_search_keeps_tau_within_its_clamp(able, pairs, params):
    model, means = able
    masking = NodeMasking.of(model, [AblationValues.at_means(means)], tie_qk=False)
    config = params.prune.model_copy(update={"steps": 20, "batch_pairs": 4})
    scores = search(masking, pairs, config, [config.centres[0].model_copy(update={"lr": 0.5})], [0], 0)
    assert -2 <= scores[0].min() and scores[0].max() <= 2
