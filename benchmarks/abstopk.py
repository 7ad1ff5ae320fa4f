"""AbsTopK, forward and backward, against torch.topk and a scatter: python -m benchmarks.abstopk [--json]."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import straightforward
from benchmarks.interleave import interleave, ratio, show
from pipeline.model.abstopk import abs_topk
from pipeline.model.device import prepare_cpu

WIDTHS = (256, 512, 1024, 2048, 4096, 8192)
ENTRIES = 1 << 20  # 4096 tokens at width 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    prepare_cpu(args.threads)
    rows = [
        row(dtype, width, args.device, args.rounds) for dtype in (torch.float32, torch.bfloat16) for width in WIDTHS
    ]
    show(f"AbsTopK of {ENTRIES:,} entries, k = width / 4, {args.threads} threads, milliseconds", rows, args.json)


def row(dtype: torch.dtype, width: int, device: str, rounds: int) -> dict[str, object]:
    """Median milliseconds of forward alone and of forward and backward, ours and torch's, and how many times torch's."""
    x = torch.randn(ENTRIES // width, width, device=device).to(dtype)
    gradient = torch.randn_like(x)
    seconds = interleave(
        {
            "ours": lambda: finish(abs_topk(x, width // 4)),
            "torch": lambda: finish(straightforward.abs_topk(x, width // 4)),
            "ours, both": lambda: both(abs_topk, x, gradient),
            "torch, both": lambda: both(straightforward.abs_topk, x, gradient),
            "copy": lambda: finish(x.clone()),
        },
        rounds,
    )
    median = {name: 1e3 * statistics.median(times) for name, times in seconds.items()}
    return {
        "type": str(dtype).removeprefix("torch."),
        "width": width,
        **median,
        "torch ÷ ours": ratio(seconds, "torch", "ours"),
        "torch ÷ ours, both": ratio(seconds, "torch, both", "ours, both"),
    }


def both(function: Callable[[Tensor, int], Tensor], x: Tensor, gradient: Tensor) -> None:
    """Forward and backward."""
    leaf = x.requires_grad_()
    leaf.grad = None
    function(leaf, x.shape[-1] // 4).backward(gradient)
    finish(x)
    x.requires_grad_(False)


def finish(x: Tensor) -> None:
    """Wait for the device."""
    if x.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
