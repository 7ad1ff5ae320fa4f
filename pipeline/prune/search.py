"""The search for a small circuit: gradient descent on one τ per node (METHOD §4, App. A.5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import PruneConfig
from pipeline.data.pairs import PairBatch, answer_logits, prompt_losses
from pipeline.model.held import only
from pipeline.model.transformer import Transformer
from pipeline.prune.masks import Heaviside, by_site, flatten

Means = Mapping[str, Float[Tensor, " width"]]


def search(
    model: Transformer, means: Means, train: PairBatch, config: PruneConfig, k_coef: float, seed: int
) -> Float[Tensor, " node"]:
    """The order of all nodes, the more needed the larger: τ, and above its clamp at 1 the attribution (see ``rank``).

    Minimises task loss + ``k_coef`` · number of kept nodes with AdamW. The model is frozen. Bit-reproducible.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(flatten(means)), generator=generator)
    tau = (config.init_noise_scale * noise + config.init_noise_bias).clamp(-1, 1).requires_grad_(True)
    optimizer = torch.optim.AdamW([tau], lr=config.lr, betas=(0.9, config.beta2), weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, config))
    for _, batch in zip(range(config.steps), batches(train, config.batch_pairs, generator), strict=False):
        mask: Tensor = Heaviside.apply(tau, config.heaviside_temp)
        loss = masked_loss(model, means, mask, batch) + k_coef * mask.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([tau], config.grad_clip)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            tau.clamp_(-1, 1)
    return rank(tau.detach(), attribution(model, means, (tau.detach() > 0).float(), train))


def rate(step: int, config: PruneConfig) -> float:
    """Linear warm-up, then linear decay to 0, as a fraction of the base rate."""
    warmup = max(1.0, config.warmup * config.steps)
    return min(1.0, (step + 1) / warmup) * (1 - step / config.steps)


def batches(pairs: PairBatch, size: int, generator: torch.Generator) -> Iterator[PairBatch]:
    """Endless batches of ``size`` pairs, each epoch in a new order; all pairs at once where there are fewer."""
    while True:
        for part in torch.randperm(pairs.n_pairs, generator=generator).split(size):
            if len(part) == min(size, pairs.n_pairs):
                yield pairs.take(part)


def masked_loss(model: Transformer, means: Means, mask: Float[Tensor, " node"], batch: PairBatch) -> Tensor:
    """Task loss in nats with the nodes outside the (hard) mask held at their means; differentiable in the mask."""
    logits = model(batch.tokens, at=batch.last, **only(model, by_site(mask, means), means))
    return prompt_losses(answer_logits(logits, batch)).mean()


def attribution(
    model: Transformer, means: Means, mask: Float[Tensor, " node"], train: PairBatch
) -> Float[Tensor, " node"]:
    """How much the task loss would rise, to first order, without each node: −∂loss/∂m at the mask, over all pairs."""
    mask = mask.clone().requires_grad_(True)
    for part in torch.arange(train.n_pairs).split(64):
        batch = train.take(part)
        (masked_loss(model, means, mask, batch) * len(part) / train.n_pairs).backward()
    assert mask.grad is not None
    return -mask.grad


def rank(tau: Float[Tensor, " node"], attributed: Float[Tensor, " node"]) -> Float[Tensor, " node"]:
    """τ, with the nodes at its clamp told apart: 1 + their attribution's place among them, in (0, 1].

    Most kept nodes end at τ = 1 exactly, and a bisection over tied ranks could not see past them.
    """
    order = tau.clone()
    tied = (tau >= 1).nonzero().flatten()
    places = attributed[tied].argsort(stable=True).argsort(stable=True)
    order[tied] = 1 + (places + 1).to(tau.dtype) / max(1, len(tied))
    return order
