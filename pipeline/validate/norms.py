"""Norms with the scales of another run: whether a circuit works by shrinking the residual stream (§6).

Ablated nodes make the residual stream smaller, and RMSNorm then scales up the rest of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pipeline.data.pairs import PairBatch
from pipeline.model.norm import RMSNorm
from pipeline.model.transformer import Transformer

Hook = Callable[[RMSNorm, tuple[Tensor, ...], Tensor], Any]


@contextmanager
def frozen_norms(model: Transformer, batch: PairBatch) -> Iterator[None]:
    """While it lasts, runs of the model on all of ``batch``, with ``at`` its last positions, use the norm scales that
    the unchanged model has there."""
    scales: dict[RMSNorm, Tensor] = {}

    def note(norm: RMSNorm, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        scales[norm] = norm.scale(inputs[0])

    with hooked(model, note), torch.no_grad():
        model(batch.tokens, at=batch.last)
    with hooked(model, lambda norm, inputs, output: norm.scaled(inputs[0], scales[norm])):
        yield


@contextmanager
def hooked(model: Transformer, hook: Hook) -> Iterator[None]:
    """While it lasts, ``hook`` sees every norm's result, and may return another."""
    handles = [module.register_forward_hook(hook) for module in model.modules() if isinstance(module, RMSNorm)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
