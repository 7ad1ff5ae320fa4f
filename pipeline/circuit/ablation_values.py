"""Ablation values, those of a circuit's complement: means, zeros, or draws from the pretraining distribution (§4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import Ablation

Values = Mapping[str, Float[Tensor, " width"]]


@dataclass(frozen=True)
class AblationValues:
    """The kind of ablation, and one or more draws: site key → one value a node. Losses are means over draws."""

    kind: Ablation
    draws: tuple[Values, ...]

    @classmethod
    def at_means(cls, means: Values) -> AblationValues:
        """Every node at its mean over the pretraining distribution."""
        return cls(Ablation.MEAN, (dict(means),))

    @classmethod
    def at_zero(cls, like: Values) -> AblationValues:
        """Every node at zero, for the sites and widths of ``like``."""
        return cls(Ablation.ZERO, ({key: torch.zeros_like(value) for key, value in like.items()},))

    @classmethod
    def resampled(cls, samples: Mapping[str, Float[Tensor, "draw width"]]) -> AblationValues:
        """Every node at one of its values; a row of ``samples`` is a draw. Raises ValueError for no rows."""
        n = {len(value) for value in samples.values()}
        if len(n) != 1 or not max(n):
            raise ValueError(f"resampled values need as many draws at every site, at least one; got {sorted(n)}")
        return cls(Ablation.RESAMPLE, tuple({key: value[i] for key, value in samples.items()} for i in range(n.pop())))

    @property
    def first(self) -> Values:
        return self.draws[0]

    def to(self, device: torch.device) -> AblationValues:
        return AblationValues(
            self.kind, tuple({key: value.to(device) for key, value in draw.items()} for draw in self.draws)
        )
