"""Annealing and the sharkfin, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from pipeline.pretrain.optimizer import SparseAdam, normalise
from pipeline.pretrain.schedule import anneal_progress, learning_rate


@pytest.fixture
def shared(params):
    return params.pretrain.model_copy(update={"anneal_start": 0.1, "anneal_end": 0.5, "warmup": 0.1})


@pytest.mark.parametrize(("step", "expected"), [(0, 0), (10, 0), (30, 0.5), (50, 1), (99, 1)])
def test_annealing_is_linear_between_its_two_fractions(shared, step, expected):
    assert anneal_progress(step, 100, shared) == pytest.approx(expected)


@pytest.mark.parametrize(("step", "l0_frac", "expected"), [(0, 1, 0.1), (9, 1, 0.91), (50, 1, 0.5), (50, 0.25, 0.25)])
def test_the_sharkfin_is_warm_up_times_decay_times_root_of_the_l0_ratio(shared, step, l0_frac, expected):
    assert learning_rate(step, 100, 1.0, l0_frac, shared) == pytest.approx(expected)


def test_the_normalised_gradient_has_unit_rms_over_all_parameters():
    a, b = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([4.0])
    assert float(normalise([a, b])) == pytest.approx(2.5)
    assert a.grad[0] / b.grad[0] == pytest.approx(0.75)
    assert float(a.grad.square().sum() + b.grad.square().sum()) / 4 == pytest.approx(1, rel=1e-4)


def test_decay_spares_vectors_and_the_bigram_table(tiny_model, tiny_config, params):
    model = tiny_model()
    optimizer = SparseAdam(model, tiny_config(), params.pretrain, 10)
    decayed = {id(p) for p in optimizer.decayed}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert "lm_head.weight" in names and "transformer.h.0.mlp.c_fc.weight" in names
    assert "bigram_table" not in names and not any(name.endswith("bias") for name in names)
