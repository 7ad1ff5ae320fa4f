"""One optimizer step of sparse training: normalise the gradient, Adam, decay, project (METHOD §2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.config import ModelConfig, PretrainConfig
from pipeline.model.transformer import Transformer
from pipeline.pretrain.projection import Target, project, sparse_targets
from pipeline.pretrain.schedule import anneal_progress, learning_rate

GRADIENT_FLOOR = 1e-5  # added to the gradient's root-mean-square


class SparseAdam:
    """Adam on dense moments whose result is made sparse: a zeroed weight keeps its moments and can come back.

    The order is the authors': normalised gradient, Adam, projection, then decoupled weight decay on tensors of two and
    more dimensions except the bigram table.
    """

    def __init__(self, model: Transformer, config: ModelConfig, shared: PretrainConfig, n_steps: int) -> None:
        self.parameters = list(model.parameters())
        self.targets: list[Target] = sparse_targets(model, config)
        self.decayed = [p for name, p in model.named_parameters() if p.ndim >= 2 and name != "bigram_table"]
        self.adam = torch.optim.Adam(
            self.parameters, lr=0.0, betas=(shared.beta1, shared.beta2), eps=shared.eps, fused=True
        )
        self.config, self.shared, self.n_steps = config, shared, n_steps

    def step(self, step: int) -> dict[str, float]:
        """Apply the gradients of optimizer step number ``step`` (from 0). Returns rate, gradient RMS, progress."""
        progress = anneal_progress(step, self.n_steps, self.shared)
        rate = learning_rate(step, self.n_steps, self.config.lr, self.l0_frac(progress), self.shared)
        gradient = normalise(self.parameters)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        with torch.no_grad():
            for target in self.targets:
                project(target, progress, self.shared.keep_alive)
            torch._foreach_mul_(self.decayed, 1 - rate * self.shared.weight_decay)
        self.adam.zero_grad(set_to_none=True)
        return {"lr": rate, "gradient_rms": gradient, "anneal_progress": progress}

    def l0_frac(self, progress: float) -> float:
        """Target L0 over present L0, of the tensors that are made sparse; 1 for a dense model."""
        present = sum(target.budget(progress) for target in self.targets)
        return sum(target.budget(1.0) for target in self.targets) / present if present else 1.0


def normalise(parameters: list[nn.Parameter]) -> float:
    """Divide all gradients, in place, by their common root-mean-square (plus a floor). Returns it as it was."""
    gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    rms = (norms.square().sum() / sum(g.numel() for g in gradients)).sqrt()
    torch._foreach_div_(gradients, rms + GRADIENT_FLOOR)
    return float(rms)
