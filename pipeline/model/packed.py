"""Weights in few bytes: 16-bit numbers, and of a matrix that is mostly zero only its nonzeros."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

INDEX, VALUE = ".index", ".value"


def packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor in float16; one that is mostly zero as ``name.index`` (int32, flat) and ``name.value``."""
    small: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        values = tensor.detach().cpu().half()
        index = values.flatten().nonzero().flatten()
        if 3 * len(index) < values.numel():
            small |= {name + INDEX: index.int(), name + VALUE: values.flatten()[index]}
        else:
            small[name] = values.contiguous()
    return small


def unpacked(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The tensors that ``packed`` was given, in float32; others as they are, but in float32.

    Raises RuntimeError for an index outside a tensor's shape, KeyError for a packed tensor without a shape.
    """
    whole: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = key.removesuffix(INDEX)
        if name != key:
            whole[name] = torch.zeros(shapes[name]).flatten().index_put((tensor.long(),), tensors[name + VALUE].float())
            whole[name] = whole[name].view(shapes[name])
        elif not (key.endswith(VALUE) and key.removesuffix(VALUE) + INDEX in tensors):
            whole[key] = tensor.float()
    return whole
