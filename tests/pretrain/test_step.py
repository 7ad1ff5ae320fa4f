"""One training step: in parts it is the whole, and recomputed layers give the same gradients for less memory."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from pipeline.model.record import record
from pipeline.pretrain.optimizer import SparseAdam
from pipeline.pretrain.step import next_token_loss, recompute_blocks, train_step


@pytest.fixture
def batch():
    return torch.randint(0, 24, (8, 33), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def trainable(tiny_model):
    """A sparse model to train, always with the same weights."""
    sparse = {"afrac": 0.25, "block_density": 0.25, "embed_density": 0.5, "sink": True}
    return lambda **changes: tiny_model(**sparse, **changes).requires_grad_(True).train()


def saved_bytes(model, batch):
    """What the forward pass keeps for the backward pass, parameters apart."""
    storages = {}

    def pack(x):
        storages[x.untyped_storage().data_ptr()] = (x.untyped_storage().nbytes(), x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = next_token_loss(model, batch)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert loss.requires_grad
    return sum(size for place, (size, _) in storages.items() if place not in parameters)


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_a_step_in_parts_is_the_step_of_the_whole(trainable, batch, params, accumulate):
    results = []
    for parts in (1, accumulate):
        model = trainable()
        optimizer = SparseAdam(model, model.config, params.pretrain, n_steps=10)
        loss = train_step(model, optimizer, batch, 0, nullcontext(), parts)
        results.append((loss, optimizer.schedule["gradient_rms"], torch.cat([p.flatten() for p in model.parameters()])))
    for whole, in_parts in zip(*results, strict=True):
        torch.testing.assert_close(in_parts, whole, rtol=1e-4, atol=1e-6)  # float32 sums in another order


def test_a_step_leaves_no_gradients_and_the_loss_is_that_of_before(trainable, batch, params):
    model = trainable()
    before = next_token_loss(model, batch)
    optimizer = SparseAdam(model, model.config, params.pretrain, n_steps=10)
    assert torch.equal(train_step(model, optimizer, batch, 0, nullcontext(), 1), before)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("precision", [nullcontext(), torch.autocast("cpu", torch.bfloat16)])
def test_recomputed_blocks_give_the_same_gradients_bit_for_bit(trainable, batch, precision):
    plain, recomputed = trainable(), trainable()
    recompute_blocks(recomputed)
    assert list(recomputed.state_dict()) == list(plain.state_dict())
    with precision:
        losses = [next_token_loss(model, batch) for model in (plain, recomputed)]
    for loss in losses:
        loss.backward()
    for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_a_recomputed_block_keeps_only_its_input(trainable, batch):
    kept = {}
    for n_layer in (2, 3):
        model = trainable(n_layer=n_layer)
        plain = saved_bytes(model, batch)
        recompute_blocks(model)
        kept[n_layer] = (plain, saved_bytes(model, batch))
    a_layer, recomputed = (more - fewer for fewer, more in zip(kept[2], kept[3], strict=True))
    assert recomputed == 8 * 32 * 16 * 4  # batch × pos × d_model × bytes
    assert a_layer > 10 * recomputed


def test_recomputed_blocks_are_recorded_as_before(trainable, batch):
    plain, recomputed = trainable(), trainable()
    recompute_blocks(recomputed)
    with torch.no_grad():
        (logits, values), (others, other_values) = record(plain, batch[:, :-1]), record(recomputed, batch[:, :-1])
    assert torch.equal(logits, others) and values.keys() == other_values.keys()
