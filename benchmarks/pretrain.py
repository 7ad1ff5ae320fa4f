"""A training step, sparse and dense, ours and the straightforward one, against the matmul bound, interleaved.

``python -m benchmarks.pretrain [--d-model 256 --n-layer 2] [--json]``. Every variant is a process of its own; they take
turns. The bound is the time of the matrix products alone, 6 FLOP a weight and token, attention's not counted, at the
rate at which torch's own product of the MLP's shape runs in the same rounds.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.interleave import GOMP_DEFAULT, Worker, interleave, most_memory, ratio, show
from benchmarks.setting import Ours, Peer, Setting
from pipeline.config import load_params
from pipeline.model.device import has_fast_bfloat16, pick_device, prepare_cpu

DENSITIES = {"1/16": 1 / 16, "1/64": 1 / 64, "dense": 1.0}
SMALL: dict[str, Any] = {"d_model": 64, "n_layer": 1, "batch": 1}
Built = tuple[Callable[[], object], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--n-layer", type=int, default=2)
    parser.add_argument("--n-ctx", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    settings = {
        name: Setting(args.d_model, args.n_layer, density, args.n_ctx, args.batch)
        for name, density in DENSITIES.items()
    }
    size = f"n_layer {args.n_layer}, d_model {args.d_model}, {args.batch} × {args.n_ctx} tokens, {args.threads} threads"
    show(size, table(settings, args.threads, args.rounds), args.json)


def table(settings: dict[str, Setting], threads: int, rounds: int) -> list[dict[str, object]]:
    """A row for each variant: its median time, tokens a second, memory, and ratios of times in the same rounds."""
    workers = {f"ours {name}": Worker(ours, setting, threads) for name, setting in settings.items()}
    for name, setting in settings.items():
        workers[f"straightforward {name}"] = Worker(peer, setting, threads, **GOMP_DEFAULT)
    workers["bound"] = Worker(product, settings["dense"], threads, **GOMP_DEFAULT)
    seconds = interleave(workers, rounds)
    seconds["bound"] = [workers["bound"].said["products"] * one for one in seconds["bound"]]
    memory = {name: worker.stop() - worker.said["MiB before"] for name, worker in workers.items()}
    return [
        {
            "step": name,
            "ms": 1e3 * statistics.median(seconds[name]),
            "tokens/s": f"{settings['dense'].tokens / statistics.median(seconds[name]):.0f}",
            "÷ our dense": ratio(seconds, name, "ours dense"),
            "straightforward ÷ it": _advantage(seconds, name),
            "of the bound": ratio(seconds, "bound", name),
            "memory ÷ our dense": memory[name] / memory["ours dense"] if name != "bound" else math.nan,
            "zeros skipped below": workers[name].said.get("skipped below", ""),
        }
        for name in seconds
    ]


def _advantage(seconds: dict[str, list[float]], name: str) -> float:
    return ratio(seconds, name.replace("ours", "straightforward"), name) if name.startswith("ours") else math.nan


def ours(setting: Setting, threads: int) -> Built:
    """One of our steps."""
    prepare_cpu(threads)
    Ours(replace(setting, **SMALL)).step()  # compiles
    before = most_memory()
    built = Ours(setting)
    return built.step, {"MiB before": before, "skipped below": built.skipped_below}


def peer(setting: Setting, threads: int) -> Built:
    """A step of the straightforward implementation, denormals flushed there too."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    Peer(replace(setting, **SMALL)).step()
    before = most_memory()
    return Peer(setting).step, {"MiB before": before}


def product(setting: Setting, threads: int) -> Built:
    """A product of the MLP's shape in the type in which training multiplies, and how many of them a step is worth."""
    torch.set_num_threads(threads)
    device = pick_device(load_params().compute)
    dtype = torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    x = torch.randn(setting.tokens, setting.d_model, device=device, dtype=dtype)
    weight = torch.randn(4 * setting.d_model, setting.d_model, device=device, dtype=dtype)
    n_weights = 12 * setting.n_layer * setting.d_model**2 + setting.vocab_size * setting.d_model
    return lambda: F.linear(x, weight), {"MiB before": 0.0, "products": 3 * n_weights / weight.numel()}


if __name__ == "__main__":
    main()
