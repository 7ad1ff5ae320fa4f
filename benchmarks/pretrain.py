"""A training step, sparse and dense, ours and the straightforward one, against the matmul bound, interleaved.

``python -m benchmarks.pretrain [--d-model 256 --n-layer 2] [--json]``. The bound is the time of the matrix products alone,
6 FLOP a weight and token, attention's not counted, at the rate that torch's own product of the MLP's shape reaches in the
same rounds. ``--memory`` measures peak memory instead, each variant in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys

import torch
import torch.nn.functional as F

from benchmarks.interleave import interleave, ratio, show
from benchmarks.setting import Ours, Peer, Setting
from pipeline.model.device import prepare_cpu

DENSITIES = {"1/16": 1 / 16, "1/64": 1 / 64, "dense": 1.0}
PEAK_STEPS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--n-layer", type=int, default=2)
    parser.add_argument("--n-ctx", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", choices=DENSITIES, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    prepare_cpu(args.threads)
    settings = {
        name: Setting(args.d_model, args.n_layer, density, args.n_ctx, args.batch)
        for name, density in DENSITIES.items()
    }
    if args.peak:
        print(peak(settings[args.peak]))
        return
    size = f"n_layer {args.n_layer}, d_model {args.d_model}, {args.batch} × {args.n_ctx} tokens, {args.threads} threads"
    rows = memory(list(DENSITIES)) if args.memory else speed(settings, args.rounds)
    show(size, rows, args.json)


def speed(settings: dict[str, Setting], rounds: int) -> list[dict[str, object]]:
    """A row for each variant: its median time, tokens a second, and ratios from the same rounds."""
    ours = {name: Ours(setting) for name, setting in settings.items()}
    variants = {f"ours {name}": one.step for name, one in ours.items()}
    variants |= {f"straightforward {name}": Peer(setting).step for name, setting in settings.items()}
    dense = ours["dense"]
    bound, share = product(dense)
    seconds = interleave(variants | {"bound": bound}, rounds)
    seconds["bound"] = [share * one for one in seconds["bound"]]
    return [
        {
            "step": name,
            "ms": 1e3 * statistics.median(seconds[name]),
            "tokens/s": f"{dense.setting.tokens / statistics.median(seconds[name]):.0f}",
            "÷ our dense": ratio(seconds, name, "ours dense"),
            "straightforward ÷ it": ratio(seconds, name.replace("ours", "straightforward"), name)
            if name != "bound"
            else float("nan"),
            "of the bound": ratio(seconds, "bound", name),
            "zeros skipped below": ours[name.removeprefix("ours ")].skipped_below if name.startswith("ours") else "",
        }
        for name in seconds
    ]


def product(ours: Ours) -> tuple[object, float]:
    """A call that multiplies as the MLP does, and how many of its time all the matrix products of a step would take."""
    d, tokens = ours.setting.d_model, ours.setting.tokens
    n_weights = sum(p.numel() for name, p in ours.model.named_parameters() if name.endswith(".weight") and p.ndim == 2)
    n_weights -= ours.model.transformer["wte"].weight.numel()
    with ours.precision:
        kind = torch.get_autocast_dtype(ours.device.type) if torch.is_autocast_enabled() else torch.float32
    x, weight = (
        torch.randn(tokens, d, device=ours.device, dtype=kind),
        torch.randn(4 * d, d, device=ours.device, dtype=kind),
    )
    return lambda: F.linear(x, weight), 3 * n_weights / weight.numel()


def memory(names: list[str]) -> list[dict[str, object]]:
    """A row for each density: most memory held in PEAK_STEPS steps, more than before the model was made."""
    command = [sys.executable, "-m", "benchmarks.pretrain", *sys.argv[1:]]
    peaks = {
        name: json.loads(subprocess.run([*command, "--peak", name], check=True, capture_output=True).stdout)
        for name in names
    }
    return [{"ours": name, "MiB": peak, "÷ dense": peak / peaks["dense"]} for name, peak in peaks.items()]


def peak(setting: Setting) -> float:
    """MiB that this process grew by at most, from before the model was made, over PEAK_STEPS steps."""
    Ours(Setting(64, 1, setting.density)).step()  # kernels are compiled, libraries loaded
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    one = Ours(setting)
    for _ in range(PEAK_STEPS):
        one.step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


if __name__ == "__main__":
    main()
