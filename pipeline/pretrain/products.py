"""Whether to skip the zeros of a weight: measured at the start, on the machine that trains (§8)."""

from __future__ import annotations

import statistics
import time
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from tqdm import tqdm

from pipeline.artifacts import read_json, whole_file, write_json
from pipeline.config import ComputeConfig, ModelConfig
from pipeline.kernels.sparse import fits
from pipeline.model.linear import ON_GPU, Linear

DENSITIES = (0.25, 0.125, 0.0625, 0.03125, 0.015625)  # from which the highest that pays is taken
PAYS = 0.9  # of the dense product's time
TOKENS = 2048  # at most, of a measured product, whose memory the process goes on to hold
ROUNDS = 5


def sparse_below(
    config: ModelConfig,
    compute: ComputeConfig,
    n_tokens: int,
    device: torch.device,
    precision: AbstractContextManager[None],
    folder: Path,
) -> float:
    """The density at and below which products skip zeros: what compute.sparse_below says, or what was measured here.

    A measurement is kept in ``folder`` and not made again: runs of the same shape choose alike, to the bit. 0 for dense
    models. A GPU, on which unstructured zeros pay only where they are over 99 % (§8), is not measured: there it
    is ON_GPU.
    """
    if config.block_density == 1 or compute.sparse_below != "auto":
        return 0.0 if config.block_density == 1 else float(compute.sparse_below)
    if device.type != "cpu":
        return ON_GPU
    n_tokens = min(n_tokens, TOKENS)
    record = folder / f"products-{config.d_model}x{config.d_mlp}-{n_tokens}-{torch.get_num_threads()}.json"
    if not record.is_file():
        measured = _highest_that_pays(config, n_tokens, precision)
        with whole_file(record) as partial:
            write_json(partial, {"sparse_below": measured})
    return float(read_json(record)["sparse_below"])


def _highest_that_pays(config: ModelConfig, n_tokens: int, precision: AbstractContextManager[None]) -> float:
    layer = Linear(config.d_model, config.d_mlp)
    if not fits(layer.weight):
        return 0.0
    for density in tqdm(DENSITIES, desc="sparse products", leave=False):
        times: dict[float, list[float]] = {0.0: [], 1.0: []}
        with torch.no_grad():
            layer.weight.copy_(torch.randn_like(layer.weight) * (torch.rand_like(layer.weight) < density))
        for _ in range(ROUNDS):
            for layer.sparse_below, seconds in times.items():
                seconds.append(_seconds(layer, n_tokens, config.afrac, precision))
        if statistics.median(times[1.0]) < PAYS * statistics.median(times[0.0]):
            return density
    return 0.0


def _seconds(layer: Linear, n_tokens: int, afrac: float, precision: AbstractContextManager[None]) -> float:
    """Forward and backward of one linear map, behind an AbsTopK that keeps ``afrac`` of what it gives."""
    x = torch.randn(n_tokens, layer.in_features, requires_grad=True)
    gradient = torch.randn(n_tokens, layer.out_features) * (torch.rand(n_tokens, layer.out_features) < afrac)
    start = time.perf_counter()
    with precision:
        y = layer(x)
    y.backward(gradient.to(y.dtype))
    return time.perf_counter() - start
