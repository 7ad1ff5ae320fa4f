"""Sparse pretraining: the loop, its validation, its log, and how it goes on after an interruption (§2)."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.artifacts import file_hash, read_json, whole_folder, write_json
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
from pipeline.pretrain.kept import NAME, Kept
from pipeline.pretrain.optimizer import SparseAdam
from pipeline.pretrain.products import sparse_below
from pipeline.pretrain.projection import l0, nonzeros
from pipeline.pretrain.schedule import anneal_progress
from pipeline.pretrain.step import next_token_loss, recompute_blocks, train_step
from pipeline.rows import ModelRow
from pipeline.seeds import seed_of

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
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))  # of the steps since the last validation
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """The content of a resumable checkpoint."""
        return {
            "model": self.model.state_dict(),
            "backward_sets": self.optimizer.backward_sets.state(),
            "adam": self.optimizer.adam.state_dict(),
            "step": self.step,
            "loss_sum": self.loss_sum,
            "seconds": self.seconds,
            "history": self.history,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.adam.load_state_dict(state["adam"])
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
        self.loss_sum = state.get("loss_sum", self.loss_sum)
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
    kept = Kept(scratch / "pretrain" / _identity(name, config, shared, compute, seed, tokens) / NAME)
    if (state := kept.last_whole(run.model.device)) is not None:
        run.restore(state)
    ranks.check_step(run.step)
    validation = TokenStream.open(tokens, "validation")
    validation_batches(validation, run.sequences, config.n_ctx, shared.validation_tokens)  # refuses too short a text
    _check_annealed(run)
    precision = training_precision(compute, run.model.device)
    skipped = _skip_zeros(run, compute, precision, scratch)
    with tqdm(total=run.n_steps, initial=run.step, desc=name, unit="step", disable=not ranks.is_first) as bar:
        while run.step < run.n_steps:
            try:
                metrics = _train_until_next_log(run, precision, bar, kept)
            except ArithmeticError as error:  # of a kernel: a softmax over, or a rank among, numbers that are none
                raise _diverged(run, kept) from error
            if not math.isfinite(metrics["train_loss"]):
                raise _diverged(run, kept)
            if ranks.is_first:
                _validate(run, validation, metrics, kept)
                on_log(run.step, metrics)
                bar.set_postfix(loss=f"{metrics['val_loss']:.3f}", L0=int(metrics["l0"]))
                if run.step % shared.checkpoint_every < shared.validate_every and run.step < run.n_steps:
                    kept.write(run.state())
    finished = _finish(run, tokens, folder, skipped) if ranks.is_first else None
    summary = cast(ModelRow, ranks.from_first(finished))
    kept.forget()
    return summary


def _check_annealed(run: TrainingRun) -> None:
    """Raises ValueError where a sparse model's last step comes before it is as sparse as its settings say."""
    sparse = min(run.config.block_density, run.config.embed_density) < 1
    if sparse and anneal_progress(run.n_steps - 1, run.n_steps, run.shared) < 1:
        raise ValueError(
            f"{run.name}: the last of its {run.n_steps} steps comes before annealing ends: it would not be as sparse "
            f"as asked; lower pretrain.anneal_end ({run.shared.anneal_end:g}) or raise models.{run.name}.tokens"
        )


def _skip_zeros(run: TrainingRun, compute: ComputeConfig, precision: Any, scratch: Path) -> float:
    """Let products skip zeros below the density at which that pays here; the first rank finds it. Returns it."""
    density = 0.0
    if run.ranks.is_first:
        n_tokens = run.sequences * run.config.n_ctx
        density = sparse_below(run.config, compute, n_tokens, run.model.device, precision, scratch / "pretrain")
    density = run.ranks.from_first(density)
    skip_zeros(run.model, density)
    return density


def _validate(run: TrainingRun, stream: TokenStream, metrics: dict[str, float], kept: Kept) -> None:
    """Add the validation loss to ``metrics`` and those to the history. Raises ValueError where training diverged."""
    batches = validation_batches(stream, run.sequences, run.config.n_ctx, run.shared.validation_tokens)
    try:
        metrics["val_loss"] = validation_loss(run.model, batches)
    except ArithmeticError as error:
        raise _diverged(run, kept) from error
    if not math.isfinite(metrics["val_loss"]):
        raise _diverged(run, kept)
    run.history.append(metrics)


def _diverged(run: TrainingRun, kept: Kept) -> ValueError:
    """What is said of a training whose loss is no number any more."""
    rate = run.optimizer.schedule.get("lr", math.nan)
    good = f"the last good checkpoint is {kept.path}" if kept.path.is_file() else "there is no checkpoint before it"
    return ValueError(
        f"{run.name}: the loss is not finite at step {run.step} (learning rate {rate:.3g}; the batches of the last "
        f"{run.shared.validate_every} steps); {good}; lower models.{run.name}.lr and run the stage again"
    )


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


def _train_until_next_log(run: TrainingRun, precision: Any, bar: tqdm[Any], kept: Kept) -> dict[str, float]:
    """Steps up to the next validation. Returns the mean loss since the last one, the last step's schedule and speed."""
    start, seconds = run.step, run.seconds
    last = start - start % run.shared.validate_every  # the step of the last validation
    stop = min(run.n_steps, last + run.shared.validate_every)
    if start == last:
        run.loss_sum = torch.zeros((), device=run.model.device)
    run.model.train()
    began = time.perf_counter()
    for step, batch in read_ahead(run.read, start, stop):
        batch = batch.to(run.model.device, non_blocking=True)
        run.loss_sum += train_step(run.trained, run.optimizer, batch, step, precision, run.shared.accumulate)
        run.step = step + 1
        bar.update()
        if run.ranks.n == 1 and run.step < stop and kept.is_due():  # loss_sum is a rank's own
            run.seconds += time.perf_counter() - began
            _keep_finite(run, kept)
            began = time.perf_counter()
    train_loss = float(run.ranks.mean(run.loss_sum)) / (stop - last)
    run.seconds += time.perf_counter() - began
    run.ranks.check_identical(run.model)
    counts = nonzeros(run.model)
    return {
        "step": stop,
        "tokens": stop * run.tokens_per_step,
        "train_loss": train_loss,
        "l0": l0(counts),
        **{f"l0/{name}": count for name, count in counts.items()},
        "tokens_per_second": (stop - start) * run.tokens_per_step / (run.seconds - seconds),
        **run.optimizer.schedule,
    }


def _keep_finite(run: TrainingRun, kept: Kept) -> None:
    """Write a resumable checkpoint between two validations, unless training has diverged since the last one."""
    if math.isfinite(run.loss_sum) and all(torch.isfinite(p).all() for p in run.model.parameters()):
        kept.write(run.state())


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
