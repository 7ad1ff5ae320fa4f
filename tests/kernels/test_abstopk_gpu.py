"""The GPU's AbsTopK against the oracle: on a GPU, or by Triton's interpreter on a CPU.

Without a GPU: TRITON_INTERPRET=1 PYTHONPATH=<a folder with triton> pytest tests/kernels/test_abstopk_gpu.py
"""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.model import abstopk
from pipeline.model.abstopk import abs_topk, select_sorted

triton = pytest.importorskip("triton", reason="triton comes with a CUDA build of torch")

from pipeline.kernels.abstopk_gpu import keep_topk, tile  # noqa: E402
from pipeline.model import abstopk_gpu  # noqa: E402  (imports triton)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Few distinct values, so that ties are common; both zeros; infinities; denormals, of bfloat16 and float16 too.
VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 3e38, torch.inf, -torch.inf, 1e-40, -3e-41, 6e-8, -2e-7])


def runs(test):
    """The test runs where kernels do: under the interpreter, or, marked ``gpu``, on a CUDA device."""
    missing = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, and TRITON_INTERPRET is not 1")
    return test if INTERPRETED else pytest.mark.gpu(missing(test))


@st.composite
def rows_and_k(draw):
    """1 to 5 rows of 1 to 40 entries, and k from 0 past the width."""
    width = draw(st.integers(1, 40))
    n_rows = draw(st.integers(1, 5))
    values = draw(st.lists(VALUES, min_size=n_rows * width, max_size=n_rows * width))
    return torch.tensor(values).view(n_rows, width), draw(st.integers(0, width + 1))


def assert_is_the_oracle(x, k):
    y, keep = keep_topk(x.to(DEVICE), k)
    y, keep = y.cpu(), keep.cpu()
    assert keep.dtype == torch.bool and y.dtype == x.dtype and y.shape == keep.shape == x.shape
    assert torch.equal(keep, select_sorted(x, k).bool())
    assert keep.sum(-1).eq(min(k, x.shape[-1])).all()
    assert torch.equal(y.nan_to_num(7.0), torch.where(keep, x, 0).nan_to_num(7.0))


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(deadline=None, max_examples=40)
@given(case=rows_and_k())
def test_the_kernel_equals_a_stable_sort_with_ties_to_the_lower_index(dtype, case):
    rows, k = case
    assert_is_the_oracle(rows.to(dtype), k)


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n_rows", "width", "k"), [(130, 16, 4), (11, 100, 25), (5, 384, 96), (3, 1000, 250)])
def test_rows_of_any_width_and_number_equal_the_oracle(dtype, n_rows, width, k):
    """Widths that are no power of two, and more rows than one program holds, but not a multiple of them."""
    assert_is_the_oracle(torch.randn(n_rows, width, generator=torch.Generator().manual_seed(width)).to(dtype), k)


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_widest_row_equals_the_oracle(dtype):
    assert_is_the_oracle(torch.randn(1, 16384, generator=torch.Generator().manual_seed(0)).to(dtype), 4096)


@runs
@pytest.mark.parametrize("k", [1, 5, 8])
def test_all_equal_entries_keep_the_first_k(k):
    _, keep = keep_topk(torch.full((2, 9), -3.0, device=DEVICE), k)
    assert keep.tolist() == [[True] * k + [False] * (9 - k)] * 2


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_is_kept_before_infinity(dtype):
    x = torch.tensor([[1.0, torch.inf, torch.nan, -torch.inf, -torch.nan]], dtype=dtype)
    assert keep_topk(x.to(DEVICE), 3)[1].tolist() == [[False, True, True, False, True]]
    assert_is_the_oracle(x, 2)


@runs
def test_kept_entries_are_the_same_bits_and_dropped_ones_plus_zero():
    x = torch.tensor([[-0.0, 1e-45, -5.0, -1e-45, -0.0, 4.0]])
    y, keep = keep_topk(x.to(DEVICE), 5)
    assert keep.tolist() == [[True, True, True, True, False, True]]
    assert y.cpu().view(torch.int32).tolist() == torch.where(keep.cpu(), x, 0).view(torch.int32).tolist()


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_rows_are_read_in_place(dtype):
    """As the thirds of c_attn's output are, and as a transposed product is."""
    x = torch.randn(2, 3, 36, generator=torch.Generator().manual_seed(1)).to(dtype)
    for part in x.chunk(3, dim=-1):
        assert_is_the_oracle(part, 3)
    assert_is_the_oracle(x.transpose(1, 2), 2)


@runs
def test_no_rows_and_k_zero_and_k_of_the_whole_width():
    x = torch.randn(2, 8, device=DEVICE)
    y, keep = keep_topk(x, 0)
    assert not y.any() and not keep.any()
    y, keep = keep_topk(x, 8)
    assert torch.equal(y, x) and keep.all()
    assert keep_topk(x[:0], 3)[0].shape == (0, 8)


@pytest.fixture
def through_the_kernel(monkeypatch):
    """abs_topk selects with the kernel: so it does for CUDA tensors, and here for the interpreter's too."""

    def select(x, k):
        y, keep = keep_topk(x, k)
        return y, keep.to(torch.uint8)

    if INTERPRETED:
        monkeypatch.setattr(abstopk, "select", select)


@runs
@pytest.mark.usefixtures("through_the_kernel")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradient_flows_to_the_kept_entries_only(dtype):
    x = torch.tensor([[3.0, -1.0, 0.5, -4.0]], dtype=dtype, device=DEVICE, requires_grad=True)
    (abs_topk(x, 2) * torch.tensor([[1.0, 10.0, 100.0, 1000.0]], dtype=dtype, device=DEVICE)).sum().backward()
    assert x.grad.dtype == dtype
    assert x.grad.tolist() == [[1.0, 0.0, 0.0, 1000.0]]


@runs
@pytest.mark.usefixtures("through_the_kernel")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("k", [1, 7, 29, 36])
def test_the_gradient_is_that_of_multiplying_by_the_oracles_mask(dtype, k):
    """Of rounded values, so that ties are common, and a gradient that is not contiguous."""
    generator = torch.Generator().manual_seed(k)
    rows = torch.randn(2, 5, 37, generator=generator).mul(2).round().to(dtype)
    grad = torch.randn(5, 2, 37, generator=generator).to(dtype).transpose(0, 1)
    x = rows.to(DEVICE).requires_grad_()
    abs_topk(x, k).backward(grad.to(DEVICE))
    assert torch.equal(x.grad.cpu(), grad * select_sorted(rows, k))


@runs
def test_equal_calls_give_equal_bits():
    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(2)).bfloat16().to(DEVICE)
    assert all(torch.equal(a, b) for a, b in zip(keep_topk(x, 12), keep_topk(x, 12), strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [2048, 8192, 16384])
def test_many_wide_rows_equal_the_oracle_and_nothing_waits(dtype, width):
    x = torch.randn(4096, width, device="cuda").to(dtype)
    keep_topk(x, width // 4)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        y, keep = keep_topk(x, width // 4)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(keep, select_sorted(x, width // 4).bool())
    assert torch.equal(y, x * keep)


def test_what_has_no_kernel_is_refused_by_name():
    with pytest.raises(ValueError, match="k -1"):
        keep_topk(torch.ones(1, 4), -1)
    with pytest.raises(ValueError, match="16384"):
        keep_topk(torch.ones(1, 16385), 4)
    with pytest.raises(TypeError, match="float64"):
        keep_topk(torch.ones(1, 4, dtype=torch.float64), 2)


@pytest.mark.parametrize("width", [1, 16, 100, 2048, 16384])
def test_a_tile_is_what_a_program_can_hold(width):
    block, together, warps = tile(width)
    assert block >= width and block & (block - 1) == 0
    assert 1 <= warps <= 32 and block * together == 512 * warps


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("width", [100, 2048, 16384])
@pytest.mark.parametrize(("pointer", "top_bit"), [("*i32", 30), ("*i16", 14)])
def test_the_kernel_compiles_for_an_h100_on_any_machine(pointer, top_bit, width):
    """The interpreter checks no types: this does, up to machine code, without a GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    block, together, warps = tile(width)
    fixed = {"TOP_BIT": top_bit, "ROWS": together, "BLOCK": block}
    signature = {"x_ptr": pointer, "y_ptr": pointer, "keep_ptr": "*u8"}
    signature |= dict.fromkeys(["n_rows", "width", "k", "stride"], "i32") | dict.fromkeys(fixed, "constexpr")
    source = ASTSource(abstopk_gpu._keep_topk, signature, fixed)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    assert compiled.asm["cubin"]
