"""The released sparse models of openai/circuit_sparsity, read and written (docs/checkpoint_format.md).

A folder has ``beeg_config.json`` and the weights, ``final_model.pt`` or safetensors. ``ReleasedConfig`` is that config;
``shape_of`` and ``parameters_of`` say what of it our forward pass computes, ``config_of`` and ``tensors_of`` are their
inverses.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError
from torch import Tensor

from pipeline.formats.errors import FormatError, read_json, refuse
from pipeline.model.transformer import Transformer
from pipeline.refusal import sentence
from pipeline.shape import AT_SITES, IN_STREAM, ModelShape, TopkPlace

CONFIG_FILE = "beeg_config.json"
WEIGHTS = ("final_model", "model")
# Keys of released files that this format's own loader leaves out: of training, or of a way to compute the same.
HARMLESS = frozenset(
    "bigram_table_rank n_embd pfrac expansion_factor expansion_factor_mlp debug_exact_topk sparse_matmul_impl "
    "afrac_approx ignore_dw_grad rtopk enable_fp8_linear".split()
)
ONLY_OFF = frozenset({"use_tied_aux_matrix", "unembed_rank", "scale_invariance"})  # where on, they change results
Shapes = dict[str, tuple[int, ...]]
TIED = ("transformer.wte.weight", "lm_head.weight")


class ReleasedConfig(BaseModel):
    """beeg_config.json: every key with a meaning, and its default."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    block_size: PositiveInt = 1024
    vocab_size: PositiveInt = 50304
    n_layer: PositiveInt = 12
    n_head: PositiveInt = 12
    d_head: PositiveInt | None = None
    d_model: PositiveInt = 768
    d_mlp: PositiveInt | None = None
    dropout: float = 0.0
    bias: bool = True
    ln_bias: bool = True
    rms_norm: bool = False
    residual_activation_type: Literal["identity", "relu"] = "identity"
    activation_type: Literal["gelu", "relu"] = "gelu"
    afrac: float | None = None
    afrac_loctypes: str = "attn_in,attn_out,mlp_in,mlp_out"
    tied_unembed: bool = True
    enable_bigram_table: bool = False
    learnable_bigram_table: bool = False
    sink: bool = False
    d_pos_emb: PositiveInt | None = None
    dropout_cat_pos_emb: bool = False
    sinusoidal_cat_pos_emb: bool = False
    tokenizer_name: str = "tinypython_2k"
    grad_checkpointing: bool = True
    flash: bool = True
    debug_nans: bool = False
    enable_sparse_kernels: bool = False

    @property
    def width(self) -> int:
        """The width of a head."""
        return self.d_head or self.d_model // self.n_head

    @property
    def hidden(self) -> int:
        return self.d_mlp or 4 * self.d_model

    @property
    def sites(self) -> tuple[str, ...]:
        """Where AbsTopK acts; none where every entry is kept."""
        if self.afrac is None:
            return ()
        return tuple(name.strip() for name in self.afrac_loctypes.split(",") if name.strip())


def read_config(
    path: Path, ignored: frozenset[str] = frozenset(), section: str = ""
) -> tuple[ReleasedConfig, list[str]]:
    """The config in a file, and notes on keys that were left out. Raises FormatError for unknown keys and values.

    ``ignored``: keys of the file that are none of this format's, without a note; ``section``: the key that the config
    is under, where the file has that.
    """
    given = read_json(path)
    given = given.get(section, given) if isinstance(given, dict) else given
    if not isinstance(given, dict):
        raise FormatError(f"{path}: no object of settings; allowed: the keys of docs/checkpoint_format.md")
    given = {key: value for key, value in given.items() if key not in ignored}
    if "n_mlp" in given:  # its older name
        given.setdefault("d_mlp", given.pop("n_mlp"))
    on = [key for key, value in given.items() if (key in ONLY_OFF or key.startswith("mup")) and value]
    refuse(path, (f"{key} is {given[key]!r}" for key in on), "it changes results in a way that is not read here")
    left_out = [key for key in given if key in HARMLESS | ONLY_OFF or key.startswith("mup")]
    known = {key: value for key, value in given.items() if key not in left_out}
    try:
        config = ReleasedConfig.model_validate(known)
    except ValidationError as error:
        wrong = (sentence(dict(detail), ReleasedConfig) for detail in error.errors())
        raise FormatError(f"{path}: {'; '.join(wrong)}; allowed: docs/checkpoint_format.md") from error
    if given.get("n_embd", config.d_model) not in (config.d_model, None):
        raise FormatError(f"{path}: n_embd {given['n_embd']}, but d_model {config.d_model}; allowed: the same")
    return config, [f"{path.name}: left out {key} ({given[key]!r}), without effect on results" for key in left_out]


def shapes_of(config: ReleasedConfig) -> Shapes:
    """Name → shape of every tensor that the config asks for."""
    d, vocab, heads = config.d_model, config.vocab_size, config.n_head * config.width
    read = d + (config.d_pos_emb or 0)
    shapes: Shapes = {"transformer.wte.weight": (vocab, d)}
    shapes["transformer.wpe.weight"] = (config.block_size, config.d_pos_emb or d)
    for layer in range(config.n_layer):
        at = f"transformer.h.{layer}"
        norms = {"ln_1": d, "ln_2": d} | ({"ln_p1": config.d_pos_emb, "ln_p2": config.d_pos_emb} if read > d else {})
        for name, width in norms.items():
            shapes |= _norm(f"{at}.{name}", width or 0, config)
        maps = {"attn.c_attn": (3 * heads, read), "attn.c_proj": (d, heads)}
        maps |= {"mlp.c_fc": (config.hidden, read), "mlp.c_proj": (d, config.hidden)}
        for name, size in maps.items():
            shapes[f"{at}.{name}.weight"] = size
            if config.bias:
                shapes[f"{at}.{name}.bias"] = size[:1]
        if config.sink:
            shapes[f"{at}.attn.attn_imp.sink_logit"] = (config.n_head,)
    shapes |= _norm("transformer.ln_f", d, config)
    shapes["lm_head.weight"], shapes["final_logits_bias"] = (vocab, d), (vocab,)
    if config.enable_bigram_table:
        shapes["bigram_table"] = (vocab, vocab)
    return shapes


def _norm(name: str, width: int, config: ReleasedConfig) -> Shapes:
    bias: Shapes = {f"{name}.bias": (width,)} if config.ln_bias and not config.rms_norm else {}
    return bias | {f"{name}.weight": (width,)}


def optional_in(config: ReleasedConfig) -> set[str]:
    """Tensors that may be absent: the bias of the logits (zeros), and of tied embeddings one of the two."""
    return {"final_logits_bias"} | (set(TIED) if config.tied_unembed else set())


def buffers(names: Mapping[str, Tensor]) -> set[str]:
    """Causal masks among the tensors, which are no parameters."""
    return {name for name in names if name.endswith(".attn.bias")}


def shape_of(config: ReleasedConfig, tensors: Mapping[str, Tensor], place: Path) -> ModelShape:
    """The shape of the model that computes the same. Raises FormatError for sizes and sites that no model can have."""
    bias, (wte, head) = tensors.get("final_logits_bias"), (tensors.get(name) for name in TIED)
    both = [table for table in (wte, head) if table is not None]
    if not both or config.tied_unembed and not both[0].equal(both[-1]):
        raise FormatError(f"{place}: tied_unembed is true, but {' and '.join(TIED)} are not one tensor")
    sparse = config.afrac is not None and config.afrac < 1
    every = not sparse or set(config.sites) == set(AT_SITES)
    added = config.d_pos_emb is None and bool(tensors["transformer.wpe.weight"].any())  # a table of zeros adds nothing
    fits = config.width * config.n_head == config.d_model
    try:
        return ModelShape(
            n_layer=config.n_layer,
            d_model=config.d_model,
            d_head=config.width,
            n_ctx=config.block_size,
            afrac=config.afrac if sparse and config.afrac is not None else 1.0,
            sink=config.sink,
            positions=added,
            bigram=config.enable_bigram_table,
            heads=None if fits else config.n_head,
            hidden=None if config.hidden == 4 * config.d_model else config.hidden,
            norm="rms" if config.rms_norm else "layer",
            norm_bias=config.rms_norm or config.ln_bias,
            activation=config.activation_type,
            residual_relu=config.residual_activation_type == "relu",
            topk_at=None if every else cast("tuple[TopkPlace, ...]", tuple(sorted(set(config.sites), key=_order))),
            d_pos=config.d_pos_emb,
            logits_bias=bias is not None and bool(bias.any()),
        )
    except ValidationError as error:
        wrong = (sentence(dict(detail), ModelShape) for detail in error.errors())
        raise FormatError(f"{place}: {'; '.join(wrong)}") from error


def _order(place: str) -> int:
    """Where AbsTopK's places come in a forward pass; unknown ones, which the shape refuses, last."""
    places = (*AT_SITES, *IN_STREAM)
    return places.index(place) if place in places else len(places)


def parameters_of(config: ReleasedConfig, tensors: Mapping[str, Tensor], shape: ModelShape) -> dict[str, Tensor]:
    """Our parameters: the same tensors by our names; biases that the model lacks are zeros, tied embeddings twice."""
    found = {name.replace(".attn_imp.", "."): tensor for name, tensor in tensors.items()}
    if not shape.logits_bias:
        found.pop("final_logits_bias", None)
    if not shape.positions and not shape.d_pos:
        found.pop("transformer.wpe.weight")
    if config.tied_unembed:
        table = found.get("transformer.wte.weight", found.get("lm_head.weight"))
        assert table is not None, "shape_of refuses a model without both"
        found |= {"transformer.wte.weight": table, "lm_head.weight": table.clone()}  # files hold no shared tensors
    if not config.bias:
        maps = [name for name in found if ".c_" in name and name.endswith(".weight")]
        found |= {f"{name.removesuffix('.weight')}.bias": torch.zeros(len(found[name])) for name in maps}
    return found


def config_of(model: Transformer, tokenizer_name: str = "") -> ReleasedConfig:
    """The config of one of our models. Raises FormatError for a nonlinearity that the format does not have."""
    shape = model.config
    if shape.activation == "gelu_new":
        raise FormatError("activation gelu_new: the released format has gelu and relu; export it as gpt2")
    return ReleasedConfig(
        block_size=shape.n_ctx,
        vocab_size=model.vocab_size,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        d_head=shape.d_head,
        d_model=shape.d_model,
        d_mlp=shape.d_mlp,
        rms_norm=shape.norm == "rms",
        ln_bias=shape.norm_bias,
        activation_type=shape.activation,
        residual_activation_type="relu" if shape.residual_relu else "identity",
        afrac=None if shape.afrac == 1 else shape.afrac,
        afrac_loctypes=",".join(shape.topk_places),
        tied_unembed=False,
        enable_bigram_table=shape.bigram,
        learnable_bigram_table=shape.bigram,
        sink=shape.sink,
        d_pos_emb=shape.d_pos,
        tokenizer_name=tokenizer_name,
    )


def tensors_of(model: Transformer) -> dict[str, Tensor]:
    """The released tensors of one of our models, in float32; what it lacks and the format always has is zeros."""
    shape = model.config
    found = {name: p.detach().float().cpu().contiguous() for name, p in model.named_parameters()}
    found = {name.replace("attn.sink_logit", "attn.attn_imp.sink_logit"): tensor for name, tensor in found.items()}
    found.setdefault("transformer.wpe.weight", torch.zeros(shape.n_ctx, shape.d_model))
    found.setdefault("final_logits_bias", torch.zeros(model.vocab_size))
    return {name: found[name] for name in shapes_of(config_of(model))}


def as_json(config: ReleasedConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")
