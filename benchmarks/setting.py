"""The models that benchmarks train: a size, a density, random tokens, steps after annealing."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.straightforward import Straightforward
from pipeline.config import ModelConfig, Params, load_params
from pipeline.model.device import pick_device, training_precision
from pipeline.model.initial import new_model
from pipeline.model.linear import skip_zeros
from pipeline.pretrain.optimizer import SparseAdam
from pipeline.pretrain.products import sparse_below
from pipeline.pretrain.step import train_step

N_STEPS = 1000
SPAN = 200  # steps, after which their number begins again
STEP = 700  # after the laptop profile's annealing, which ends at half


@dataclass(frozen=True)
class Setting:
    """A model's size and a step's. ``density`` 1: dense, without AbsTopK. ``every``: pretrain.dense_gradient_every."""

    d_model: int
    n_layer: int
    density: float = 1.0
    n_ctx: int = 128
    batch: int = 32
    vocab_size: int = 1024
    positions: bool = False
    every: int = 1

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch * self.n_ctx

    @property
    def config(self) -> ModelConfig:
        return ModelConfig(
            n_layer=self.n_layer,
            d_model=self.d_model,
            d_head=16,
            n_ctx=self.n_ctx,
            afrac=1.0 if self.density == 1 else 0.25,
            block_density=self.density,
            embed_density=self.density,
            sink=True,
            positions=self.positions,
            lr=0.01,
            tokens=1,
        )

    def random_batch(self) -> Tensor:
        return torch.randint(self.vocab_size, (self.batch, self.n_ctx + 1))


class Ours:
    """This project's training, set up as the stage pretrain does."""

    def __init__(self, setting: Setting, params: Params | None = None) -> None:
        params = params or load_params()
        compute, self.setting = params.compute.model_copy(update={"threads": torch.get_num_threads()}), setting
        self.device = pick_device(compute)
        self.precision = training_precision(compute, self.device)
        self.model = new_model(setting.config, setting.vocab_size, 0, None).to(self.device)
        shared = params.pretrain.model_copy(update={"dense_gradient_every": setting.every})
        self.optimizer = SparseAdam(self.model, setting.config, shared, N_STEPS)
        with tempfile.TemporaryDirectory() as folder:
            self.skipped_below = sparse_below(
                setting.config, compute, setting.tokens, self.device, self.precision, Path(folder)
            )
        skip_zeros(self.model, self.skipped_below)
        self.batch = setting.random_batch().to(self.device)
        self.n = 0  # steps so far

    def step(self) -> float:
        """One optimizer step. Returns its loss in nats."""
        step = STEP + self.n % SPAN
        self.n += 1
        return float(train_step(self.model, self.optimizer, self.batch, step, self.precision, 1))


class Peer:
    """The straightforward implementation of the same training."""

    def __init__(self, setting: Setting, params: Params | None = None) -> None:
        params = params or load_params()
        device = pick_device(params.compute)
        self.model = Straightforward(setting.config, params.pretrain, setting.vocab_size).to(device)
        self.precision = training_precision(params.compute, device)
        self.batch = setting.random_batch().to(device)

    def step(self) -> float:
        """One optimizer step. Returns its loss in nats."""
        return self.model.step(self.batch, self.precision)
