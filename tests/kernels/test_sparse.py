"""Products through the nonzeros of a weight: the dense products, within float rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.kernels.sparse import Nonzeros, fits, multiply, outer, transposed
from pipeline.model.linear import Linear, sparse_product, turned_product


def sparse_matrix(n, m, density, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, m, generator=generator) * (torch.rand(n, m, generator=generator) < density)


def dense(rows, width):
    matrix = np.zeros((len(rows.start) - 1, width), np.float32)
    for i, (start, stop) in enumerate(zip(rows.start[:-1], rows.start[1:], strict=True)):
        matrix[i, rows.column[start:stop]] = rows.value[start:stop]
    return torch.from_numpy(matrix)


@pytest.mark.parametrize("density", [0.0, 0.02, 0.3, 1.0])
def test_the_nonzeros_by_rows_and_by_columns_are_those_of_the_weight(density):
    weight = sparse_matrix(128, 64, density, seed=0)
    nonzeros = Nonzeros.of(weight)
    assert torch.equal(dense(nonzeros.rows, 64), weight)
    assert torch.equal(dense(nonzeros.columns, 128), weight.t())


# Sums of at most 192 products of numbers of order 1: rounding stays far below 1e-4.
@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 150), st.sampled_from([64, 128]), st.sampled_from([64, 192]), st.floats(0, 1), st.integers(0, 999)
)
def test_the_product_equals_the_dense_one_for_any_number_of_tokens(n, n_in, n_out, density, seed):
    weight, x = sparse_matrix(n_out, n_in, density, seed), sparse_matrix(n, n_in, 0.5, seed + 1)
    bias = torch.arange(n_out) / n_out
    result = multiply(x, Nonzeros.of(weight).rows, bias)
    torch.testing.assert_close(result, F.linear(x, weight, bias), rtol=0, atol=1e-4)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 300), st.sampled_from([64, 640]), st.floats(0, 1), st.integers(0, 999))
def test_the_weight_gradient_equals_the_dense_one(n, n_in, density, seed):
    g, x = sparse_matrix(n, 192, density, seed), sparse_matrix(n, n_in, 1.0, seed + 1)
    product, sums = outer(g, x)
    torch.testing.assert_close(product, g.t() @ x, rtol=0, atol=2e-4)
    torch.testing.assert_close(sums, g.sum(0), rtol=0, atol=2e-4)


@pytest.mark.parametrize("gradient_density", [0.25, 1.0])
def test_forward_and_all_gradients_of_the_layer_are_those_of_the_dense_layer(gradient_density):
    layer = Linear(64, 128)
    with torch.no_grad():
        layer.weight.copy_(sparse_matrix(128, 64, 0.1, seed=3))
    g = sparse_matrix(3 * 70, 128, gradient_density, seed=4).view(3, 70, 128)
    results = []
    for layer.sparse_below in (0.0, 0.2):
        x = sparse_matrix(3 * 70, 64, 0.5, seed=5).view(3, 70, 64).requires_grad_()
        layer.zero_grad()
        y = layer(x)
        y.backward(g)
        results.append([y.detach(), x.grad, layer.weight.grad, layer.bias.grad])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_a_changed_weight_is_seen_at_the_next_call():
    layer = Linear(64, 64, bias=False)
    layer.sparse_below = 1.0
    x = torch.ones(1, 64)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        assert float(layer(x)[0, 0]) == 64
        layer.weight[0, :60] = 0
        assert float(layer(x)[0, 0]) == 4


def test_a_denser_weight_than_allowed_and_one_that_does_not_fit_go_the_dense_way():
    layer = Linear(64, 64)
    layer.sparse_below = 0.5
    assert layer.nonzeros() is None
    with torch.no_grad():
        layer.weight[:, 32:] = 0
    assert layer.nonzeros() is not None
    assert not fits(Linear(60, 64).weight)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_does_not_change_a_bit(threads):
    weight, x, g = sparse_matrix(128, 64, 0.1, 0), sparse_matrix(500, 64, 1.0, 1), sparse_matrix(500, 128, 0.25, 2)
    torch.set_num_threads(4)
    expected = multiply(x, Nonzeros.of(weight).rows, None), outer(g, x)[0]
    torch.set_num_threads(threads)
    assert torch.equal(multiply(x, Nonzeros.of(weight).rows, None), expected[0])
    assert torch.equal(outer(g, x)[0], expected[1])


def test_bfloat16_products_are_the_float32_products_rounded_as_torch_rounds():
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(128, 64, generator=generator) * (torch.rand(128, 64, generator=generator) < 0.1)
    x = torch.randn(3, 70, 64, generator=generator).bfloat16()
    bias, rows = torch.randn(128, generator=generator), Nonzeros.of(weight).rows
    x[1, 3, 5] = torch.inf
    assert torch.equal(multiply(x, rows, bias), multiply(x.float(), rows, bias).bfloat16())
    x[2, 69, 7] = torch.nan
    assert torch.equal(multiply(x, rows, bias).isnan(), multiply(x.float(), rows, bias).isnan())


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_other_types_are_multiplied_in_float32_and_given_back(kind):
    weight = sparse_matrix(128, 64, 0.1, seed=6)
    x = sparse_matrix(5, 64, 0.5, seed=7).to(kind).requires_grad_()
    y = sparse_product(x, weight, None, Nonzeros.of(weight))
    y.sum().backward()
    assert y.dtype == x.grad.dtype == kind
    torch.testing.assert_close(y.float(), F.linear(x.float(), weight), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("n", "n_out", "n_in"), [(2048, 1536, 512), (2048, 512, 2048), (500, 512, 512)])
def test_what_is_turned_before_it_is_multiplied_gives_the_same_bits(n, n_out, n_in):
    generator = torch.Generator().manual_seed(8)
    g, x = (torch.randn(n, width, generator=generator).bfloat16() for width in (n_out, n_in))
    assert torch.equal(transposed(g), g.t())
    assert torch.equal(turned_product(g, x), g.t() @ x)
