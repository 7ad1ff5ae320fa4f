"""The values at the sites of a model, recorded in one forward pass."""

from __future__ import annotations

from collections.abc import Container

from jaxtyping import Float, Int
from torch import Tensor

from pipeline.model.transformer import Cuts, Intervene, Transformer, refuse_compiled, sees_residual


def record(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    intervene: Intervene | None = None,
    cuts: Cuts | None = None,
    *,
    at: Int[Tensor, " batch"] | None = None,
    names: Container[str] | None = None,
    residual: bool = False,
) -> tuple[Float[Tensor, "batch *_pos vocab"], dict[str, Float[Tensor, "_batch _pos _width"]]]:
    """Logits, and the value at every site as the rest of the model saw it; with ``residual``, of the residual stream
    too.

    ``names``: of these only. ``at``: logits at one position of each prompt only; where the rest of the model needs no
    other position, as in the last layer, values have that one position. Raises CompiledModelError.
    """
    refuse_compiled(model)
    values: dict[str, Tensor] = {}

    def keep(name: str, x: Tensor) -> Tensor:
        seen = x if intervene is None else intervene(name, x)
        if names is None or name in names:
            values[name] = seen
        return seen

    return model(tokens, at=at, intervene=sees_residual(keep) if residual else keep, cuts=cuts), values
