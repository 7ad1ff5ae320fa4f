"""Cross-entropy equals torch's, value and gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pipeline.pretrain.loss import ROWS, cross_entropy


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-3)])
@pytest.mark.parametrize("vocab", [50, 64, 200])
def test_loss_and_gradient_equal_torchs_in_float32(dtype, tolerance, vocab):
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(ROWS + 37, vocab, generator=generator)).to(dtype)
    logits[5] *= 30  # far past what exp can hold
    logits[7, -1] = logits[9, 0] = -torch.inf
    targets = torch.randint(vocab, (len(logits),), generator=generator)
    targets[7] = targets[9] = 1
    ours, theirs = logits.clone().requires_grad_(), logits.float().requires_grad_()
    (2 * cross_entropy(ours, targets)).backward()
    (2 * F.cross_entropy(theirs, targets)).backward()
    torch.testing.assert_close(cross_entropy(ours, targets), F.cross_entropy(theirs, targets), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        ours.grad.float(), theirs.grad, rtol=0, atol=tolerance * float(theirs.grad.abs().max()) * 8
    )
    assert ours.grad.dtype == dtype


@pytest.mark.parametrize("column", [3, 130])
def test_one_undefined_logit_makes_the_loss_and_its_row_s_gradient_undefined(column):
    logits, targets = torch.randn(4, 150), torch.zeros(4, dtype=torch.long)
    logits[2, column] = torch.nan
    loss = cross_entropy(logits.requires_grad_(), targets)
    loss.backward()
    assert loss.isnan()
    assert logits.grad.isnan().all(1).tolist() == [False, False, True, False]
    assert logits.grad[[0, 1, 3]].isfinite().all()
