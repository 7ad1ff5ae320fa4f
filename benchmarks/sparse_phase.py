"""A step of the sparse phase, after annealing, against a dense model's step of the same width, interleaved.

``python -m benchmarks.sparse_phase [--d-model 1024 --one-in 128 --every 8 --threads 1] [--json]``: exact, and with
dense gradients only every so many steps (pretrain.dense_gradient_every); of these a turn takes all and tells the mean.
Every variant is a process of its own; they take turns.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace

from benchmarks.interleave import Worker, interleave, ratio, show
from benchmarks.pretrain import SMALL, Built
from benchmarks.setting import Ours, Setting
from pipeline.model.device import prepare_cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-model", type=int, default=1024)
    parser.add_argument("--n-layer", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--one-in", type=int, default=128, help="weights, of which one is not zero")
    parser.add_argument("--every", type=int, default=8, help="steps, of which one has dense gradients")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    dense = Setting(args.d_model, args.n_layer, batch=args.batch, positions=True)
    sparse = replace(dense, density=1 / args.one_in)
    settings = {
        "dense": dense,
        f"sparse, 1/{args.one_in}": sparse,
        f"sparse, dense gradients every {args.every} steps": replace(sparse, every=args.every),
    }
    size = f"n_layer {args.n_layer}, d_model {args.d_model}, {args.batch} × {dense.n_ctx} tokens"
    show(f"{size}, {args.threads} threads", table(settings, args.threads, args.rounds), args.json)


def table(settings: dict[str, Setting], threads: int, rounds: int) -> list[dict[str, object]]:
    """A row for each variant: the median time of a step, and of the ratio to the dense one in the same round."""
    workers = {name: Worker(some_steps, setting, threads) for name, setting in settings.items()}
    seconds = interleave(workers, rounds)
    for name, setting in settings.items():
        seconds[name] = [one / setting.every for one in seconds[name]]
        workers[name].stop()
    return [
        {
            "step": name,
            "ms": 1e3 * statistics.median(seconds[name]),
            "÷ dense": ratio(seconds, name, "dense"),
            "zeros skipped below": workers[name].said,
        }
        for name in seconds
    ]


def some_steps(setting: Setting, threads: int) -> Built:
    """As many steps as have one dense gradient."""
    prepare_cpu(threads)
    Ours(replace(setting, **SMALL)).step()  # compiles
    built = Ours(setting)
    return lambda: [built.step() for _ in range(setting.every)], built.skipped_below


if __name__ == "__main__":
    main()
