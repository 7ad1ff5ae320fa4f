"""Ablation values, those of a circuit's complement: means, zeros, or draws from the pretraining distribution (§4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.ablation import Ablation
from pipeline.data.batches import CorpusTooSmallError
from pipeline.data.shards import TokenStream
from pipeline.model.record import record
from pipeline.model.transformer import Transformer
from pipeline.seeds import seed_of

Values = Mapping[str, Float[Tensor, " _width"]]


@dataclass(frozen=True)
class AblationValues:
    """The kind of ablation, and one or more draws: site key → one value a node. Losses are means over draws.

    For kinds that differ by prompt and position, ``pipeline.circuit.background`` makes them for a batch, out of the
    one draw here: the means (counterfactual), or a mean for every place in the task's prompts [place, width].
    """

    kind: Ablation
    draws: tuple[Values, ...]

    @classmethod
    def of(cls, kind: Ablation, means: Values, samples: Mapping[str, Tensor] | None = None) -> AblationValues:
        """The values of a kind; ``samples`` [draw, width] at every site are needed for resampling."""
        if kind is Ablation.RESAMPLE:
            return cls.resampled(samples or {})
        if kind is Ablation.TASK_MEAN:
            return cls(kind, (dict(samples or {}),))
        return cls.at_zero(means) if kind is Ablation.ZERO else cls(kind, (dict(means),))

    @classmethod
    def at_means(cls, means: Values) -> AblationValues:
        """Every node at its mean over the pretraining distribution."""
        return cls(Ablation.MEAN, (dict(means),))

    @classmethod
    def at_zero(cls, like: Values) -> AblationValues:
        """Every node at zero, for the sites and widths of ``like``."""
        return cls(Ablation.ZERO, ({key: torch.zeros_like(value) for key, value in like.items()},))

    @classmethod
    def resampled(cls, samples: Mapping[str, Float[Tensor, "draw _width"]]) -> AblationValues:
        """Every node at one of its values; a row of ``samples`` is a draw. Raises ValueError for no rows."""
        n = {len(value) for value in samples.values()}
        if len(n) != 1 or 0 in n:
            raise ValueError(f"resampled values need as many draws at every site, at least one; got {sorted(n)}")
        return cls(Ablation.RESAMPLE, tuple({key: value[i] for key, value in samples.items()} for i in range(n.pop())))

    @property
    def first(self) -> Values:
        return self.draws[0]

    @property
    def samples(self) -> dict[str, Float[Tensor, "draw _width"]]:
        """The ``samples`` that ``of`` needs to make the same values again from the means."""
        if self.kind is Ablation.TASK_MEAN:
            return dict(self.first)
        if self.kind is not Ablation.RESAMPLE:
            return {}
        return {key: torch.stack([draw[key] for draw in self.draws]) for key in self.first}

    def to(self, device: torch.device) -> AblationValues:
        return AblationValues(
            self.kind, tuple({key: value.to(device) for key, value in draw.items()} for draw in self.draws)
        )


def random_windows(stream: TokenStream, n: int, n_ctx: int, seed: int) -> Int[Tensor, "n n_ctx"]:
    """Windows that begin anywhere in a stream. Raises CorpusTooSmallError where not one fits."""
    n_starts = stream.n_tokens - n_ctx
    if n_starts < 1:
        raise CorpusTooSmallError(
            f"the {stream.split} stream has {stream.n_tokens} tokens; resampling needs one window of {n_ctx + 1}; "
            "name a folder of more tokens, or choose another kind of ablation"
        )
    starts = np.random.default_rng(seed_of(seed, "windows")).integers(n_starts, size=n)
    return stream.window(starts, n_ctx)[:, :-1]


@torch.no_grad()
def node_samples(
    model: Transformer, batches: Iterable[Int[Tensor, "_batch _pos"]], n: int, seed: int
) -> dict[str, Float[Tensor, "n _width"]]:
    """Site key → values of all nodes at ``n`` different random places of the batches, the same places at every site.

    Every position of every batch is as likely as any other. Raises ValueError where the batches have fewer.
    """
    windows = [window for batch in batches for window in batch]
    ends = torch.tensor([len(window) for window in windows], dtype=torch.long).cumsum(0)
    n_tokens = sum(map(len, windows))
    if n > n_tokens:
        raise ValueError(f"{n} draws of resampled values wanted, the batches have {n_tokens} tokens; give more")
    chosen = torch.randperm(n_tokens, generator=torch.Generator().manual_seed(seed))[:n]
    samples: dict[str, list[Tensor]] = {}
    for place, index in zip(chosen.tolist(), torch.searchsorted(ends, chosen, right=True).tolist(), strict=True):
        position = place - (int(ends[index]) - len(windows[index]))
        upto = windows[index][None, : position + 1]  # the model is causal
        for key, value in record(model, upto.to(model.device))[1].items():
            samples.setdefault(key, []).append(value[0, position].float().cpu())
    return {key: torch.stack(values) for key, values in samples.items()}
