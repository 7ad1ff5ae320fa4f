"""RMSNorm equals torch's, value and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.model.norm import ROWS, RMSNorm


@pytest.mark.parametrize("shape", [(1, 1, 8), (3, 5, 64), (2, ROWS, 33)])
def test_value_and_gradients_equal_torchs(shape):
    generator = torch.Generator().manual_seed(0)
    ours, theirs = RMSNorm(shape[-1]), nn.RMSNorm(shape[-1])
    gain, g = torch.randn(shape[-1], generator=generator), torch.randn(shape, generator=generator)
    results = []
    for norm in (ours, theirs):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
        norm.weight = nn.Parameter(gain.clone())
        y = norm(x)
        y.backward(g)
        results.append([y.detach(), x.grad, norm.weight.grad])
    for one, other in zip(*results, strict=True):  # the gain's gradient sums up to 512 products of order 1
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_row_of_zeros_stays_zero():
    assert torch.equal(RMSNorm(16)(torch.zeros(2, 16)), torch.zeros(2, 16))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_does_not_change_a_bit(threads):
    norm, x, g = RMSNorm(32), torch.randn(700, 32), torch.randn(700, 32)
    gradients = []
    for n in (4, threads):
        torch.set_num_threads(n)
        norm.zero_grad()
        norm(x).backward(g)
        gradients.append(norm.weight.grad.clone())
    assert torch.equal(*gradients)
