"""The shape of a model: all that its forward pass follows from besides its weights, and what a checkpoint stores (§1).

How it was trained is not here (``pipeline.config.ModelConfig``). A field that comes later gets a default, so that older
checkpoints go on loading.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveFraction = Annotated[float, Field(gt=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]


class ModelShape(BaseModel):
    """Sizes and parts of a transformer; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_layer: PositiveInt
    d_model: PositiveInt
    d_head: PositiveInt
    n_ctx: Annotated[int, Field(ge=8)]
    afrac: PositiveFraction = 1.0  # fraction of entries that AbsTopK keeps at each site; 1 = off
    sink: bool = False  # a learned logit per head in the softmax's denominator
    positions: bool = False  # learned positional embedding, added to the token embedding
    bigram: bool = True  # a table of logits by current token, added to the model's

    @model_validator(mode="after")
    def _sizes_fit(self) -> ModelShape:
        if self.d_model % self.d_head:
            raise ValueError(f"d_model {self.d_model} is not a multiple of d_head {self.d_head}")
        if int(self.afrac * self.d_model) < 1:
            raise ValueError(f"afrac {self.afrac:g} keeps no entry at width d_model {self.d_model}; raise afrac")
        return self

    @property
    def shape(self) -> ModelShape:
        """The shape alone, without what a subclass adds."""
        return ModelShape(**{name: getattr(self, name) for name in ModelShape.model_fields})

    @property
    def n_head(self) -> int:
        return self.d_model // self.d_head

    @property
    def d_mlp(self) -> int:
        return 4 * self.d_model
