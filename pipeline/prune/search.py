"""The search for small circuits: gradient descent on one τ per unit, many candidates at once (§4, App. A.5).

A unit is a node, or an edge (edge_search.py); a candidate is a set of hyperparameters and a seed. All see the same
batches; the model is frozen and only their masks differ, so that they run as one batch through one forward pass; on a
CPU in passes of a few pairs of one candidate, side by side on its cores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.node_masks import NodeMasks
from pipeline.config import Hyperparameters, PruneConfig
from pipeline.data.pairs import PairBatch, prompt_losses
from pipeline.model.scoring import answers_of
from pipeline.model.transformer import Transformer
from pipeline.prune.masks import EdgeLayout, Heaviside, UnitLayout
from pipeline.prune.side_by_side import side_by_side

ADAM_EPS = 1e-8
RANK_PAIRS = 64  # on which units at the clamps are told apart
BETA1 = 0.9
PASS = 16  # pairs of one candidate in one pass on a CPU: more do not fit its cache, fewer cost too much per call

# Step and candidates' losses (nats) and kept nodes → which of them go on.
Watch = Callable[[int, Tensor, Tensor], Sequence[bool]]


@dataclass(frozen=True)
class Maskable(ABC):
    """A frozen model, what its nodes are held at, and how masks over parts of it are laid out."""

    model: Transformer
    ablated_to: AblationValues
    layout: UnitLayout | EdgeLayout

    @abstractmethod
    def losses(self, masks: Float[Tensor, "c unit"], batch: PairBatch, draw: int = 0) -> Float[Tensor, " c"]:
        """Task loss in nats of every candidate, with what is outside its mask held; differentiable in the masks."""

    def run(self, batch: PairBatch, n: int, **changes: Any) -> Float[Tensor, " c"]:
        """The task loss of each of n candidates under the changes to the model."""
        return prompt_losses(answers_of(self.model, batch, n, **changes).view(n, -1, 2)).mean(-1)

    def slopes(
        self, masks: Float[Tensor, "c unit"], batch: PairBatch, draw: int = 0
    ) -> tuple[Float[Tensor, " c"], Float[Tensor, "c unit"]]:
        """``losses`` and ∂loss/∂mask of every candidate.

        On a CPU in passes that fit its cache, of prompts of like length, shared out among torch's threads.
        """

        def one_pass(job: tuple[Tensor, PairBatch]) -> Float[Tensor, "c 1+unit"]:
            some, part = job
            leaf = some.to(self.model.device).requires_grad_(True)
            losses = self.losses(leaf, part, draw) * (part.n_pairs / batch.n_pairs)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
            return torch.cat([losses.detach()[:, None], gradient], dim=1).cpu()

        on_cpu = self.model.device.type == "cpu"
        groups = masks.detach().split(1 if on_cpu else len(masks))
        parts = of_like_length(batch, PASS) if on_cpu else [batch]
        passes = [(group, part) for group in groups for part in parts]
        found = side_by_side(one_pass, passes) if on_cpu else [one_pass(each) for each in passes]
        sums = torch.cat([torch.stack(found[i : i + len(parts)]).sum(0) for i in range(0, len(found), len(parts))])
        return sums[:, 0], sums[:, 1:]


@dataclass(frozen=True)
class Masking(Maskable):
    """Masks over all nodes."""

    layout: UnitLayout
    node_maskings: tuple[NodeMasks, ...]

    @classmethod
    def of(cls, model: Transformer, ablated_to: AblationValues, tie_qk: bool) -> Masking:
        node_maskings = tuple(NodeMasks(model, draw) for draw in ablated_to.draws)
        return cls(model, ablated_to, UnitLayout(model.widths(), tie_qk), node_maskings)

    def losses(self, masks: Float[Tensor, "c unit"], batch: PairBatch, draw: int = 0) -> Float[Tensor, " c"]:
        return self.run(batch, len(masks), **self.node_maskings[draw](self.layout.by_site(masks)))


class Candidates:
    """τ of several candidates, and AdamW on each with its own hyperparameters."""

    def __init__(self, trials: Sequence[Hyperparameters], seeds: Sequence[int], n_units: int, config: PruneConfig):
        self.config = config
        columns = {name: [getattr(trial, name) for trial in trials] for name in Hyperparameters.model_fields}
        self.hyper = {name: torch.tensor(values)[:, None] for name, values in columns.items()}
        noise = torch.stack([torch.randn(n_units, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        self.tau = (self.hyper["init_noise_scale"] * noise + self.hyper["init_noise_bias"]).clamp(-1, 1)
        self.mean, self.square = torch.zeros_like(self.tau), torch.zeros_like(self.tau)
        self.alive = torch.arange(len(trials))

    @property
    def n(self) -> int:
        return len(self.alive)

    def leaf(self) -> Float[Tensor, "c unit"]:
        """τ, ready to take a gradient."""
        return self.tau.detach().requires_grad_(True)

    def rate(self, step: int) -> Float[Tensor, "c 1"]:
        """The learning rate: linear warm-up, then linear decay to 0."""
        warmup = (self.hyper["warmup"] * self.config.steps).clamp(min=1)
        return self.hyper["lr"] * ((step + 1) / warmup).clamp(max=1) * (1 - step / self.config.steps)

    def update(self, gradient: Float[Tensor, "c unit"], step: int) -> None:
        """One step of AdamW, the gradient of each candidate clipped to ``grad_clip``, τ clamped to [−1, 1]."""
        gradient = gradient * (self.config.grad_clip / (gradient.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1)
        beta2, rate = self.hyper["beta2"], self.rate(step)
        self.mean += (1 - BETA1) * (gradient - self.mean)
        self.square += (1 - beta2) * (gradient.square() - self.square)
        root = (self.square / (1 - beta2 ** (step + 1))).sqrt() + ADAM_EPS
        self.tau -= rate * (self.hyper["weight_decay"] * self.tau + self.mean / (1 - BETA1 ** (step + 1)) / root)
        self.tau.clamp_(-1, 1)

    def keep(self, go_on: Sequence[bool]) -> None:
        """Drop the candidates that do not go on."""
        some = torch.tensor(list(go_on))
        self.alive, self.tau, self.mean, self.square = (t[some] for t in (self.alive, self.tau, self.mean, self.square))
        self.hyper = {name: values[some] for name, values in self.hyper.items()}


def search(
    masking: Maskable,
    train: PairBatch,
    config: PruneConfig,
    trials: Sequence[Hyperparameters],
    seeds: Sequence[int],
    seed: int,
    watch: Watch | None = None,
) -> dict[int, Float[Tensor, " unit"]]:
    """Candidate → the order of all units, the more needed the larger, for those that ``watch`` let go on to the end.

    Each candidate has its hyperparameters (``trials``) and a seed of its own for its noise; ``seed`` orders batches.

    Minimises task loss + k_coef · number of kept nodes. The order is τ, and above its clamp at 1, and below at −1, the
    attribution (see ``rank``). Bit-reproducible.
    """
    found = Candidates(trials, seeds, masking.layout.n_units, config)
    generator = torch.Generator().manual_seed(seed)
    sizes = masking.layout.sizes
    for step, batch in zip(range(config.steps), batches(train, config.batch_pairs, generator), strict=False):
        tau = found.leaf()
        mask: Tensor = Heaviside.apply(tau, found.hyper["heaviside_temp"])
        losses, slope = masking.slopes(mask, batch, draw_of(masking.ablated_to, generator))
        (gradient,) = torch.autograd.grad(mask, tau, slope + found.hyper["k_coef"] * sizes)
        found.update(gradient, step)
        if watch is not None:
            found.keep(watch(step, losses, (mask.detach() * sizes).sum(1)))
            if found.n == 0:
                return {}
    hard, some = (found.tau > 0).float(), train.take(torch.arange(min(RANK_PAIRS, train.n_pairs)))
    return {
        int(candidate): rank(tau, attribution(masking, mask, some, config.batch_pairs))
        for candidate, tau, mask in zip(found.alive, found.tau, hard, strict=True)
    }


def draw_of(ablated_to: AblationValues, generator: torch.Generator) -> int:
    """Which of the draws of resampled values a step uses."""
    n = len(ablated_to.draws)
    return 0 if n == 1 else int(torch.randint(n, (), generator=generator))


def batches(pairs: PairBatch, size: int, generator: torch.Generator) -> Iterator[PairBatch]:
    """Endless batches of ``size`` pairs, each epoch in a new order; all pairs at once where there are fewer."""
    while True:
        for part in torch.randperm(pairs.n_pairs, generator=generator).split(size):
            if len(part) == min(size, pairs.n_pairs):
                yield pairs.take(part)


def of_like_length(batch: PairBatch, size: int) -> list[PairBatch]:
    """The pairs in parts of ``size``, the shortest first, so that few positions are padding."""
    longest = batch.last.view(-1, 2).amax(1)
    return [batch.take(pairs) for pairs in longest.argsort(stable=True).split(size)]


def attribution(
    masking: Maskable, mask: Float[Tensor, " unit"], pairs: PairBatch, chunk: int = 64
) -> Float[Tensor, " unit"]:
    """How much the task loss would rise, to first order, without each unit: ∂loss/∂m · −1 at the mask, in nats.

    Gradient × (activation − held value), summed over positions, averaged over all pairs and draws.
    """
    total = torch.zeros_like(mask)
    for part in torch.arange(pairs.n_pairs).split(chunk):
        for draw in range(len(masking.ablated_to.draws)):
            _, slope = masking.slopes(mask[None], pairs.take(part), draw)
            total -= slope[0] * len(part) / pairs.n_pairs / len(masking.ablated_to.draws)
    return total


def rank(tau: Float[Tensor, " unit"], attributed: Float[Tensor, " unit"]) -> Float[Tensor, " unit"]:
    """τ, with the units at its clamps told apart by attribution: above 1 and under −1, by less than 1.

    Most units end at τ = 1 or −1 exactly, and a bisection over tied ranks could not see past them.
    """
    order = tau.clone()
    for clamp in (1, -1):
        tied: Int[Tensor, " n"] = (tau * clamp >= 1).nonzero().flatten()
        places = attributed[tied].argsort(stable=True).argsort(stable=True)
        shift = 1 if clamp == 1 else -len(tied)
        order[tied] = clamp + (places + shift).to(tau.dtype) / max(1, len(tied))
    return order
