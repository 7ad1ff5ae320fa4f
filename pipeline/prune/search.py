"""Phase 2: search. Gradient descent on one τ per unit, many trials at once (§4, App. A.5).

A unit is a node or, in Phase 4, an edge; a trial is a set of hyperparameters and a seed. All trials see the same
batches, and the model is frozen. Only the trials' masks differ, so that they run as one batch through one forward pass;
on a CPU in passes of a few pairs of one trial, shared out among threads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.ablation import Ablation
from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.background import Background, background
from pipeline.circuit.node_masks import NodeMasks
from pipeline.config import Hyperparameters, PruneConfig
from pipeline.data.pairs import PairBatch, prompt_losses
from pipeline.model.scoring import answers_of
from pipeline.model.transformer import Transformer
from pipeline.prune import limits
from pipeline.prune.masks import EdgeLayout, Heaviside, UnitLayout

# Step, the trials' losses (nats) and their numbers of kept nodes → whether each continues.
Watch = Callable[[int, Tensor, Tensor], Sequence[bool]]
AblationDraw = tuple[AblationValues, int]  # one of an ablation's draws


@dataclass(frozen=True)
class Masking(ABC):
    """A frozen model, the values that its nodes are ablated to, and the layout of masks over its nodes or edges."""

    model: Transformer
    ablations: tuple[AblationValues, ...]
    layout: UnitLayout | EdgeLayout

    @abstractmethod
    def losses(self, masks: Float[Tensor, "trial unit"], batch: PairBatch, behind: Background) -> Tensor:
        """Task loss in nats of every trial, its mask's complement ablated; differentiable in the masks."""

    def run(self, batch: PairBatch, n: int, **changes: Any) -> Float[Tensor, " trial"]:
        """The task loss in nats of each of n trials under the changes to the model."""
        return prompt_losses(answers_of(self.model, batch, n, **changes).view(n, -1, 2)).mean(-1)

    @property
    def draws(self) -> list[AblationDraw]:
        """Every draw of every ablation."""
        return [(ablated_to, i) for ablated_to in self.ablations for i in range(len(ablated_to.draws))]

    def chosen(self, generator: torch.Generator) -> list[AblationDraw]:
        """One draw of each ablation."""
        n_draws = [len(ablated_to.draws) for ablated_to in self.ablations]
        picks = [int(torch.randint(n, (), generator=generator)) if n > 1 else 0 for n in n_draws]
        return list(zip(self.ablations, picks, strict=True))

    @cached_property
    def constant(self) -> dict[tuple[Ablation, int], Background]:
        """The backgrounds that are the same everywhere."""
        draws = [(ablated_to, i) for ablated_to, i in self.draws if not ablated_to.kind.varies]
        return {(ablated_to.kind, i): Background(self.model, ablated_to.draws[i]) for ablated_to, i in draws}

    def behind(self, draw: AblationDraw, batch: PairBatch) -> Background:
        """The background of a run of a batch."""
        ablated_to, i = draw
        return self.constant.get((ablated_to.kind, i)) or background(self.model, ablated_to, batch, i)

    def slopes(
        self, masks: Float[Tensor, "trial unit"], batch: PairBatch, draws: Sequence[AblationDraw] | None = None
    ) -> tuple[Float[Tensor, " trial"], Float[Tensor, "trial unit"]]:
        """``losses`` and ∂loss/∂mask of every trial, their means over some draws (None: all).

        On a CPU in passes that fit its cache, of prompts of like length, shared out among torch's threads.
        """
        device, draws = self.model.device, self.draws if draws is None else draws
        on_cpu = device.type == "cpu"
        parts = of_like_length(batch, limits.PASS_PAIRS) if on_cpu else [batch]
        together = side_by_side if on_cpu else one_by_one

        def one_pass(job: tuple[Tensor, PairBatch, Background]) -> Float[Tensor, "trial loss_and_units"]:
            some, part, behind = job
            leaf = some.to(device).requires_grad_(True)
            losses = self.losses(leaf, part, behind) * (part.n_pairs / batch.n_pairs)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
            return torch.cat([losses.detach()[:, None], gradient], dim=1).cpu()

        jobs = [(draw, part) for draw in draws for part in parts]
        behind = together(lambda job: self.behind(*job), jobs)
        each = [(part, one) for (_, part), one in zip(jobs, behind, strict=True)]
        groups = masks.detach().split(1 if on_cpu else len(masks))
        found = together(one_pass, [(group, *one) for group in groups for one in each])
        sums = torch.cat([torch.stack(found[i : i + len(each)]).sum(0) for i in range(0, len(found), len(each))])
        return sums[:, 0] / len(draws), sums[:, 1:] / len(draws)


@dataclass(frozen=True)
class NodeMasking(Masking):
    """Masks over all nodes."""

    layout: UnitLayout

    @classmethod
    def of(cls, model: Transformer, ablations: Sequence[AblationValues], tie_qk: bool) -> NodeMasking:
        return cls(model, tuple(ablations), UnitLayout(model.widths(), tie_qk))

    def losses(self, masks: Float[Tensor, "trial unit"], batch: PairBatch, behind: Background) -> Tensor:
        return self.run(batch, len(masks), **NodeMasks(self.model, behind)(self.layout.by_site(masks)))


class TrialMasks:
    """τ of several trials, and AdamW on each with the trial's own hyperparameters."""

    def __init__(self, trials: Sequence[Hyperparameters], seeds: Sequence[int], n_units: int, config: PruneConfig):
        self.config = config
        columns = {name: [getattr(trial, name) for trial in trials] for name in Hyperparameters.model_fields}
        self.hyper = {name: torch.tensor(values)[:, None] for name, values in columns.items()}
        noise = torch.stack([torch.randn(n_units, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        self.tau = (self.hyper["init_noise_scale"] * noise + self.hyper["init_noise_bias"]).clamp(-1, 1)
        self.mean, self.square = torch.zeros_like(self.tau), torch.zeros_like(self.tau)
        self.alive = torch.arange(len(trials))  # the numbers of the trials that were not stopped

    def rate(self, step: int) -> Float[Tensor, "trial 1"]:
        """The learning rate: linear warm-up, times linear decay to 0."""
        warmup = (self.hyper["warmup"] * self.config.steps).clamp(min=1)
        return self.hyper["lr"] * ((step + 1) / warmup).clamp(max=1) * (1 - step / self.config.steps)

    def update(self, gradient: Float[Tensor, "trial unit"], step: int) -> None:
        """One step of AdamW: each trial's gradient clipped to the norm ``grad_clip``, τ clamped to [−1, 1]."""
        norm = gradient.norm(dim=1, keepdim=True)
        gradient = gradient * (self.config.grad_clip / (norm + limits.CLIP_EPS)).clamp(max=1)
        beta2, rate = self.hyper["beta2"], self.rate(step)
        self.mean += (1 - limits.ADAM_BETA1) * (gradient - self.mean)
        self.square += (1 - beta2) * (gradient.square() - self.square)
        root = (self.square / (1 - beta2 ** (step + 1))).sqrt() + limits.ADAM_EPS
        descent = self.mean / (1 - limits.ADAM_BETA1 ** (step + 1)) / root
        self.tau -= rate * (self.hyper["weight_decay"] * self.tau + descent)
        self.tau.clamp_(-1, 1)

    def keep(self, continued: Sequence[bool]) -> None:
        """Stop the trials that are not to continue."""
        some = torch.tensor(list(continued))
        self.alive, self.tau, self.mean, self.square = (t[some] for t in (self.alive, self.tau, self.mean, self.square))
        self.hyper = {name: values[some] for name, values in self.hyper.items()}


def search(
    masking: Masking,
    train: PairBatch,
    config: PruneConfig,
    trials: Sequence[Hyperparameters],
    seeds: Sequence[int],
    seed: int,
    watch: Watch | None = None,
) -> dict[int, Float[Tensor, " unit"]]:
    """Phase 2: a trial's number → the scores of all units, the larger the more needed; stopped trials have none.

    Minimises task loss + k_coef · number of kept nodes. Each trial has hyperparameters (``trials``) and a seed for its
    initial noise; ``seed`` orders the batches, which all trials share; ``watch`` says after each step which trials
    continue. A score is τ, except for units at its clamps (``break_ties``). Bit-reproducible.
    """
    masks = TrialMasks(trials, seeds, masking.layout.n_units, config)
    generator = torch.Generator().manual_seed(seed)
    sizes = masking.layout.sizes
    for step, batch in zip(range(config.steps), batches(train, config.batch_pairs, generator), strict=False):
        tau = masks.tau.detach().requires_grad_(True)
        mask: Tensor = Heaviside.apply(tau, masks.hyper["heaviside_temp"])
        losses, slope = masking.slopes(mask, batch, masking.chosen(generator))
        (gradient,) = torch.autograd.grad(mask, tau, slope + masks.hyper["k_coef"] * sizes)
        masks.update(gradient, step)
        if watch is not None:
            masks.keep(watch(step, losses, (mask.detach() * sizes).sum(1)))
            if not len(masks.alive):
                return {}
    hard, some = (masks.tau > 0).float(), train.first(limits.RANK_PAIRS)
    return {
        int(number): break_ties(tau, attribution(masking, mask, some, config.batch_pairs))
        for number, tau, mask in zip(masks.alive, masks.tau, hard, strict=True)
    }


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


def attribution(masking: Masking, mask: Float[Tensor, " unit"], pairs: PairBatch, chunk: int) -> Float[Tensor, " unit"]:
    """The rise of the task loss, in nats and to first order, without each unit: −∂loss/∂m at the mask.

    That is gradient × (activation − ablation value), summed over positions; the mean over pairs and draws.
    """
    total, draws = torch.zeros_like(mask), masking.draws
    for part in torch.arange(pairs.n_pairs).split(chunk):
        for draw in draws:
            _, slope = masking.slopes(mask[None], pairs.take(part), [draw])
            total -= slope[0] * len(part) / pairs.n_pairs / len(draws)
    return total


def break_ties(tau: Float[Tensor, " unit"], attributed: Float[Tensor, " unit"]) -> Float[Tensor, " unit"]:
    """τ, but units at a clamp are ranked by attribution: they get scores in (1, 2], and in [−2, −1).

    Most units end at exactly 1 or −1, and bisection cannot separate tied scores.
    """
    scores = tau.clone()
    for clamp in (1, -1):
        tied: Int[Tensor, " n"] = (tau * clamp >= 1).nonzero().flatten()
        places = attributed[tied].argsort(stable=True).argsort(stable=True)
        shift = 1 if clamp == 1 else -len(tied)
        scores[tied] = clamp + (places + shift).to(tau.dtype) / max(1, len(tied))
    return scores


def side_by_side(work: Callable[[Any], Any], jobs: Sequence[Any]) -> list[Any]:
    """``work`` on every job, each on one thread, as many at a time as torch has threads; results in the jobs' order.

    A single job has one thread, too: products of few rows are summed in another order on several.
    """
    n_threads = torch.get_num_threads()
    if n_threads < 2 or not jobs:
        return [work(job) for job in jobs]
    with ThreadPoolExecutor(min(n_threads, len(jobs)), initializer=_one_thread) as pool:
        try:
            return list(pool.map(work, jobs))
        finally:
            torch.set_num_threads(n_threads)  # MKL's count is one for all threads


def one_by_one(work: Callable[[Any], Any], jobs: Sequence[Any]) -> list[Any]:
    return [work(job) for job in jobs]


def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
