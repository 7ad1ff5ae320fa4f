"""The sparse product against the dense one: on a GPU, or by Triton's interpreter on a CPU.

Without a GPU: TRITON_INTERPRET=1 PYTHONPATH=<a folder with triton> pytest tests/kernels/test_sparse_gpu.py
"""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

triton = pytest.importorskip("triton", reason="triton comes with a CUDA build of torch")

from pipeline.kernels.sparse_gpu import compress, linear, multiply  # noqa: E402
from pipeline.model import sparse_gpu  # noqa: E402  (imports triton)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32, torch.bfloat16]
# Relative to the sum of magnitudes: float32 sums in another order; bfloat16 results rounded (or, by the interpreter,
# truncated) to 8 bits.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-7}


def runs(test):
    """The test runs where kernels do: under the interpreter, or, marked ``gpu``, on a CUDA device."""
    missing = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, and TRITON_INTERPRET is not 1")
    return test if INTERPRETED else pytest.mark.gpu(missing(test))


def sparse(n_out: int, n_in: int, density: float, seed: int) -> torch.Tensor:
    """A random matrix whose nonzeros are exact in bfloat16, so that its type changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n_out, n_in, generator=generator).bfloat16().float()
    return weight * (torch.rand(n_out, n_in, generator=generator) < density)


def assert_close(y, x, weight, bias):
    """y equals x Wᵀ + b to within rounding, of float64 and entry by entry."""
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    size = F.linear(x.double().abs(), weight.double().abs(), None if bias is None else bias.double().abs())
    assert y.dtype == x.dtype
    assert ((y.double() - exact).abs() <= TOLERANCE[x.dtype] * size).all()


@runs
def test_a_product_worked_out_by_hand():
    weight = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, -3.0]], device=DEVICE)
    x = torch.tensor([[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]], device=DEVICE)
    bias = torch.tensor([0.5, 0.25, 0.0], device=DEVICE)
    assert multiply(x, compress(weight), bias).tolist() == [[20.5, 0.25, -299.0], [40.5, 0.25, -598.0]]
    assert multiply(x, compress(weight.T)).tolist() == (x @ weight).tolist()


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(deadline=None, max_examples=25)
@given(
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 70), st.integers(1, 9)),
    density=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    seed=st.integers(0, 1000),
    with_bias=st.booleans(),
)
def test_the_sparse_product_equals_the_dense_one(dtype, sizes, density, seed, with_bias):
    n, n_in, n_out = sizes
    weight = sparse(n_out, n_in, density, seed).to(DEVICE)
    x = torch.randn(n, n_in, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)
    bias = torch.linspace(-1, 1, n_out, device=DEVICE) if with_bias else None
    assert_close(multiply(x, compress(weight), bias), x, weight, bias)
    assert_close(multiply(x, compress(weight.to(dtype)), bias), x, weight, bias)


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_more_tokens_than_a_program_takes(dtype):
    weight = sparse(3, 24, 0.4, 0).to(DEVICE)
    x = torch.randn(2, 301, 24, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
    y = multiply(x, compress(weight))
    assert y.shape == (2, 301, 3)
    assert_close(y, x, weight, None)
    assert_close(multiply(y, compress(weight.T)), y, weight.T, None)  # y comes transposed and goes in as it is


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_three_gradients_equal_those_of_the_dense_layer(dtype):
    weight = sparse(10, 20, 0.2, 3).to(DEVICE).requires_grad_()
    bias = torch.linspace(-1, 1, 10, device=DEVICE).requires_grad_()
    x = torch.randn(4, 5, 20, generator=torch.Generator().manual_seed(3)).to(DEVICE, dtype).requires_grad_()
    grad = torch.randn(4, 5, 10, generator=torch.Generator().manual_seed(4)).to(DEVICE, dtype)
    linear(x, weight, bias, compress(weight), compress(weight.T)).backward(grad)
    assert_close(x.grad, grad, weight.detach().T, None)
    exact_x, exact_weight, exact_bias = (t.detach().double().requires_grad_() for t in (x, weight, bias))
    F.linear(exact_x, exact_weight, exact_bias).backward(grad.double())
    assert weight.grad.dtype == bias.grad.dtype == torch.float32
    loose = 1e-5 if dtype == torch.float32 else 0.02  # torch's dense product, in x's type
    assert torch.allclose(weight.grad.double(), exact_weight.grad, rtol=loose, atol=10 * loose)
    assert torch.allclose(bias.grad.double(), exact_bias.grad, rtol=1e-5, atol=1e-5)


@runs
def test_zeroed_weights_get_a_gradient():
    weight = torch.zeros(2, 3, device=DEVICE, requires_grad=True)
    linear(torch.ones(4, 3, device=DEVICE), weight, None, compress(weight), compress(weight.T)).sum().backward()
    assert weight.grad.tolist() == [[4.0] * 3] * 2


@runs
def test_no_tokens_and_no_nonzeros():
    nothing = compress(torch.zeros(3, 5, device=DEVICE))
    assert multiply(torch.ones(0, 5, device=DEVICE), nothing).shape == (0, 3)
    assert multiply(torch.ones(2, 5, device=DEVICE), nothing).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("spare", [None, 0, 7])
@settings(deadline=None, max_examples=25)
@given(sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 1000))
def test_compressed_rows_hold_the_matrix_with_or_without_spare_places(spare, sizes, seed):
    weight = sparse(*sizes, 0.4, seed)
    n_nonzero = int((weight != 0).sum())
    for matrix in (weight, weight.T):
        csr = compress(matrix, None if spare is None else n_nonzero + spare)
        row, col = matrix.nonzero(as_tuple=True)
        assert csr.crow.dtype == csr.col.dtype == torch.int32 and (csr.n_row, csr.n_col) == matrix.shape
        assert csr.crow[0] == 0 and torch.equal(torch.arange(csr.n_row).repeat_interleave(csr.crow.diff()), row)
        assert torch.equal(csr.col[:n_nonzero].long(), col)
        assert torch.equal(csr.values[:n_nonzero], matrix[row, col])
        assert len(csr.col) == len(csr.values) == n_nonzero + (spare or 0)


def test_with_a_known_number_of_nonzeros_the_host_sees_no_value():
    """A tensor without values can be compressed, so nothing waits for the GPU to tell one."""
    csr = compress(torch.empty(6, 4, device="meta"), 5)
    assert (csr.crow.shape, csr.col.shape, csr.values.shape) == ((7,), (5,), (5,))


@runs
def test_spare_places_are_never_read():
    weight = sparse(4, 12, 0.3, 5).to(DEVICE)
    x = torch.randn(3, 12, generator=torch.Generator().manual_seed(5)).to(DEVICE)
    spare = compress(weight, int((weight != 0).sum()) + 9)
    assert torch.equal(multiply(x, spare), multiply(x, compress(weight)))


def test_what_does_not_fit_is_refused():
    csr = compress(torch.ones(3, 5))
    with pytest.raises(ValueError, match=r"\[\.\.\., 4\].*\[3, 5\]"):
        multiply(torch.ones(2, 4), csr)
    with pytest.raises(ValueError, match=r"bias \[5\]"):
        multiply(torch.ones(2, 5), csr, torch.ones(5))
    with pytest.raises(TypeError, match="float64"):
        multiply(torch.ones(2, 5, dtype=torch.float64), csr)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_matrix_of_the_papers_size_and_nothing_waits(dtype):
    weight = sparse(8192, 2048, 1 / 256, 0).cuda()
    rows, columns = compress(weight), compress(weight.T)
    x = torch.randn(4099, 2048, device="cuda").to(dtype)
    multiply(x, rows)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        y = multiply(x, rows)
        dx = multiply(y, columns)
        compress(weight, len(rows.col))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_close(y, x, weight, None)
    assert_close(dx, y, weight.T, None)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("values", ["*fp32", "*bf16"])
@pytest.mark.parametrize("activations", ["*fp32", "*bf16"])
def test_the_kernel_compiles_for_an_h100_on_any_machine(activations, values):
    """The interpreter checks no types: this does, up to machine code, without a GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    fixed = {"HAS_BIAS": True, "BLOCK": sparse_gpu.BLOCK, "CHUNK": sparse_gpu.CHUNK}
    signature = {"x_ptr": activations, "crow_ptr": "*i32", "col_ptr": "*i32", "value_ptr": values}
    signature |= {"bias_ptr": "*fp32", "y_ptr": activations, "n": "i32"} | dict.fromkeys(fixed, "constexpr")
    source = ASTSource(sparse_gpu._multiply, signature, fixed)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": sparse_gpu.WARPS})
    assert compiled.asm["cubin"]
