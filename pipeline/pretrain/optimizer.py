"""One optimizer step of sparse training: normalise the gradient, Adam, decay, project (§2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.config import ModelConfig, PretrainConfig
from pipeline.model.transformer import Transformer
from pipeline.pretrain.backward_set import BackwardSets
from pipeline.pretrain.distributed import ALONE, Ranks, owners
from pipeline.pretrain.projection import Target, project, project_few, sparse_targets
from pipeline.pretrain.schedule import anneal_progress, learning_rate

GRADIENT_FLOOR = 1e-5  # added to the gradient's root-mean-square


class SparseAdam:
    """Adam on dense moments whose result is made sparse: a zeroed weight keeps its moments and can come back.

    The order is the authors': normalised gradient, Adam, projection, then decoupled weight decay on tensors of two and
    more dimensions except the bigram table. With several ranks, each projects the tensors that it owns.
    """

    def __init__(
        self, model: Transformer, config: ModelConfig, shared: PretrainConfig, n_steps: int, ranks: Ranks = ALONE
    ) -> None:
        self.parameters = list(model.parameters())
        self.targets: list[Target] = sparse_targets(model, config)
        self.owners = owners([target.parameter.numel() for target in self.targets], ranks.n)
        self.decayed = [p for name, p in model.named_parameters() if p.ndim >= 2 and name != "bigram_table"]
        self.adam = torch.optim.Adam(
            self.parameters, lr=0.0, betas=(shared.beta1, shared.beta2), eps=shared.eps, fused=True
        )
        self.config, self.shared, self.n_steps, self.ranks = config, shared, n_steps, ranks
        self.backward_sets = BackwardSets(self.targets, shared)
        self._last: dict[str, Tensor | float] = {}

    def step(self, step: int) -> None:
        """Apply the gradients, which are the same on all ranks, of optimizer step number ``step`` (from 0)."""
        progress = anneal_progress(step, self.n_steps, self.shared)
        rate = learning_rate(step, self.n_steps, self.config.lr, self.l0_frac(progress), self.shared)
        gradient = normalise(self.parameters, self.backward_sets)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        with torch.no_grad():
            shrink = 1 - rate * self.shared.weight_decay
            shrunk = self._project(progress, shrink)
            torch._foreach_mul_([p for p in self.decayed if p.grad is not None and id(p) not in shrunk], shrink)
            self._between_dense_gradients(step, progress, rate)
        self.adam.zero_grad(set_to_none=True)
        self._last = {"lr": rate, "gradient_rms": gradient, "anneal_progress": progress}

    def _between_dense_gradients(self, step: int, progress: float, rate: float) -> None:
        """Move the backward sets, or choose them after a dense step; let the next step's gradients be what it wants."""
        moved = self.backward_sets.in_use
        for one in moved:
            one.step(rate, self.shared)
        if progress == 1 and self.shared.dense_gradient_every > 1 and not moved:
            self.backward_sets.choose(self.adam)
        self.backward_sets.prepare(step + 1)

    @property
    def schedule(self) -> dict[str, float]:
        """Rate, gradient RMS and annealing progress of the last step. Waits for the device, which steps do not."""
        return {name: float(value) for name, value in self._last.items()}

    def l0_frac(self, progress: float) -> float:
        """Target L0 over present L0, of the tensors that are made sparse; 1 for a dense model."""
        present = sum(target.budget(progress) for target in self.targets)
        return sum(target.budget(1.0) for target in self.targets) / present if present else 1.0

    def _project(self, progress: float, shrink: float) -> set[int]:
        """Make the tensors sparse: each on its owner, which sends it to the others.

        Returns the ids of those that were multiplied by ``shrink`` as well.
        """
        owned = list(zip(self.targets, self.owners, strict=True))
        due = [(target, owner) for target, owner in owned if target.budget(progress) < target.parameter.numel()]
        due = [(target, owner) for target, owner in due if target.parameter.grad is not None]
        own = [target for target, owner in due if owner == self.ranks.rank]
        done = project_few(own, progress, self.shared.keep_alive, shrink) if self.ranks.n == 1 else []
        shrunk = {id(target.parameter) for target in done}
        project([target for target in own if id(target.parameter) not in shrunk], progress, self.shared.keep_alive)
        self.ranks.share([target.parameter.detach() for target, _ in due], [owner for _, owner in due])
        return shrunk


def normalise(parameters: list[nn.Parameter], backward_sets: BackwardSets | None = None) -> Tensor:
    """Divide all gradients, in place, by their common root-mean-square (plus a floor). Returns it as it was.

    Where a matrix has a backward set in use, the square of its gradient is estimated from that of its nonzero weights.
    """
    gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    few = backward_sets.in_use if backward_sets else []
    squares = torch.stack(torch._foreach_norm(gradients)).square().sum()
    if backward_sets and few:
        squares = squares + backward_sets.growth * sum(one.squares() for one in few)
    n = sum(g.numel() for g in gradients) + sum(one.layer.weight.numel() for one in few)
    rms = (squares / n).sqrt()
    torch._foreach_div_([*gradients, *(one.gradient for one in few)], rms + GRADIENT_FLOOR)
    return rms
