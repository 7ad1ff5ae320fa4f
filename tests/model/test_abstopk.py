"""AbsTopK against its oracle, and the laws it must obey."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.model.abstopk import abs_topk, masked, packed, select_bits, select_sorted

WIDTH = 12
# Few distinct values, so that ties are common; both zeros; infinities; a denormal.
VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, 3.0e38, float("inf"), float("-inf"), 1e-40])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(deadline=None)
@given(rows=arrays("float32", (3, WIDTH), elements=VALUES), k=st.integers(0, WIDTH))
def test_bit_search_equals_a_stable_sort_with_ties_to_the_lower_index(dtype, rows, k):
    x = torch.from_numpy(rows).to(dtype)
    kept, keep = select_bits(x, k)
    assert torch.equal(keep, select_sorted(x, k))
    assert torch.equal(kept, torch.where(keep.bool(), x, 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 700), st.integers(0, 10_000), st.floats(0, 1))
def test_any_shape_and_scale_gives_what_the_sort_gives(dtype, n, width, seed, fraction):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.exp(30 * torch.randn(n, 1, generator=generator))  # rows far from each other: a bad first guess
    x = (torch.randn(n, width, generator=generator) * scale).to(dtype)
    k = int(fraction * width)
    assert torch.equal(select_bits(x, k)[1], select_sorted(x, k))


@pytest.mark.parametrize("threads", [1, 3])
def test_rows_shared_out_over_threads_are_all_done(threads):
    torch.set_num_threads(threads)
    x = torch.randn(2000, 130, generator=torch.Generator().manual_seed(0))
    kept, keep = select_bits(x, 40)
    assert torch.equal(keep, select_sorted(x, 40))
    assert torch.equal(masked(x, packed(keep)), kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(deadline=None, max_examples=40)
@given(st.integers(1, 300), st.integers(0, 10_000))
def test_a_packed_mask_is_a_bit_an_entry_and_keeps_what_its_bytes_keep(dtype, n, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, generator=generator).to(dtype)
    keep = torch.randint(2, (n,), generator=generator, dtype=torch.uint8)
    assert packed(keep).numel() == -(-n // 64)
    assert torch.equal(masked(x, packed(keep)), torch.where(keep.bool(), x, 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_is_refused_and_its_row_named(dtype):
    x = torch.ones(4, 8, dtype=dtype)
    x[2, 5] = torch.nan
    with pytest.raises(ValueError, match="NaN in row 2 of 4"):
        abs_topk(x, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exactly_k_entries_of_random_rows_survive_unchanged(dtype):
    x = torch.randn(5, 7, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    kept = abs_topk(x, 16)
    assert (kept != 0).sum(-1).eq(16).all()
    assert torch.equal(kept[kept != 0], x[kept != 0])
    assert (x.abs() * (kept == 0)).amax(-1).le(x.abs().masked_fill(kept == 0, torch.inf).amin(-1)).all()


def test_gradient_flows_to_the_kept_entries_only():
    x = torch.tensor([[3.0, -1.0, 0.5, -4.0]], requires_grad=True)
    (abs_topk(x, 2) * torch.tensor([[1.0, 10.0, 100.0, 1000.0]])).sum().backward()
    assert x.grad.tolist() == [[1.0, 0.0, 0.0, 1000.0]]


def test_k_of_the_whole_width_changes_nothing():
    x = torch.randn(2, 8)
    assert abs_topk(x, 8) is x


def test_k_zero_keeps_nothing_and_k_below_is_refused():
    assert torch.equal(abs_topk(torch.full((1, 4), torch.inf), 0), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="k -1"):
        abs_topk(torch.ones(1, 4), -1)


def test_a_type_without_a_kernel_is_refused_by_name():
    with pytest.raises(TypeError, match="float64"):
        abs_topk(torch.ones(1, 4, dtype=torch.float64), 2)


def test_in_place_gives_the_same_values_and_gradients_and_spares_a_tensor():
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.arange(240.0).view(6, 40)
    (abs_topk(x, 9) * weight).sum().backward()
    expected = x.grad.clone()
    x.grad = None
    doubled = x * 1
    kept = abs_topk(doubled, 9, inplace=True)
    (kept * weight).sum().backward()
    assert torch.equal(x.grad, expected)
    assert kept is doubled and torch.equal(kept, abs_topk(x, 9))


def test_in_place_leaves_alone_what_a_view_belongs_to():
    x = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    parts = [abs_topk(part, 2, inplace=True) for part in x.chunk(3, dim=1)]
    assert torch.equal(x, before)
    assert torch.equal(torch.cat(parts, dim=1), abs_topk(x, 2))
