"""The shape of a model: all that its forward pass follows from besides its weights, and what a checkpoint stores (§1).

How it was trained is not here (``pipeline.config.ModelConfig``). A field that comes later gets a default, so that older
checkpoints go on loading.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveFraction = Annotated[float, Field(gt=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]
SitePlace = Literal["attn_in", "attn_q", "attn_k", "attn_v", "attn_out", "mlp_in", "mlp_neuron", "mlp_out"]
StreamPlace = Literal["resid_post_attn", "resid_post_mlp"]  # in the stream, after a half layer's write was added
TopkPlace = SitePlace | StreamPlace
AT_SITES: tuple[str, ...] = get_args(SitePlace)
IN_STREAM: tuple[str, ...] = get_args(StreamPlace)


def option(default: Any) -> Any:
    """A field that is dumped only where it is set, so that a model without it keeps its identity."""
    return Field(default=default, exclude_if=lambda value: value == default)


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
    # Options of released and of GPT-2's models (docs/checkpoint_format.md); the study's have none of them.
    heads: PositiveInt | None = option(None)  # how many; None: as many as fit into d_model
    hidden: PositiveInt | None = option(None)  # width of the MLP; None: 4 · d_model
    norm: Literal["rms", "layer"] = option("rms")
    norm_bias: bool = option(True)  # of LayerNorm
    activation: Literal["gelu", "gelu_new", "relu"] = option("gelu")  # gelu_new: GPT-2's, by tanh
    residual_relu: bool = option(False)  # of the residual stream, after each half layer
    topk_at: tuple[TopkPlace, ...] | None = option(None)  # where AbsTopK acts; None: at all eight sites
    d_pos: PositiveInt | None = option(None)  # channels of learned positions, read beside the residual stream
    logits_bias: bool = option(False)  # added to the logits

    @model_validator(mode="after")
    def _sizes_fit(self) -> ModelShape:
        if self.heads is None and self.d_model % self.d_head:
            raise ValueError(f"d_model {self.d_model} is not a multiple of d_head {self.d_head}")
        if self.positions and self.d_pos:
            raise ValueError(f"positions are added, or read beside the stream (d_pos {self.d_pos}), not both")
        narrowest = min([self.width_at(place) for place in self.topk_places], default=self.d_model)
        if int(self.afrac * narrowest) < 1:
            raise ValueError(f"afrac {self.afrac:g} keeps no entry at width {narrowest}; raise afrac")
        return self

    @property
    def shape(self) -> ModelShape:
        """The shape alone, without what a subclass adds."""
        return ModelShape(**{name: getattr(self, name) for name in ModelShape.model_fields})

    @property
    def n_head(self) -> int:
        return self.heads or self.d_model // self.d_head

    @property
    def d_mlp(self) -> int:
        return self.hidden or 4 * self.d_model

    @property
    def d_read(self) -> int:
        """What a half layer reads: the residual stream, and beside it the positions where they are not added."""
        return self.d_model + (self.d_pos or 0)

    @property
    def topk_places(self) -> tuple[str, ...]:
        """Where AbsTopK acts: names of sites, and of the residual stream after half layers."""
        return AT_SITES if self.topk_at is None else self.topk_at

    def width_at(self, place: str) -> int:
        """The width of a site, or of the residual stream."""
        if place in ("attn_q", "attn_k", "attn_v"):
            return self.n_head * self.d_head
        return {"attn_in": self.d_read, "mlp_in": self.d_read, "mlp_neuron": self.d_mlp}.get(place, self.d_model)

    def k_at(self, place: str) -> int:
        """How many entries AbsTopK keeps at a site, or in the residual stream after a half layer: all where it does
        not act."""
        width = self.width_at(place)
        return int(self.afrac * width) if place in self.topk_places else width

    @property
    def adds_up(self) -> bool:
        """Whether the residual stream is the sum of what is written to it."""
        return not self.residual_relu and all(self.k_at(place) == self.d_model for place in IN_STREAM)

    @property
    def options(self) -> dict[str, Any]:
        """Name → value of the options of other projects' models that it has."""
        dumped = self.shape.model_dump()  # its options only where they are set
        return {name: value for name, value in dumped.items() if ModelShape.model_fields[name].exclude_if}

    @property
    def is_studys(self) -> bool:
        """Whether it has none of the options of other projects' models."""
        return not self.options
