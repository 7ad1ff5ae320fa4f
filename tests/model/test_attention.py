"""The CPU's attention against torch's fused kernel, and against sums written out."""

from __future__ import annotations

import pytest
import torch

from pipeline.model.attention import attend, attend_fused


def inputs(batch, n_pos, n_head, d_head, sink, density=1.0):
    generator = torch.Generator().manual_seed(n_pos)
    shape = (batch, n_pos, n_head * d_head)
    q, k, v, g = (torch.randn(shape, generator=generator) for _ in range(4))
    q, k, v = (x * (torch.rand(shape, generator=generator) < density) for x in (q, k, v))
    logit = torch.randn(n_head, generator=generator) if sink else None
    return q, k, v, logit, g, torch.randn(batch, n_head, n_pos, generator=generator)


@pytest.mark.parametrize("sink", [True, False])
@pytest.mark.parametrize(("n_pos", "d_head"), [(1, 4), (5, 4), (64, 16), (100, 8), (128, 16), (130, 3)])
def test_values_and_gradients_equal_those_of_the_fused_kernel(n_pos, d_head, sink):
    q, k, v, logit, g, g_attention_mass = inputs(2, n_pos, 3, d_head, sink, density=0.5)
    results = []
    for how in (attend, attend_fused):
        leaves = [x.clone().requires_grad_() for x in (q, k, v, *([logit] if sink else []))]
        mixed, attention_mass = how(*leaves[:3], leaves[3] if sink else None, 3, None)
        ((mixed * g).sum() + (attention_mass * g_attention_mass).sum()).backward()
        results.append([mixed.detach(), attention_mass.detach(), *(x.grad for x in leaves)])
    for ours, theirs in zip(*results, strict=True):  # sums of up to 130 products of order 1
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_two_tokens_worked_out_by_hand():
    q, k, v = torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[10.0], [20.0]]])
    mixed, attention_mass = attend(q, k, v, torch.tensor([1.0]), 1, None)
    e = torch.exp
    first = e(torch.tensor(0.0)) / (e(torch.tensor(0.0)) + e(torch.tensor(1.0)))  # scores 0 and the sink's 1
    scores = e(torch.tensor([2.0, 6.0, 1.0]))
    second = scores[:2] / scores.sum()
    torch.testing.assert_close(mixed.flatten(), torch.stack([10 * first, second @ torch.tensor([10.0, 20.0])]))
    torch.testing.assert_close(attention_mass.flatten(), torch.stack([first, second.sum()]))


def test_what_comes_later_does_not_change_what_is_before_by_a_bit():
    q, k, v, logit, *_ = inputs(1, 90, 2, 16, sink=True)
    before = attend(q, k, v, logit, 2, None)[0]
    k[:, 70:], v[:, 70:] = 1e3, -1e3
    assert torch.equal(attend(q, k, v, logit, 2, None)[0][:, :70], before[:, :70])


def test_scores_too_large_for_exp_stay_finite():
    q, k, v, *_ = inputs(1, 66, 1, 16, sink=False)
    mixed, attention_mass = attend(1e3 * q, 1e3 * k, v, None, 1, None)
    assert torch.isfinite(mixed).all() and torch.equal(attention_mass, torch.ones_like(attention_mass))


def test_one_query_per_prompt_sees_what_that_position_sees():
    q, k, v, logit, *_ = inputs(3, 40, 2, 8, sink=True)
    at = torch.tensor([39, 7, 0])
    whole, _ = attend(q, k, v, logit, 2, None)
    one, _ = attend(q[torch.arange(3), at][:, None], k, v, logit, 2, at[:, None])
    torch.testing.assert_close(one[:, 0], whole[torch.arange(3), at], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sink", [True, False])
@pytest.mark.parametrize(("start", "end", "n_pos"), [(2, 5, 9), (0, 40, 70), (50, 66, 130), (7, 7, 20)])
def test_a_branch_does_not_see_the_other_one(start, end, n_pos, sink):
    q, k, v, logit, g, _ = inputs(2, n_pos, 3, 8, sink)
    branch, everywhere = torch.tensor([[start, end], [n_pos, n_pos]]), torch.arange(n_pos).expand(2, -1)
    results = []
    for at in (None, everywhere):  # the CPU's kernel, and torch's with all that is hidden written out
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        mixed, attention_mass = attend(*leaves, logit, 3, at, branch)
        (mixed * g).sum().backward()
        results.append([mixed.detach(), attention_mass.detach(), *(x.grad for x in leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    alone = [torch.cat([x[:1, :start], x[:1, end:]], dim=1) for x in (q, k, v)]  # the second branch by itself
    mixed, attention_mass = attend(*alone, logit, 3, None)
    torch.testing.assert_close(results[0][0][:1, end:], mixed[:, start:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results[0][1][:1, :, end:], attention_mass[:, :, start:], rtol=1e-5, atol=1e-5)
