"""What sparse pretraining costs: tokens/s, memory and hours of a profile, from counts of FLOPs and bytes.

``python -m benchmarks.cost --profile paper --machine H200 --devices 8``. The time of a part of a step is the longer of
its arithmetic and its memory traffic (benchmarks.counts has them); parts follow one another. What a GPU reaches of its
data sheet is assumed (REACHED), not measured. ``--machine here --check`` puts this CPU's training beside what its
measured rates predict. docs/cost.md explains.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import psutil
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.counts import FULL, Job, Work, flops_per_token, memory, peak_memory, step, validation
from flows import environment
from flows.profiles import merged
from pipeline.config import ComputeConfig, ConfigError, ModelConfig, Params, load_params, parse_params
from pipeline.model.device import has_fast_bfloat16, prepare_cpu, training_precision
from pipeline.model.initial import new_model
from pipeline.pretrain.optimizer import SparseAdam
from pipeline.pretrain.step import train_step

# Assumed, measured nowhere here: what fraction of its data sheet a GPU reaches in this training.
REACHED = {"matmul": 0.6, "float32": 0.6, "bandwidth": 0.8, "link": 0.8}
USABLE_MEMORY = 0.9  # fraction that tensors may take; the rest is the CUDA context's and the allocator's
GIB = 2**30
CHECK = {  # --check's model: small enough for a CPU, every operation of the paper's in it
    **{"n_layer": 2, "d_model": 256, "d_head": 16, "n_ctx": 128, "sink": True, "positions": False},
    **{"afrac": 0.25, "block_density": 0.0625, "embed_density": 0.0625, "lr": 0.01, "tokens": 4096000},
}
CHECK_BATCH, CHECK_VOCAB, CHECK_STEPS = 32, 1024, 3
RATES = {  # option → field of Machine and its unit
    "matmul-tflops": ("matmul", 1e12),
    "float32-tflops": ("float32", 1e12),
    "bandwidth-tbs": ("bandwidth", 1e12),
    "memory-gib": ("memory", GIB),
    "link-gbs": ("link", 1e9),
}


@dataclass(frozen=True)
class Machine:
    """One device, by the rates that it reaches."""

    name: str
    matmul: float  # FLOP/s of bfloat16 matrix products
    float32: float  # FLOP/s of float32 arithmetic
    bandwidth: float  # bytes/s of memory
    memory: float  # bytes
    link: float  # bytes/s to the other devices, one direction
    peak: float  # FLOP/s that utilisation is relative to: the data sheet's, or the measured rate
    fast_bfloat16: bool = True  # whether precision "auto" takes bfloat16

    def seconds(self, work: Work) -> float:
        """How long the work takes: arithmetic and memory side by side, then what goes over the link."""
        arithmetic = work.matmul / self.matmul + work.float32 / self.float32
        return max(arithmetic, work.bytes / self.bandwidth) + work.link / self.link

    @classmethod
    def measured(cls) -> Machine:
        """This machine's CPU, with as many threads as torch has: a square product and a copy far larger than caches."""
        fast = has_fast_bfloat16(torch.device("cpu"))
        float32 = matmul_rate(torch.float32)
        matmul = matmul_rate(torch.bfloat16) if fast else float32
        memory, bandwidth = float(psutil.virtual_memory().total), copy_rate()
        return cls("here", matmul, float32, bandwidth, memory, bandwidth, matmul, fast)


def sheet(name: str, tflops: float, float32_tflops: float, tbs: float, gb: float, link_gbs: float) -> Machine:
    """A GPU by its data sheet (dense rates; link: one direction), times REACHED."""
    peaks = {"matmul": tflops * 1e12, "float32": float32_tflops * 1e12, "bandwidth": tbs * 1e12, "link": link_gbs * 1e9}
    matmul, float32, bandwidth, link = (peaks[kind] * REACHED[kind] for kind in peaks)
    return Machine(name, matmul, float32, bandwidth, gb * 1e9, link, peaks["matmul"])


# NVIDIA's data sheets, SXM: 989 TFLOP/s dense bfloat16, 67 float32, NVLink 900 GB/s, which is 450 in each direction.
SHEETS = {"H100": sheet("H100", 989, 67, 3.35, 80, 450), "H200": sheet("H200", 989, 67, 4.8, 141, 450)}


def best_seconds(action: Callable[[], object], n: int = 5) -> float:
    """The least of ``n`` timings, after one that does not count."""
    seconds = []
    for _ in range(n + 1):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def matmul_rate(dtype: torch.dtype, n: int = 1024) -> float:
    """FLOP/s of a product of two n × n matrices on the CPU."""
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    return 2 * n**3 / best_seconds(lambda: a @ b)


def copy_rate(n: int = 2**26) -> float:
    """Bytes/s, read and written, of copying n float32 on the CPU."""
    a, b = torch.ones(n), torch.zeros(n)
    return 2 * FULL * n / best_seconds(lambda: b.copy_(a), 3)


@dataclass(frozen=True)
class Cost:
    """One row: what training one model costs. Bytes and seconds are one device's; tokens/s are of all together."""

    model: str
    flops_per_token: dict[str, float]
    bytes_per_step: dict[str, float]
    seconds: dict[str, float]
    memory: dict[str, float]
    peak_memory: float
    accumulate: int  # parts of a batch: the profile's, or as many more as memory asks for; 0: no number fits
    step_seconds: float
    tokens_per_second: float
    utilisation: float  # the model's FLOPs (none done twice) over the machine's peak
    validation_seconds: float  # for each step
    hours: float


def cost(name: str, job: Job, machine: Machine) -> Cost:
    """The cost of one model on ``job.devices`` of a machine."""
    if job.low == FULL:
        machine = replace(machine, matmul=machine.float32)
    found = fitting(job, machine)
    job = found or job
    work = step(job)
    seconds = {part: machine.seconds(of) for part, of in work.items()}
    total, tokens = sum(seconds.values()), job.shared.batch * job.config.n_ctx
    flops = sum(flops_per_token(replace(job, fused_attention=False)).values())
    validating = machine.seconds(validation(job))
    return Cost(
        model=name,
        flops_per_token=flops_per_token(job),
        bytes_per_step={part: of.bytes for part, of in work.items()},
        seconds=seconds,
        memory=memory(job),
        peak_memory=peak_memory(job),
        accumulate=job.shared.accumulate if found else 0,
        step_seconds=total,
        tokens_per_second=tokens / total,
        utilisation=flops * tokens / total / machine.peak / job.devices,
        validation_seconds=validating,
        hours=max(1, job.config.tokens // tokens) * (total + validating) / 3600,
    )


def fitting(job: Job, machine: Machine) -> Job | None:
    """The job with its batch in the least parts, from the profile's number on, that fit into memory; None: not even one
    sequence a time does."""
    share = job.shared.batch // job.devices
    for parts in (n for n in range(job.shared.accumulate, share + 1) if share % n == 0):
        tried = replace(job, shared=job.shared.model_copy(update={"accumulate": parts}))
        if peak_memory(tried) <= USABLE_MEMORY * machine.memory:
            return tried
    return None


def table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """A table that can be pasted into Markdown."""
    made = Table(title=title, title_justify="left", box=box.MARKDOWN, title_style="bold")
    for column in columns:
        made.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    return made


def by_part(title: str, rows: dict[str, dict[str, float]], unit: float, digits: int) -> Table:
    """Numbers by model and part, in ``unit``."""
    parts = list(next(iter(rows.values())))
    numbers = [[name, *(f"{row[part] / unit:,.{digits}f}" for part in parts)] for name, row in rows.items()]
    return table(title, ["model", *parts], numbers)


def summary(costs: list[Cost]) -> Table:
    """The figures that are asked for first."""
    columns = ["model", "MFLOP/token", "GB/step", "ms/step", "tokens/s", "MFU", "GiB", "parts", "hours"]
    rows = [
        [
            row.model,
            f"{sum(row.flops_per_token.values()) / 1e6:,.0f}",
            f"{sum(row.bytes_per_step.values()) / 1e9:,.1f}",
            f"{row.step_seconds * 1e3:,.1f}",
            f"{row.tokens_per_second:,.0f}",
            f"{row.utilisation:.0%}",
            f"{row.peak_memory / GIB:.1f}",
            str(row.accumulate or "too big"),
            f"{row.hours:,.1f}",
        ]
        for row in costs
    ]
    return table("Cost (GB and GiB: of one device; parts: of its batch, one after the other)", columns, rows)


def show(costs: list[Cost], console: Console) -> None:
    """Print the tables: summary, FLOPs, time, traffic, memory."""
    seconds = {row.model: row.seconds | {"validation": row.validation_seconds} for row in costs}
    console.print(summary(costs))
    console.print(by_part("MFLOP a token", {row.model: row.flops_per_token for row in costs}, 1e6, 1))
    console.print(by_part("Milliseconds a step", seconds, 1e-3, 1))
    console.print(by_part("GB a step", {row.model: row.bytes_per_step for row in costs}, 1e9, 1))
    console.print(by_part("GiB at the peak", {row.model: row.memory for row in costs}, GIB, 2))


def precision_bytes(params: Params, machine: Machine) -> int:
    """Of a number in matrix products."""
    precision = params.compute.precision
    return 2 if precision == "bfloat16" or (precision == "auto" and machine.fast_bfloat16) else FULL


def jobs(chosen: argparse.Namespace, machine: Machine) -> dict[str, Job]:
    """The models of a profile: a file of profiles/, ``laptop`` (params.yaml) or ``check``. Raises
    ConfigError, and ValueError for devices that cannot share the batch."""
    root = environment.find_root()
    params = load_params(root / "params.yaml")
    if chosen.profile not in ("laptop", "check"):
        params = parse_params(merged(root, chosen.profile))
    models, shared, vocab = params.models, params.pretrain, params.tokenise.vocab_size
    if chosen.profile == "check":
        models, vocab = {"check": ModelConfig.model_validate(CHECK)}, CHECK_VOCAB
        shared = shared.model_copy(update={"batch": CHECK_BATCH})
    shared.sequences_at_once(chosen.devices)  # refuses devices that do not share the batch equally
    forced = {"activation_checkpointing": chosen.checkpointing, "accumulate": chosen.accumulate}
    shared = shared.model_copy(update={name: value for name, value in forced.items() if value})
    low, fused = precision_bytes(params, machine), chosen.attention == "fused"
    return {name: Job(config, shared, vocab, low, chosen.devices, fused) for name, config in models.items()}


def measured_seconds(job: Job, compute: ComputeConfig, first: int) -> float:
    """The median step of the project's own training on this CPU, from step ``first`` of the schedule on."""
    model = new_model(job.config, job.vocab, 0, None)
    optimizer = SparseAdam(model, job.config, job.shared, job.config.tokens // job.tokens)
    batch = torch.randint(job.vocab, (job.shared.batch, job.config.n_ctx + 1), generator=torch.manual_seed(0))
    precision = training_precision(compute, batch.device)
    seconds = []
    for index in range(first, first + 1 + CHECK_STEPS):
        began = time.perf_counter()
        train_step(model, optimizer, batch, index, precision, job.shared.accumulate)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def check(row: Cost, job: Job, compute: ComputeConfig) -> Table:
    """Predicted and measured speed, before annealing begins and after it has ended."""
    columns = ["weights", "predicted tokens/s", "measured tokens/s", "measured / predicted"]
    rows = []
    end = math.ceil(job.shared.anneal_end * (job.config.tokens // job.tokens))
    for weights, first in (("dense, not annealed yet", 0), ("at their final density", end)):
        measured, predicted = job.tokens / measured_seconds(job, compute, first), row.tokens_per_second
        rows.append([weights, f"{predicted:,.0f}", f"{measured:,.0f}", f"{measured / predicted:.2f}"])
    return table("Check on this CPU", columns, rows)


def arguments(given: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", help="paper, laptop, smoke or check; default paper, with --machine here check")
    parser.add_argument("--machine", choices=[*SHEETS, "here"], default="H200")
    for option, (field, unit) in RATES.items():
        parser.add_argument(f"--{option}", type=float, dest=field, metavar="X", help=f"in {unit:.4g}, as reached")
    parser.add_argument("--devices", type=int, default=1, help="data parallel")
    parser.add_argument("--accumulate", type=int, metavar="N", help="parts of a batch at least; default: the profile's")
    parser.add_argument("--attention", choices=["fused", "materialised"], default="fused", help="where scores are kept")
    parser.add_argument("--json", action="store_true", help="all numbers, in FLOPs, bytes and seconds")
    parser.add_argument("--check", action="store_true", help="with --machine here: also train a few steps, timed")
    parser.add_argument("--checkpointing", action="store_true", help="keep only the layers' inputs for backward passes")
    chosen = parser.parse_args(given)
    chosen.profile = chosen.profile or ("check" if chosen.machine == "here" else "paper")
    if chosen.check and (chosen.machine != "here" or chosen.profile != "check"):
        parser.error("--check needs --machine here, and trains only the profile check")
    if chosen.devices < 1:
        parser.error(f"--devices {chosen.devices}; at least 1 is needed")
    return chosen


def main(given: list[str] | None = None) -> int:
    """Exit status of printing the tables."""
    chosen = arguments(given)
    console = Console(width=160)
    compute = load_params(environment.find_root() / "params.yaml").compute
    prepare_cpu(compute.threads)
    machine = Machine.measured() if chosen.machine == "here" else SHEETS[chosen.machine]
    rates = {field: getattr(chosen, field) * unit for field, unit in RATES.values() if getattr(chosen, field)}
    machine = replace(machine, **rates)
    try:
        work = jobs(chosen, machine)
        rows = [cost(name, job, machine) for name, job in work.items()]
    except (ConfigError, ValueError) as error:
        console.print(f"error: {error}", style="red")
        return 1
    if chosen.json:
        values = {"machine": asdict(machine), "devices": chosen.devices, "models": [asdict(row) for row in rows]}
        print(json.dumps(values, indent=1))
        return 0
    console.print(described(machine, chosen))
    show(rows, console)
    if chosen.check:
        console.print(check(rows[0], work["check"], compute))
    return 0


def described(machine: Machine, chosen: argparse.Namespace) -> str:
    """One line on what the tables are of."""
    rates = f"{machine.matmul / 1e12:.4g} TFLOP/s in products, {machine.float32 / 1e12:.4g} in float32"
    room = f"{machine.bandwidth / 1e12:.4g} TB/s, {machine.memory / GIB:.0f} GiB, link {machine.link / 1e9:.4g} GB/s"
    return f"{chosen.profile} on {chosen.devices} × {machine.name} ({rates}, {room}), {chosen.attention} attention"


if __name__ == "__main__":
    sys.exit(main())
