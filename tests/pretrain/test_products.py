"""Zeros are skipped where that was measured to pay, and the measurement is kept."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
import torch

from pipeline.model.initial import new_model
from pipeline.model.linear import ON_GPU, Linear, skip_zeros
from pipeline.pretrain import products
from pipeline.pretrain.products import DENSITIES, sparse_below

CPU = torch.device("cpu")


@pytest.fixture
def choose(params, tiny_config, tmp_path):
    """What is chosen for a sparse model of width 64 and some changes, with compute.sparse_below as given."""

    def choose(setting="auto", device=CPU, **changes):
        config = tiny_config(**{"d_model": 64, "block_density": 0.25} | changes)
        compute = params.compute.model_copy(update={"sparse_below": setting})
        return sparse_below(config, compute, 256, device, nullcontext(), tmp_path)

    return choose


def seconds(monkeypatch, sparse_is_faster_at):
    """Let measured times be 1 for the dense product, and half or double of it for the sparse one."""

    def measured(layer, n_tokens, afrac, precision):
        density = int(torch.count_nonzero(layer.weight)) / layer.weight.numel()
        faster = density < 1.2 * sparse_is_faster_at
        return (0.5 if faster else 2.0) if layer.sparse_below else 1.0

    monkeypatch.setattr(products, "_seconds", measured)


@pytest.mark.parametrize("density", [0.25, 0.0625])
def test_the_highest_density_that_pays_is_chosen(choose, monkeypatch, density):
    seconds(monkeypatch, sparse_is_faster_at=density)
    assert choose() == density


def test_zeros_are_never_skipped_where_it_does_not_pay_or_nothing_is_zero(choose, monkeypatch):
    seconds(monkeypatch, sparse_is_faster_at=0)
    assert choose() == 0
    assert choose(block_density=1.0) == 0


def test_a_real_measurement_gives_one_of_the_densities_and_is_not_made_again(choose, tmp_path, monkeypatch):
    chosen = choose()
    assert chosen in (0.0, *DENSITIES)
    (record,) = tmp_path.glob("products-*.json")
    assert json.loads(record.read_text()) == {"sparse_below": chosen}
    monkeypatch.setattr(products, "_seconds", None)
    assert choose() == chosen


def test_a_number_in_params_is_taken_as_it_is_and_a_gpu_is_not_measured(choose):
    assert choose(setting=0.1) == 0.1
    assert choose(device=torch.device("cuda")) == ON_GPU


def test_every_linear_map_of_the_model_is_told(tiny_config):
    model = new_model(tiny_config(), 24, 0, None)
    skip_zeros(model, 0.125)
    assert {module.sparse_below for module in model.modules() if isinstance(module, Linear)} == {0.125}
