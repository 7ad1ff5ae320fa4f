"""The projection onto sparse weights: after every optimizer step, all but the largest are zeroed (§2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import nn

from pipeline.config import ModelConfig
from pipeline.kernels import projection_cpu
from pipeline.kernels.projection_gpu import keep_largest
from pipeline.kernels.simd import TILE
from pipeline.kernels.sparse import CsrRows, Nonzeros, fits
from pipeline.kernels.threads import in_shares
from pipeline.model.linear import Linear
from pipeline.model.transformer import Transformer

ROOM = 4  # weights that one pass may find for each that stays


@dataclass(frozen=True)
class Target:
    """One tensor that is made sparse: its final density, and along which axis keep-alive counts.

    ``alive_axis`` 0: each row (a neuron's or channel's inputs) keeps ``keep_alive`` weights; 1: each column; None: no
    keep-alive.
    """

    name: str
    parameter: nn.Parameter
    density: float
    alive_axis: int | None
    layer: Linear | None = field(default=None, compare=False)  # whose weight it is
    last: list[int] = field(default_factory=lambda: [0], compare=False)  # the last threshold's bits: where to begin

    def budget(self, progress: float) -> int:
        """Nonzeros allowed when ``progress`` (0 dense … 1 annealed) of the way is gone; linear in their number."""
        density = 1 - progress * (1 - self.density)
        return max(1, round(density * self.parameter.numel()))


def sparse_targets(model: Transformer, config: ModelConfig) -> list[Target]:
    """The tensors to project: attention and MLP matrices, embedding, unembedding, biases.

    Not: norm gains, bigram table, sink logits, positional embedding. Empty for a model of density 1.
    """
    targets = []
    layers = {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, Linear)}
    for name, parameter in model.named_parameters():
        if name.endswith((".c_attn.weight", ".c_fc.weight")):
            targets.append(Target(name, parameter, config.block_density, 0, layers[name]))
        elif name.endswith(".c_proj.weight"):
            targets.append(Target(name, parameter, config.block_density, 1, layers[name]))
        elif name.endswith((".bias", "wte.weight", "lm_head.weight")) and ".ln_" not in name:
            targets.append(Target(name, parameter, config.embed_density, None, layers.get(name)))
    return [target for target in targets if target.density < 1]


def project(targets: Sequence[Target], progress: float, keep_alive: int) -> None:
    """Zero, in place, all but the budgeted largest-magnitude entries of every target; ties go to the lower index.

    Keep-alive entries (the ``keep_alive`` largest of each row or column) count inside the budget. On a CPU the targets
    are done side by side, each from its last threshold; what is kept does not depend on that.
    """
    due = [target for target in targets if target.budget(progress) < target.parameter.numel()]
    if due and due[0].parameter.device.type == "cpu":
        in_shares(lambda start, stop: _keep_each(due[start:stop], progress, keep_alive), len(due))
        return
    for target in due:
        weight = target.parameter.detach()
        weight.mul_(keep_largest(weight, target.budget(progress), keep_alive, target.alive_axis))


def project_few(targets: Sequence[Target], progress: float, keep_alive: int, shrink: float) -> list[Target]:
    """Project, then multiply by ``shrink``, those matrices on a CPU that are so sparse that products skip their zeros.

    One pass finds the weights that stay, and their linear map is told of them; to the bits of ``project``. Returns the
    targets that were done.
    """
    fitting = [target for target in targets if target.layer is not None and fits(target.parameter)]
    few = [target for target in fitting if not target.parameter.is_cuda and _skips_zeros(target, progress)]
    done: list[Target] = []

    def work(start: int, stop: int) -> None:
        done.extend(target for target in few[start:stop] if _keep_few(target, progress, keep_alive, shrink))

    in_shares(work, len(few))
    return done


def _skips_zeros(target: Target, progress: float) -> bool:
    layer = cast(Linear, target.layer)
    return target.budget(progress) <= layer.sparse_below * target.parameter.numel()


def _keep_few(target: Target, progress: float, keep_alive: int, shrink: float) -> bool:
    """Whether it could be done."""
    weight, budget = target.parameter.detach(), target.budget(progress)
    flat, width = weight.view(-1).numpy(), weight.shape[1]
    least = 0 if target.alive_axis is None else keep_alive
    place = np.empty(ROOM * budget + TILE, np.int64)
    bits = weight.view(torch.int32).numpy()
    last, n = projection_cpu.keep_few(bits, budget, least, target.alive_axis == 1, target.last[0], place)
    if n < 0:
        return False
    place, target.last[0] = place[:n], last
    value = flat[place] * np.float32(shrink)
    flat[place] = value
    torch.autograd.graph.increment_version(target.parameter)  # numpy's writes go unseen
    start = np.searchsorted(place, np.arange(len(weight) + 1) * width).astype(np.int32)
    rows = CsrRows(start, (place % width).astype(np.int32), value)
    cast(Linear, target.layer).know(Nonzeros.of_rows(rows.without_zeros(value), width))
    return True


def _keep_each(targets: Sequence[Target], progress: float, keep_alive: int) -> None:
    for target in targets:
        weight = target.parameter.detach().view(torch.int32)
        least = 0 if target.alive_axis is None else keep_alive
        rows = (weight if weight.ndim == 2 else weight[None]).numpy()
        by_column = target.alive_axis == 1
        target.last[0] = projection_cpu.keep_largest(rows, target.budget(progress), least, by_column, target.last[0])
        torch.autograd.graph.increment_version(target.parameter)  # numpy's writes go unseen


def nonzeros(model: nn.Module) -> dict[str, int]:
    """Exact nonzero count of every parameter, by its name: L0 per tensor."""
    return {name: int(torch.count_nonzero(p)) for name, p in model.named_parameters()}


def l0(counts: Mapping[str, int]) -> int:
    """Nonzero entries of all tensors that can be made sparse (§2), of the counts that ``nonzeros`` gives."""
    never_sparse = ("bigram_table", "sink_logit", "wpe.", "ln_", "final_logits_bias")
    return sum(count for name, count in counts.items() if not any(part in name for part in never_sparse))
