"""Sparse pretraining: the loop, its validation, its log, and how it goes on after an interruption (§2)."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.artifacts import file_hash, read_json, whole_file, whole_folder, write_json
from pipeline.config import ComputeConfig, ConfigError, ModelConfig, PretrainConfig
from pipeline.data.batches import TrainingBatches, validation_batches
from pipeline.data.bigram import load_bigram
from pipeline.data.shards import TokenStream
from pipeline.model.checkpoint import model_hash, save_means, save_model
from pipeline.model.device import pick_device, prepare_cpu, training_precision
from pipeline.model.initial import new_model
from pipeline.model.linear import skip_zeros
from pipeline.model.means import node_means
from pipeline.model.transformer import Transformer
from pipeline.pretrain.distributed import ALONE, Ranks
from pipeline.pretrain.optimizer import SparseAdam
from pipeline.pretrain.products import sparse_below
from pipeline.pretrain.projection import l0, nonzeros
from pipeline.pretrain.step import next_token_loss, recompute_blocks, train_step
from pipeline.rows import ModelRow
from pipeline.seeds import seed_of

CHECKPOINT = "checkpoint.pt"

OnLog = Callable[[int, dict[str, float]], None]


@dataclass
class TrainingRun:
    """A training run in progress: its settings and parts, then what changes from step to step."""

    name: str
    config: ModelConfig
    shared: PretrainConfig
    ranks: Ranks
    model: Transformer
    trained: nn.Module  # what the training step calls: the model, or it with gradients averaged over the ranks
    optimizer: SparseAdam
    batches: TrainingBatches
    n_steps: int
    sequences: int  # in one forward pass of one rank
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """The content of a resumable checkpoint."""
        return {
            "model": self.model.state_dict(),
            "backward_sets": self.optimizer.backward_sets.state(),
            "adam": self.optimizer.adam.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.adam.load_state_dict(state["adam"])
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
        self.optimizer.backward_sets.restore(state["backward_sets"], self.optimizer.adam, self.step)

    def read(self, step: int) -> Tensor:
        """This rank's sequences of a step [batch, n_ctx + 1], where the model's device can fetch them from."""
        batch = self.ranks.part(self.batches.at(step))
        return batch.pin_memory() if self.model.device.type == "cuda" else batch

    @property
    def tokens_per_step(self) -> int:
        return self.shared.batch * self.config.n_ctx


def pretrain(
    *,
    name: str,
    config: ModelConfig,
    shared: PretrainConfig,
    compute: ComputeConfig,
    seed: int,
    tokens: Path,
    folder: Path,
    scratch: Path,
    on_log: OnLog,
    ranks: Ranks = ALONE,
) -> ModelRow:
    """Train one model on the token streams in ``tokens``; write checkpoint, means, history and summary to ``folder``.

    Returns the summary. A run that was interrupted goes on from its last checkpoint in ``scratch`` and ends equal to an
    unbroken one. ``on_log(step, metrics)`` is called at every validation. All ranks call this; the first
    alone validates, logs and writes files. Raises ValueError for too few tokens or for a batch that cannot be
    shared out.
    """
    prepare_cpu(compute.threads)
    run = _start(name, config, shared, seed, tokens, pick_device(compute), ranks)
    checkpoint = scratch / "pretrain" / _identity(name, config, shared, compute, seed, tokens) / CHECKPOINT
    if (kept := last_whole(checkpoint, run.model.device)) is not None:
        run.restore(kept)
    ranks.check_step(run.step)
    validation = TokenStream.open(tokens, "validation")
    validation_batches(validation, run.sequences, config.n_ctx, shared.validation_tokens)  # refuses too short a text
    precision = training_precision(compute, run.model.device)
    skipped = _skip_zeros(run, compute, precision, scratch)
    with tqdm(total=run.n_steps, initial=run.step, desc=name, unit="step", disable=not ranks.is_first) as bar:
        while run.step < run.n_steps:
            try:
                metrics = _train_until_next_log(run, precision, bar)
            except ZeroDivisionError as error:  # of a kernel: a softmax over numbers that are none
                raise _diverged(run, checkpoint) from error
            if not math.isfinite(metrics["train_loss"]):
                raise _diverged(run, checkpoint)
            if ranks.is_first:
                _validate(run, validation, metrics, checkpoint)
                on_log(run.step, metrics)
                bar.set_postfix(loss=f"{metrics['val_loss']:.3f}", L0=int(metrics["l0"]))
                _keep(run, checkpoint)
    finished = _finish(run, tokens, folder, skipped) if ranks.is_first else None
    summary = cast(ModelRow, ranks.from_first(finished))
    for path in (checkpoint, before(checkpoint)):
        path.unlink(missing_ok=True)
    return summary


def _skip_zeros(run: TrainingRun, compute: ComputeConfig, precision: Any, scratch: Path) -> float:
    """Let products skip zeros below the density at which that pays here; the first rank finds it. Returns it."""
    density = 0.0
    if run.ranks.is_first:
        n_tokens = run.sequences * run.config.n_ctx
        density = sparse_below(run.config, compute, n_tokens, run.model.device, precision, scratch / "pretrain")
    density = run.ranks.from_first(density)
    skip_zeros(run.model, density)
    return density


def _validate(run: TrainingRun, stream: TokenStream, metrics: dict[str, float], checkpoint: Path) -> None:
    """Add the validation loss to ``metrics`` and those to the history. Raises ValueError where training diverged."""
    batches = validation_batches(stream, run.sequences, run.config.n_ctx, run.shared.validation_tokens)
    try:
        metrics["val_loss"] = validation_loss(run.model, batches)
    except ZeroDivisionError as error:
        raise _diverged(run, checkpoint) from error
    if not math.isfinite(metrics["val_loss"]):
        raise _diverged(run, checkpoint)
    run.history.append(metrics)


def _diverged(run: TrainingRun, checkpoint: Path) -> ValueError:
    """What is said of a training whose loss is no number any more."""
    rate = run.optimizer.schedule.get("lr", math.nan)
    kept = f"the last good checkpoint is {checkpoint}" if checkpoint.is_file() else "there is no checkpoint before it"
    return ValueError(
        f"{run.name}: the loss is not finite at step {run.step} (learning rate {rate:.3g}; the batches of the last "
        f"{run.shared.validate_every} steps); {kept}; lower models.{run.name}.lr and run the stage again"
    )


def before(checkpoint: Path) -> Path:
    """The place of the checkpoint before the last one."""
    return checkpoint.with_name(f"before-{checkpoint.name}")


def last_whole(checkpoint: Path, device: torch.device) -> dict[str, Any] | None:
    """The last resumable checkpoint that is whole, on a device; None where there is none.

    One that a crash of the machine left empty, cut or filled with zeros is passed over, with a warning.
    """
    for path in (checkpoint, before(checkpoint)):
        if not path.is_file():
            continue
        try:
            saved = torch.load(path, map_location=device, weights_only=True)
            if saved["digest"] != _digest(saved["state"]):
                raise ValueError("other bits than were written")
            state: dict[str, Any] = saved["state"]
            return state
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0][:200]
            print(f"warning: {path} is damaged ({why}); training goes on from an earlier step", file=sys.stderr)
    return None


def _digest(value: Any) -> str:
    """The identity of the tensors and numbers in a state."""
    digest = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, Tensor):
            digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
            digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        elif isinstance(part, dict):
            for key in part:
                digest.update(repr(key).encode())
                add(part[key])
        elif isinstance(part, list | tuple):
            for one in part:
                add(one)
        else:
            digest.update(repr(part).encode())

    add(value)
    return digest.hexdigest()


def _keep(run: TrainingRun, checkpoint: Path) -> None:
    """Write a resumable checkpoint where one is due, and keep the one before."""
    if run.step % run.shared.checkpoint_every < run.shared.validate_every and run.step < run.n_steps:
        state = run.state()
        with whole_file(checkpoint) as partial:
            torch.save({"state": state, "digest": _digest(state)}, partial)
            if checkpoint.is_file():
                checkpoint.replace(before(checkpoint))


def _start(
    name: str,
    config: ModelConfig,
    shared: PretrainConfig,
    seed: int,
    tokens: Path,
    device: torch.device,
    ranks: Ranks,
) -> TrainingRun:
    """The run at step 0. Raises ValueError where the batch cannot be shared out over the ranks, and for backward sets
    where there is no kernel for them."""
    sequences = shared.sequences_at_once(ranks.n)
    if shared.dense_gradient_every > 1 and (device.type != "cpu" or ranks.n > 1):
        raise ConfigError(
            f"pretrain.dense_gradient_every {shared.dense_gradient_every} on {device.type} in {ranks.n} processes; "
            "allowed: 1, or one process on a CPU (compute.device: cpu, compute.processes: 1)"
        )
    stream = TokenStream.open(tokens, "train")
    bigram = load_bigram(tokens) if shared.bigram_init == "counts" else None
    vocab_size = read_json(tokens / "tokenizer.json")["vocab_size"]
    model = new_model(config, vocab_size, seed_of(seed, "pretrain", name), bigram).to(device)
    if shared.activation_checkpointing:
        recompute_blocks(model)
    n_steps = max(1, config.tokens // (shared.batch * config.n_ctx))
    batches = TrainingBatches(stream, shared.batch, config.n_ctx, seed_of(seed, "batches"))
    optimizer = SparseAdam(model, config, shared, n_steps, ranks)
    return TrainingRun(name, config, shared, ranks, model, ranks.trained(model), optimizer, batches, n_steps, sequences)


def _identity(
    name: str, config: ModelConfig, shared: PretrainConfig, compute: ComputeConfig, seed: int, tokens: Path
) -> str:
    """A folder name that belongs to exactly these settings and these tokens."""
    data = file_hash(tokens / "train.bin", tokens / "validation.bin", tokens / "bigram.safetensors")
    settings = [config.model_dump(), shared.model_dump(), compute.model_dump(), seed]
    return f"{name}-{hashlib.sha256((json.dumps(settings) + data).encode()).hexdigest()[:16]}"


def _train_until_next_log(run: TrainingRun, precision: Any, bar: tqdm[Any]) -> dict[str, float]:
    """Steps up to the next validation. Returns their mean loss, the last step's schedule and the speed."""
    start, began = run.step, time.perf_counter()
    stop = min(run.n_steps, (start // run.shared.validate_every + 1) * run.shared.validate_every)
    total = torch.zeros((), device=run.model.device)
    run.model.train()
    for step, batch in read_ahead(run.read, start, stop):
        batch = batch.to(run.model.device, non_blocking=True)
        total += train_step(run.trained, run.optimizer, batch, step, precision, run.shared.accumulate)
        bar.update()
    train_loss = float(run.ranks.mean(total)) / (stop - start)
    run.step = stop
    elapsed = time.perf_counter() - began
    run.seconds += elapsed
    run.ranks.check_identical(run.model)
    counts = nonzeros(run.model)
    return {
        "step": stop,
        "tokens": stop * run.tokens_per_step,
        "train_loss": train_loss,
        "l0": l0(counts),
        **{f"l0/{name}": count for name, count in counts.items()},
        "tokens_per_second": (stop - start) * run.tokens_per_step / elapsed,
        **run.optimizer.schedule,
    }


def read_ahead(read: Callable[[int], Tensor], start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
    """Every step from ``start`` to before ``stop`` with its ``read(step)``, read while the one before it is in use."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as thread:
        coming = thread.submit(read, start)
        for step in range(start, stop):
            batch = coming.result()
            if step + 1 < stop:
                coming = thread.submit(read, step + 1)
            yield step, batch


@torch.no_grad()
def validation_loss(model: Transformer, batches: Iterator[Tensor]) -> float:
    """Mean cross-entropy in nats over all next tokens of the batches [batch, n_ctx + 1], in float32."""
    model.eval()
    total, n = 0.0, 0
    for batch in batches:
        total += float(next_token_loss(model, batch.to(model.device))) * len(batch)
        n += len(batch)
    return total / n


def _finish(run: TrainingRun, tokens: Path, folder: Path, skipped: float) -> ModelRow:
    """Means, checkpoint, history and summary, written whole. Returns the summary."""
    n_batches = max(1, run.shared.mean_tokens // run.tokens_per_step)
    batches = [run.batches.at(step)[:, :-1] for step in range(n_batches)]
    run.model.eval()
    counts = nonzeros(run.model)
    means = node_means(run.model, [part for batch in batches for part in batch.split(run.sequences)])
    with whole_folder(folder) as partial:
        save_model(run.model, partial, {"name": run.name, "tokenizer": read_json(tokens / "tokenizer.json")["hash"]})
        save_means(means, partial)
        (partial / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in run.history))
        summary: ModelRow = {
            "name": run.name,
            "kind": run.config.kind,
            "n_layer": run.config.n_layer,
            "d_model": run.config.d_model,
            "n_params": sum(p.numel() for p in run.model.parameters()),
            "l0": l0(counts),
            "l0_by_matrix": counts,
            "tokens": run.n_steps * run.tokens_per_step,
            "val_loss_nats": run.history[-1]["val_loss"],
            "train_seconds": run.seconds,
            "sparse_below": skipped,
            "model_hash": model_hash(partial),
        }
        write_json(partial / "summary.json", summary)
    return summary
