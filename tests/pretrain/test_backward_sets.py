"""Training between dense gradients: exact for the weights of the set, the others wait; off, nothing changes."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from pipeline.config import ConfigError
from pipeline.kernels.sparse import Nonzeros
from pipeline.model.initial import new_model
from pipeline.model.linear import skip_zeros
from pipeline.pretrain.backward_set import BackwardSet
from pipeline.pretrain.distributed import Ranks
from pipeline.pretrain.loop import pretrain
from pipeline.pretrain.optimizer import SparseAdam
from pipeline.pretrain.projection import project
from pipeline.pretrain.step import train_step

STEPS, VOCAB = 24, 64
ANNEALED = STEPS // 2
SPARSE = {"d_model": 64, "d_head": 16, "block_density": 0.125, "embed_density": 0.125, "afrac": 0.25, "lr": 0.03}


class Training:
    """A sparse model in training on random tokens, whose annealing ends at step ANNEALED."""

    def __init__(self, params, tiny_config, every):
        config = tiny_config(**SPARSE)
        shared = {"anneal_end": 0.5, "keep_alive": 2, "dense_gradient_every": every}
        self.model = new_model(config, VOCAB, 0, None)
        skip_zeros(self.model, 0.5)
        self.optimizer = SparseAdam(self.model, config, params.pretrain.model_copy(update=shared), STEPS)
        shape, generator = (STEPS, 4, config.n_ctx + 1), torch.Generator().manual_seed(1)
        self.tokens = torch.randint(VOCAB, shape, generator=generator)

    def run(self, steps):
        for i in steps:
            train_step(self.model, self.optimizer, self.tokens[i], i, nullcontext(), 1)
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def sets(self):
        return {one.target.name: one for one in self.optimizer.backward_sets.sets}


@pytest.fixture
def training(params, tiny_config):
    return lambda every: Training(params, tiny_config, every)


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_with_every_gradient_dense_there_is_no_set_and_up_to_annealing_s_end_the_option_changes_no_bit(training):
    exact, few = training(1), training(4)
    assert same(exact.run(range(ANNEALED + 1)), few.run(range(ANNEALED + 1)))  # the step that ends it is dense
    assert not exact.sets() and few.sets()
    assert not same(exact.run(range(ANNEALED + 1, STEPS)), few.run(range(ANNEALED + 1, STEPS)))


def test_a_set_is_the_nonzero_weights_and_as_many_that_adam_would_move_furthest(training):
    few = training(4)
    few.run(range(ANNEALED + 1))
    assert set(few.sets()) == {n for n, p in few.model.named_parameters() if p.ndim == 2 and ("c_" in n or "lm" in n)}
    for one in few.sets().values():
        weight, moments = one.layer.weight.detach().view(-1), few.optimizer.adam.state[one.layer.weight]
        inside = torch.zeros_like(weight, dtype=torch.bool)
        inside[one.flat] = True
        assert inside[weight != 0].all() and len(one.flat) == 2 * int((weight != 0).sum())
        score = (moments["exp_avg"].abs() / (moments["exp_avg_sq"].sqrt() + 0.1)).view(-1)
        candidates, others = score[inside & (weight == 0)], score[~inside]
        assert candidates.min() >= others.max() * (1 - 1e-5)


def test_between_dense_gradients_what_is_not_in_a_set_stays_zero_and_its_moments_stay(training):
    few = training(8)
    few.run(range(ANNEALED + 1))
    before = {name: few.optimizer.adam.state[one.layer.weight]["exp_avg"].clone() for name, one in few.sets().items()}
    few.run(range(ANNEALED + 1, 16))
    for name, one in few.sets().items():
        one.settle()
        moments, weight = few.optimizer.adam.state[one.layer.weight], one.layer.weight.detach()
        outside = torch.ones(weight.numel(), dtype=torch.bool)
        outside[one.flat] = False
        assert not weight.view(-1)[outside].any()
        assert torch.equal(moments["exp_avg"].view(-1)[outside], before[name].view(-1)[outside])
        assert not torch.equal(moments["exp_avg"].view(-1)[one.flat], before[name].view(-1)[one.flat])
        assert int(moments["step"]) == 16


def test_weights_still_come_and_go_within_the_budget(training):
    few = training(8)
    supports = [{name: p != 0 for name, p in few.run(range(ANNEALED + 1)).items()}]
    for one in few.sets().values():  # in training, weights at the threshold are as small as a step; here all are
        one.weight.mul_(0.01)
        one.layer.weight.data.mul_(0.01)
    supports.append({name: p != 0 for name, p in few.run(range(ANNEALED + 1, 16)).items()})
    for name, one in few.sets().items():
        before, after = (support[name] for support in supports)
        assert int(after.sum()) == int(before.sum()) == one.target.budget(1.0)
        axis = one.target.alive_axis
        assert axis is None or int(after.sum(1 - axis).min()) >= 2
    assert any(not torch.equal(supports[0][name], supports[1][name]) for name in few.sets())


def test_a_set_of_all_weights_moves_as_adam_projection_and_decay_move_the_matrix(training):
    few, exact = training(8), training(1)
    for one in (few, exact):
        one.run(range(ANNEALED + 1))
    for name, chosen in few.sets().items():
        every_weight = Nonzeros.of(torch.ones_like(chosen.layer.weight)).rows
        one = BackwardSet.at(chosen.layer, chosen.target, chosen.moments, every_weight)
        gradient = torch.randn(len(one.flat), generator=torch.Generator().manual_seed(3))
        one.places.value[:] = gradient.numpy()
        one.step(0.02, few.optimizer.shared)
        target = next(target for target in exact.optimizer.targets if target.name == name)
        target.parameter.grad = gradient.view_as(target.parameter)
        exact.optimizer.adam.param_groups[0]["lr"] = 0.02
        exact.optimizer.adam.step()
        exact.optimizer.adam.zero_grad()
        project([target], 1.0, exact.optimizer.shared.keep_alive)
        expected = target.parameter.detach() * (1 - 0.02 * exact.optimizer.shared.weight_decay)
        torch.testing.assert_close(one.layer.weight.detach(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("resumed_at", [13, 14, 16])
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(training, resumed_at):
    unbroken, first, second = training(4), training(4), training(4)
    first.run(range(resumed_at))
    sets = first.optimizer.backward_sets.state()
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.adam.load_state_dict(first.optimizer.adam.state_dict())
    second.optimizer.backward_sets.restore(sets, second.optimizer.adam, resumed_at)
    assert same(second.run(range(resumed_at, STEPS)), unbroken.run(range(STEPS)))


def test_an_interrupted_stage_ends_equal_to_an_unbroken_one(tiny_run, tiny_config, tmp_path):
    class InterruptedRunError(Exception):
        pass

    def stop_late(step, metrics):
        if step == 20:
            raise InterruptedRunError

    changes = {"dense_gradient_every": 3, "anneal_end": 0.5}
    tiny_run["shared"] = tiny_run["shared"].model_copy(update=changes)
    tiny_run["config"] = tiny_config(**SPARSE, tokens=STEPS * 4 * 32)
    tiny_run["compute"] = tiny_run["compute"].model_copy(update={"sparse_below": 0.5})
    tiny_run["scratch"] = tmp_path / "scratch"
    with pytest.raises(InterruptedRunError):
        pretrain(**tiny_run, folder=tmp_path / "a", on_log=stop_late)
    resumed = pretrain(**tiny_run, folder=tmp_path / "a", on_log=lambda step, metrics: None)
    unbroken = pretrain(**tiny_run, folder=tmp_path / "b", on_log=lambda step, metrics: None)
    assert resumed["model_hash"] == unbroken["model_hash"]


def test_it_is_refused_where_there_is_no_kernel_for_it(tiny_run, tmp_path):
    tiny_run["shared"] = tiny_run["shared"].model_copy(update={"dense_gradient_every": 2})
    folders = {"folder": tmp_path / "a", "scratch": tmp_path / "scratch"}
    with pytest.raises(ConfigError, match=r"dense_gradient_every 2 on cpu in 2 processes; allowed: 1, or one process"):
        pretrain(**tiny_run, **folders, on_log=lambda step, metrics: None, ranks=Ranks(rank=0, n=2))
