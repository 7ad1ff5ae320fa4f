"""AbsTopK against torch.topk and a scatter, each in a process of its own: python -m benchmarks.abstopk [--json]."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks import straightforward
from benchmarks.interleave import GOMP_DEFAULT, Worker, interleave, ratio, show
from pipeline.model.abstopk import abs_topk
from pipeline.model.device import prepare_cpu

WIDTHS = (256, 1024, 4096, 8192)
TOKENS = 4096
VARIANTS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "ours": lambda x, gradient: abs_topk(x, x.shape[-1] // 4),
    "torch": lambda x, gradient: straightforward.abs_topk(x, x.shape[-1] // 4),
    "ours, both": lambda x, gradient: both(abs_topk, x, gradient),
    "torch, both": lambda x, gradient: both(straightforward.abs_topk, x, gradient),
    "copy": lambda x, gradient: x.clone(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = [
        row(dtype, width, args.device, args.threads, args.rounds)
        for dtype in (torch.float32, torch.bfloat16)
        for width in WIDTHS
    ]
    show(f"AbsTopK of {TOKENS} tokens, k = width / 4, {args.threads} threads, milliseconds", rows, args.json)


def row(dtype: torch.dtype, width: int, device: str, threads: int, rounds: int) -> dict[str, object]:
    """Median milliseconds a call of forward, and of forward and backward, and how many times ours torch takes."""
    workers = {
        name: Worker(build, name, dtype, width, device, threads, **({} if "ours" in name else GOMP_DEFAULT))
        for name in VARIANTS
    }
    seconds = interleave(workers, rounds)
    for worker in workers.values():
        worker.stop()
    median = {name: 1e3 * statistics.median(times) / calls(width) for name, times in seconds.items()}
    return {
        "type": str(dtype).removeprefix("torch."),
        "width": width,
        **median,
        "torch ÷ ours": ratio(seconds, "torch", "ours"),
        "torch ÷ ours, both": ratio(seconds, "torch, both", "ours, both"),
    }


def build(name: str, dtype: torch.dtype, width: int, device: str, threads: int) -> tuple[Callable[[], None], None]:
    """A turn's calls of a variant."""
    if "ours" in name:
        prepare_cpu(threads)
    torch.set_num_threads(threads)
    x = torch.randn(TOKENS, width, device=device).to(dtype)
    return partial(again, name, x, torch.randn_like(x)), None


def calls(width: int) -> int:
    """Calls in a turn, a quarter of a second of ours: a process that slept through the others' turns has to wake up."""
    return 65536 // width


def again(name: str, x: Tensor, gradient: Tensor) -> None:
    for _ in range(calls(x.shape[-1])):
        VARIANTS[name](x, gradient)
    if x.is_cuda:
        torch.cuda.synchronize()


def both(function: Callable[[Tensor, int], Tensor], x: Tensor, gradient: Tensor) -> None:
    """Forward and backward."""
    leaf = x.detach().requires_grad_()
    function(leaf, x.shape[-1] // 4).backward(gradient)


if __name__ == "__main__":
    main()
