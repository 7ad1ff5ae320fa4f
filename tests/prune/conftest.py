"""A tiny task, and tiny models that can and cannot do it."""

from __future__ import annotations

import pytest
import torch

from pipeline.data.pairs import PairBatch
from pipeline.model.record import record


@pytest.fixture
def pairs():
    """Twelve pairs of prompts of four to six tokens; token 1 or 2 in front decides between answers 3 and 4."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(5, 24, (12, 6), generator=generator).repeat_interleave(2, dim=0)
    tokens[0::2, 0], tokens[1::2, 0] = 1, 2
    last = torch.tensor([3, 4, 5]).repeat(4).repeat_interleave(2)
    answers = torch.tensor([[3, 4], [4, 3]]).repeat(12, 1)
    return PairBatch(tokens, last, answers)


@pytest.fixture
def problem(tiny_model, pairs):
    model = tiny_model(sink=True, afrac=0.5)
    _, values = record(model, pairs.tokens)
    return model, {key: value.mean((0, 1)) for key, value in values.items()}


@pytest.fixture
def able(tiny_model, pairs):
    """A model that does the task in one way: a token's embedding carries the answer, attention of layer 0 brings it."""
    model = tiny_model(seed=4, sink=False, afrac=1.0)
    optimizer = torch.optim.Adam(model.requires_grad_(True).parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        right = model(pairs.tokens, at=pairs.last).gather(-1, pairs.answers)
        torch.nn.functional.softplus(right[:, 1] - right[:, 0]).mean().backward()
        optimizer.step()
    _, values = record(model.freeze(), pairs.tokens)
    return model, {key: value.mean((0, 1)) for key, value in values.items()}
