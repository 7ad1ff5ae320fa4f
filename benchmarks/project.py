"""The projection onto sparse weights, its share of a step, and torch.topk: python -m benchmarks.project [--json].

Weights are those of a model after some steps, some of whose neurons are dead, so that keep-alive has work to do.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from benchmarks.interleave import interleave, ratio, show
from benchmarks.setting import Ours, Peer, Setting
from pipeline.model.device import prepare_cpu
from pipeline.pretrain.projection import project

KEEP_ALIVE = 4
DEAD = 0.1  # fraction of every matrix' rows that are made small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    prepare_cpu(args.threads)
    sizes = [(256, 2), (512, 4)]
    rows = [row(Setting(d, n, density), args.rounds) for d, n in sizes for density in (1 / 16, 1 / 64)]
    show(f"projection of all weights of a model, {args.threads} threads, milliseconds", rows, args.json)


def row(setting: Setting, rounds: int) -> dict[str, object]:
    """Median milliseconds of our projection, of the straightforward one and of our whole step."""
    ours, peer = Ours(setting), Peer(setting)
    dense = [torch.randn_like(target.parameter) for target in ours.optimizer.targets]
    for weight in dense:
        weight[: int(DEAD * len(weight))] *= 1e-3

    def fill() -> None:
        with torch.no_grad():
            for target, weight in zip(ours.optimizer.targets, dense, strict=True):
                target.parameter.copy_(weight)

    seconds = interleave(
        {
            "fill": fill,
            "ours": lambda: project(ours.optimizer.targets, 1.0, KEEP_ALIVE),
            "torch.topk": peer.model.project,
            "step": ours.step,
        },
        rounds,
    )
    median = {name: 1e3 * statistics.median(times) for name, times in seconds.items() if name != "fill"}
    size = {"d_model": setting.d_model, "n_layer": setting.n_layer, "density": f"1/{1 / setting.density:.0f}"}
    return (
        size
        | median
        | {
            "torch.topk ÷ ours": ratio(seconds, "torch.topk", "ours"),
            "share of a step": ratio(seconds, "ours", "step"),
        }
    )


if __name__ == "__main__":
    main()
