"""The values at the sites of a model, recorded in one forward pass."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from pipeline.model.transformer import Cuts, Intervene, Transformer, refuse_compiled, sees_residual


def record(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    intervene: Intervene | None = None,
    cuts: Cuts | None = None,
    *,
    residual: bool = False,
) -> tuple[Float[Tensor, "batch pos vocab"], dict[str, Float[Tensor, "batch pos width"]]]:
    """Logits, and the value at every site as the rest of the model saw it; with ``residual``, of the residual stream
    too. Raises CompiledModelError."""
    refuse_compiled(model)
    values: dict[str, Tensor] = {}

    def keep(key: str, x: Tensor) -> Tensor:
        values[key] = x if intervene is None else intervene(key, x)
        return values[key]

    return model(tokens, intervene=sees_residual(keep) if residual else keep, cuts=cuts), values
