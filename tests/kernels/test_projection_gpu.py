"""The choice made on the device is, entry by entry, the one that numpy makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.kernels.projection_gpu import keep_largest
from tests.pretrain.oracle import largest

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]
# Few distinct values, so that ties are common; both zeros; infinities; denormals.
VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, 3e38, np.inf, -np.inf, 1e-40, -1e-45])
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@pytest.mark.parametrize("device", DEVICES)
@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_the_mask_equals_numpys_with_ties_zeros_and_infinities(device, data):
    weight = data.draw(arrays("float32", SHAPES, elements=VALUES))
    budget = data.draw(st.integers(1, weight.size))
    keep_alive, axis = data.draw(st.integers(0, 6)), data.draw(st.sampled_from([0, 1, None]))
    keep = keep_largest(torch.from_numpy(weight).to(device), budget, keep_alive, axis)
    assert keep.cpu().numpy().tolist() == largest(weight, budget, keep_alive, axis).tolist()


@pytest.mark.parametrize("device", DEVICES)
@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(0, 5), st.sampled_from([0, 1, None]), st.floats(0.001, 1))
def test_the_mask_of_random_weights_equals_numpys(device, seed, keep_alive, axis, density):
    weight = np.random.default_rng(seed).standard_normal((48, 80)).astype(np.float32)
    weight[3] *= 1e-3  # a line that only keep-alive keeps
    weight[:, 5] *= 1e-3
    budget = max(1, round(density * weight.size))
    keep = keep_largest(torch.from_numpy(weight).to(device), budget, keep_alive, axis)
    assert np.array_equal(keep.cpu().numpy(), largest(weight, budget, keep_alive, axis))


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_the_last_bit_of_a_weight_counts_and_ties_there_go_to_the_lower_index(budget):
    next_to_one = np.nextafter(np.float32(1), np.float32(2))
    weight = np.array([1, next_to_one, -next_to_one, 1], dtype=np.float32)
    keep = keep_largest(torch.from_numpy(weight), budget, 0, None)
    assert keep.tolist() == [[False, True, False, False], [False, True, True, False], [True] * 3 + [False]][budget - 1]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([0, 1]))
def test_exactly_the_budget_stays_and_every_line_is_alive(seed, keep_alive, axis):
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(seed)) ** 5
    keep = keep_largest(weight, 32, keep_alive, axis)
    assert keep.sum() == 32
    assert keep.sum(1 - axis).min() >= keep_alive


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_chosen_as_the_float32_they_stand_for(dtype):
    weight = torch.randn(20, 30, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(keep_largest(weight, 99, 2, 0), keep_largest(weight.float(), 99, 2, 0))


def test_a_vector_and_a_transposed_matrix_are_chosen_from_in_flat_order():
    assert keep_largest(torch.ones(5), 2, 4, None).tolist() == [True, True, False, False, False]
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).round().T
    assert np.array_equal(keep_largest(weight, 7, 1, 1).numpy(), largest(weight.numpy(), 7, 1, 1))


def test_nan_is_kept_so_that_it_shows():
    assert keep_largest(torch.tensor([1.0, np.inf, -np.nan, 2.0]), 1, 0, None).tolist() == [False, False, True, False]


def test_the_weight_is_not_changed():
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    before = weight.clone()
    keep_largest(weight, 20, 2, 0)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("axis", [0, 1, None])
def test_the_host_sees_no_value(axis):
    """The choice can be made for a tensor without values, so nothing waits for the GPU to tell one."""
    keep = keep_largest(torch.empty(6, 4, device="meta"), 5, 2, axis)
    assert keep.shape == (6, 4) and keep.dtype == torch.bool


@pytest.mark.gpu
@NO_GPU
def test_a_large_matrix_equals_numpys_and_nothing_waits():
    weight = torch.randn(2048, 1024, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        keep = keep_largest(weight, 9000, 4, 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.array_equal(keep.cpu().numpy(), largest(weight.cpu().numpy(), 9000, 4, 0))


@pytest.mark.parametrize("budget", [0, 13])
def test_a_budget_out_of_range_is_refused(budget):
    with pytest.raises(ValueError, match=f"budget {budget} .* 1 to 12"):
        keep_largest(torch.ones(3, 4), budget, 0, None)


def test_a_type_that_float32_does_not_hold_is_refused():
    with pytest.raises(TypeError, match="float64"):
        keep_largest(torch.ones(3, 4, dtype=torch.float64), 3, 0, None)
