"""Training with the kernels equals training with plain torch: the same losses, the same masks."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.model import abstopk, attention, norm
from pipeline.model.initial import new_model
from pipeline.model.linear import skip_zeros
from pipeline.pretrain import optimizer, step
from pipeline.pretrain.optimizer import SparseAdam
from tests.pretrain.oracle import largest

STEPS, VOCAB = 50, 40


def sorted_selection(x, k, inplace=False):
    keep = abstopk.select_sorted(x, k)
    kept = torch.where(keep.bool(), x, 0)
    return x.copy_(kept) if inplace else kept, keep


def sorted_projection(targets, progress, keep_alive):
    for target in targets:
        weight = target.parameter.detach()
        if target.budget(progress) < weight.numel():
            keep = largest(weight.numpy(), target.budget(progress), keep_alive, target.alive_axis)
            weight.mul_(torch.from_numpy(keep))


def choose_by_sorting(monkeypatch):
    """From here on AbsTopK and the projection sort."""
    monkeypatch.setattr(abstopk, "select", sorted_selection)
    monkeypatch.setattr(abstopk, "packed", lambda keep: keep)
    monkeypatch.setattr(abstopk, "masked", lambda x, keep: torch.where(keep.bool(), x, 0))
    monkeypatch.setattr(optimizer, "project", sorted_projection)
    monkeypatch.setattr(optimizer, "project_few", lambda *args: [])


def use_plain_torch(monkeypatch):
    """From here on what torch has takes every kernel's place."""
    choose_by_sorting(monkeypatch)
    monkeypatch.setattr(attention.CausalAttention, "apply", lambda *args: attention.attend_fused(*args, None))
    monkeypatch.setattr(norm.RMSNorm, "forward", nn.RMSNorm.forward)
    monkeypatch.setattr(step, "cross_entropy", F.cross_entropy)


class Training:
    """A sparse model in training on random tokens, four sequences a step."""

    def __init__(self, params, config, sparse_below):
        shared = params.pretrain.model_copy(update={"anneal_end": 0.5, "keep_alive": 2})
        self.model = new_model(config, VOCAB, 0, None)
        skip_zeros(self.model, sparse_below)
        self.adam = SparseAdam(self.model, config, shared, STEPS)
        shape, generator = (STEPS, 4, config.n_ctx + 1), torch.Generator().manual_seed(1)
        self.tokens = torch.randint(VOCAB, shape, generator=generator)

    def step(self, i, precision=None):
        return float(step.train_step(self.model, self.adam, self.tokens[i], i, precision or nullcontext(), 1))

    def weights(self):
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def go_on_from(self, other):
        self.model.load_state_dict(other.model.state_dict())
        self.adam.adam.load_state_dict(deepcopy(other.adam.adam.state_dict()))


SPARSE = {"d_model": 64, "d_head": 16, "block_density": 0.125, "embed_density": 0.125, "sink": True, "lr": 0.02}


def test_with_choices_made_by_sorting_every_loss_and_weight_is_the_same_to_the_bit(params, tiny_config, monkeypatch):
    config = tiny_config(**SPARSE, afrac=0.25)
    fast, sorting = (Training(params, config, sparse_below=0.5) for _ in range(2))
    losses = [fast.step(i) for i in range(STEPS)]
    choose_by_sorting(monkeypatch)
    assert losses == [sorting.step(i) for i in range(STEPS)]
    expected = sorting.weights()
    assert all(torch.equal(weight, expected[name]) for name, weight in fast.weights().items())


# Kernels add in another order than torch: a number moves by some 1e-7 of itself. Without AbsTopK, whose choices are
# tested above, the loss follows as smoothly; a weight may fall on the other side of its matrix' threshold only if it is
# as near to it.
@pytest.mark.parametrize("sparse_below", [0.0, 0.5], ids=["dense products", "sparse products"])
def test_each_of_fifty_steps_gives_the_loss_and_the_masks_of_plain_torch(params, tiny_config, sparse_below):
    config = tiny_config(**SPARSE, afrac=1.0)
    fast, plain = Training(params, config, sparse_below), Training(params, config, 0.0)
    for i in range(STEPS):
        plain.go_on_from(fast)
        loss = fast.step(i)
        with pytest.MonkeyPatch.context() as monkeypatch:
            use_plain_torch(monkeypatch)
            assert loss == pytest.approx(plain.step(i), rel=1e-6)
        theirs = plain.weights()
        for name, ours in fast.weights().items():
            differ = (ours != 0) != (theirs[name] != 0)
            threshold = ours[ours != 0].abs().min()
            near = (ours + theirs[name]).abs()[differ] / threshold - 1  # one of the two is 0
            assert near.abs().le(1e-4).all(), name
    assert int(torch.count_nonzero(fast.model.lm_head.weight)) == round(0.125 * VOCAB * 64)


@pytest.mark.parametrize("sparse_below", [0.0, 0.5], ids=["dense products", "sparse products"])
def test_a_step_in_bfloat16_is_near_the_one_in_float32(params, tiny_config, sparse_below):
    config = tiny_config(**SPARSE, afrac=0.25)
    exact, rounded = Training(params, config, 0.0), Training(params, config, sparse_below)
    rounded.adam.shared = exact.adam.shared.model_copy(update={"anneal_start": 0.0, "anneal_end": 0.0})
    rounded.step(0)  # sparse from here on
    exact.go_on_from(rounded)
    loss = rounded.step(1, torch.autocast("cpu", torch.bfloat16))
    assert loss == pytest.approx(exact.step(1), rel=0.01)  # three digits of a logit, averaged
