"""Models whose every parameter is nontrivial, for tests that may not pass by zeros."""

from __future__ import annotations

import torch

from pipeline.model.transformer import Transformer


def randomised(model: Transformer, seed: int) -> Transformer:
    """The model with noise on all its parameters (biases, sinks, gains too), frozen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.freeze()
