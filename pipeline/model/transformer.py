"""The only forward pass: a GPT-2 style, pre-norm, decoder-only transformer with AbsTopK at every site (§1).

Training, mean caching, pruning, ablation and pictures all call ``Transformer.forward``, and change it by two arguments:
``intervene`` gets the value at every site, after AbsTopK, and returns the value to go on with; ``cuts`` gives single
edges their source's ablation value.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.model.abstopk import abs_topk
from pipeline.model.attention import attend
from pipeline.model.layout import Layout, PackedPrompts, PaddedPrompts
from pipeline.model.linear import FROZEN_BELOW, ON_GPU, Linear, skip_zeros
from pipeline.model.norm import new_norm
from pipeline.shape import ModelShape
from pipeline.sites import SITES, Site, site_key

Intervene = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True)
class Cut:
    """Edges of one matrix that carry their source's ablation value (§5): the definition of a cut.

    ``keep`` is 1 where the edge is live and 0 where it is cut; ``mean`` is the source site's ablation values.
    """

    position_free = True
    keep: Float[Tensor, "out in"]
    mean: Float[Tensor, "*row in"]


@dataclass(frozen=True)
class Attended:
    """What attention made of the values that a map behind it reads: also of others in their place.

    ``attention_mass`` [batch, head, pos]: each head's total weight on real tokens, below 1 with a sink. ``average`` of
    value channels, one row a position: their averages with the same weights.
    """

    attention_mass: Float[Tensor, "batch head pos"]
    average: Callable[[Tensor], Tensor]

    def of(self, values: Float[Tensor, "*row width"]) -> Float[Tensor, "batch pos width"]:
        """What attention makes of other values: the same at all positions, or a row a position."""
        if values.ndim > 1:
            return self.average(values)
        return values * self.attention_mass.transpose(1, 2).repeat_interleave(
            len(values) // self.attention_mass.shape[1], dim=-1
        )


# A linear map's stand-in: its cut edges, or a function of the map, its input and, behind attention, what that makes of
# other values (pipeline.circuit.cut_linear).
LinearCut = Cut | Callable[[nn.Linear, Tensor, Attended | None], Tensor]
Cuts = Mapping[str, LinearCut]


def linear(layer: nn.Linear, x: Tensor, cut: LinearCut | None, attended: Attended | None = None) -> Tensor:
    """``layer(x)`` with cut edges that carry their source's ablation value; behind attention, its average."""
    if cut is None:
        return layer(x)
    if not isinstance(cut, Cut):
        return cut(layer, x, attended)
    live = F.linear(x, layer.weight * cut.keep, layer.bias)
    ablated_to = at_rows(cut.mean, x) if attended is None else attended.of(cut.mean)
    return live + F.linear(ablated_to, layer.weight * (1 - cut.keep))


def at_rows(values: Float[Tensor, "*row width"], x: Float[Tensor, "batch pos width"]) -> Tensor:
    """Values, the same everywhere or a row a position of one copy of the batch, as they meet ``x``, which may hold
    several copies."""
    if values.ndim == 1:
        return values
    copies = x.numel() // values.numel()
    return values.expand(copies, *values.shape).reshape(x.shape)


def position_free(intervene: Intervene) -> Intervene:
    """Mark an intervention that does the same at every position of every prompt: prompts may be packed for it."""
    intervene.position_free = True  # type: ignore[attr-defined]
    return intervene


def sees_residual(intervene: Intervene) -> Intervene:
    """Mark an intervention that is asked for the residual stream too, by ``pipeline.sites.residual_names``."""
    intervene.sees_residual = True  # type: ignore[attr-defined]
    return intervene


def residual(name: str, x: Tensor, intervene: Intervene | None) -> Tensor:
    """The residual stream at a place, as an intervention that asks for it wants it."""
    return intervene(name, x) if intervene is not None and getattr(intervene, "sees_residual", False) else x


def is_position_free(intervene: Intervene | None, cuts: Cuts | None) -> bool:
    """Whether a changed run may be packed; an intervention or a cut that is not marked sees [prompt, pos, width]."""
    changes = [*([intervene] if intervene else []), *(cuts or {}).values()]
    return all(getattr(change, "position_free", False) for change in changes)


class CompiledModelError(TypeError):
    """A model under torch.compile, where interventions are asked for."""


def refuse_compiled(model: nn.Module) -> None:
    """Raises CompiledModelError for what torch.compile returned: it may leave an intervention out."""
    if hasattr(model, "_orig_mod"):
        raise CompiledModelError("a compiled model takes no interventions and no cuts: pass the model it was made from")


def activation(kind: str, x: Tensor) -> Tensor:
    """The nonlinearity of a shape's MLPs."""
    if kind == "relu":
        return F.relu(x)
    return F.gelu(x, approximate="tanh" if kind == "gelu_new" else "none")


class Attention(nn.Module):
    """Causal multi-head attention with an optional learned sink logit per head."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        width = shape.n_head * shape.d_head
        self.n_head, self.d_head = shape.n_head, shape.d_head
        self.c_attn = Linear(shape.d_read, 3 * width)
        self.c_proj = Linear(width, shape.d_model)
        self.sink_logit = nn.Parameter(torch.zeros(shape.n_head)) if shape.sink else None

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, at: Tensor | None = None, branch: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Values averaged over the past [batch, pos, width], each head's total weight on them [batch, head, pos]."""
        return attend(q, k, v, self.sink_logit, self.n_head, at, branch)


class MLP(nn.Module):
    """Two linear maps with a nonlinearity between them."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.c_fc = Linear(shape.d_read, shape.d_mlp)
        self.c_proj = Linear(shape.d_mlp, shape.d_model)


class Block(nn.Module):
    """One layer: attention and MLP, each reading from and adding to the residual stream."""

    def __init__(self, shape: ModelShape, layer: int) -> None:
        super().__init__()
        self.layer, self.shape = layer, shape
        self.ln_1 = new_norm(shape)
        self.attn = Attention(shape)
        self.ln_2 = new_norm(shape)
        self.mlp = MLP(shape)
        if shape.d_pos:
            self.ln_p1, self.ln_p2 = new_norm(shape, shape.d_pos), new_norm(shape, shape.d_pos)

    def abs_topk(self, site: Site, x: Tensor) -> Tensor:
        """AbsTopK at a site; its argument may be overwritten."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        kept_for_backward = site is Site.MLP_NEURON and self.shape.activation == "relu"
        return abs_topk(x, self.shape.k_at(site.value), inplace=not kept_for_backward)  # nobody else has seen x

    def site(self, site: Site, x: Tensor, intervene: Intervene | None) -> Tensor:
        """The value at a site: AbsTopK, then whatever the intervention makes of it."""
        x = self.abs_topk(site, x)
        return x if intervene is None else intervene(site_key(self.layer, site), x)

    def read(self, site: Site, x: Tensor, positions: Tensor | None) -> Tensor:
        """What a half layer reads, before AbsTopK: the norm of the stream, and beside it that of the positions."""
        norm, beside = (self.ln_1, "ln_p1") if site is Site.ATTN_IN else (self.ln_2, "ln_p2")
        if positions is None:
            return norm(x)
        places = getattr(self, beside)(positions)
        return torch.cat([norm(x), places.repeat(len(x) // len(places), 1, 1)], dim=-1)

    def settle(self, place: str, x: Tensor) -> Tensor:
        """The residual stream after a half layer's write was added: its ReLU and AbsTopK, where the shape has them."""
        x = F.relu(x) if self.shape.residual_relu else x
        return abs_topk(x, self.shape.k_at(place))

    def attend(self, h: Tensor, intervene: Intervene | None, cuts: Cuts, layout: Layout, last: bool) -> Tensor:
        h = h if intervene is None else intervene(site_key(self.layer, Site.ATTN_IN), h)
        q, k, v = linear(self.attn.c_attn, h, cuts.get(f"{self.layer}.attn.c_attn")).chunk(3, dim=-1)
        q = layout.ends(q) if last else q
        q, k = self.site(Site.ATTN_Q, q, intervene), self.site(Site.ATTN_K, k, intervene)
        v = self.site(Site.ATTN_V, v, intervene)
        mixed, attention_mass = layout.attend(self.attn.mix, q, k, v, last)
        attended = Attended(
            attention_mass, lambda values: layout.attend(self.attn.mix, q, k, at_rows(values, v), last)[0]
        )
        out = linear(self.attn.c_proj, mixed, cuts.get(f"{self.layer}.attn.c_proj"), attended)
        return self.site(Site.ATTN_OUT, out, intervene)

    def mlp_out(self, x: Tensor, intervene: Intervene | None, cuts: Cuts, positions: Tensor | None) -> Tensor:
        h = self.site(Site.MLP_IN, self.read(Site.MLP_IN, x, positions), intervene)
        h = activation(self.shape.activation, linear(self.mlp.c_fc, h, cuts.get(f"{self.layer}.mlp.c_fc")))
        h = self.site(Site.MLP_NEURON, h, intervene)
        return self.site(Site.MLP_OUT, linear(self.mlp.c_proj, h, cuts.get(f"{self.layer}.mlp.c_proj")), intervene)

    def forward(
        self,
        x: Tensor,
        intervene: Intervene | None,
        cuts: Cuts,
        layout: Layout,
        last: bool = False,
        copies: int = 1,
        positions: Tensor | None = None,
    ) -> Tensor:
        """The residual stream after the layer; of the ``last``, only at the positions that the layout asks for.

        With ``copies``, the batch is that many times as long from the first intervention on. ``positions``: those that
        are read beside the stream, of one copy.
        """
        x = residual(f"{self.layer}.resid_pre", x, intervene)
        h = self.abs_topk(Site.ATTN_IN, self.read(Site.ATTN_IN, x, positions))
        if copies > 1:
            x, h = x.repeat(copies, 1, 1), h.repeat(copies, 1, 1)
        x = (layout.ends(x) if last else x) + self.attend(h, intervene, cuts, layout, last)
        x = residual(f"{self.layer}.resid_mid", self.settle("resid_post_attn", x), intervene)
        places = layout.ends(positions) if last and positions is not None else positions
        return self.settle("resid_post_mlp", x + self.mlp_out(x, intervene, cuts, places))


class Transformer(nn.Module):
    """The model. Parameters carry the released checkpoints' names (docs/checkpoint_format.md).

    ``checkpoint`` is the identity of the checkpoint it was loaded from, None where it was made or trained here.
    """

    checkpoint: str | None = None

    def __init__(self, shape: ModelShape, vocab_size: int) -> None:
        super().__init__()
        self.config, self.vocab_size = shape, vocab_size
        wte = nn.Embedding(vocab_size, shape.d_model)
        blocks = nn.ModuleList(Block(shape, layer) for layer in range(shape.n_layer))
        self.transformer = nn.ModuleDict({"wte": wte, "h": blocks, "ln_f": new_norm(shape)})
        if shape.positions or shape.d_pos:
            self.transformer["wpe"] = nn.Embedding(shape.n_ctx, shape.d_pos or shape.d_model)
        self.lm_head = Linear(shape.d_model, vocab_size, bias=False)
        table = torch.empty(vocab_size, vocab_size).uniform_(0, 0.02) if shape.bigram else None
        self.bigram_table = None if table is None else nn.Parameter(table)
        self.final_logits_bias = nn.Parameter(torch.zeros(vocab_size)) if shape.logits_bias else None

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    def on_cpu(self) -> Transformer:
        """The model itself where it is on a CPU, else a copy there."""
        return self if self.device.type == "cpu" else copy.deepcopy(self).cpu()

    def freeze(self) -> Transformer:
        """The model itself, to be run and not trained: no gradients of weights, whose zeros are skipped."""
        skip_zeros(self, FROZEN_BELOW if self.device.type == "cpu" else ON_GPU)
        return self.requires_grad_(False).eval()

    def widths(self) -> dict[str, int]:
        """Site key → how many nodes the site has."""
        return {
            site_key(layer, site): site.width(self.config) for layer in range(self.config.n_layer) for site in SITES
        }

    def embed(self, layout: Layout) -> Float[Tensor, "batch pos d_model"]:
        x = self.transformer["wte"](layout.tokens)
        if self.config.positions:
            x = x + self.transformer["wpe"].weight[layout.positions]
        return x

    def beside(self, layout: Layout) -> Float[Tensor, "batch pos d_pos"] | None:
        """The positions that half layers read beside the residual stream; None where they are added to it, or none."""
        if not self.config.d_pos:
            return None
        return self.transformer["wpe"].weight[layout.positions].expand(len(layout.tokens), -1, -1)

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"] | PackedPrompts,
        *,
        at: Int[Tensor, " batch"] | None = None,
        intervene: Intervene | None = None,
        cuts: Cuts | None = None,
        copies: int = 1,
    ) -> Tensor:
        """Logits [batch, pos, vocab] in nats, or [batch, vocab] at one position per prompt where ``at`` is given.

        With ``at``, the last layer computes only what those positions need: its sites after the keys and values hold
        [batch, 1, width]. ``intervene(site_key, value)`` returns the value to use at each site; ``cuts`` maps
        ``"0.mlp.c_fc"`` and its like to its cut edges. With ``copies``, the result is of the batch that
        many times over, for interventions that treat each copy differently: what comes before the first site is
        computed once. ``PackedPrompts`` (with ends, on a CPU) give logits [prompt, vocab] at these, their sites hold
        [copy, row, width] and in the last layer [copy, prompt, width]. Raises ValueError for prompts longer than n_ctx.
        """
        layout = tokens if isinstance(tokens, PackedPrompts) else PaddedPrompts(tokens, at)
        if layout.n_positions > self.config.n_ctx:
            raise ValueError(
                f"prompt of {layout.n_positions} tokens; this model reads at most n_ctx {self.config.n_ctx}"
            )
        if isinstance(tokens, PackedPrompts) and not tokens.last:
            raise ValueError("packed prompts without ends; make them with the position asked for of each")
        x, positions = self.embed(layout), self.beside(layout)
        for layer, block in enumerate(self.transformer["h"]):
            last = layout.last and layer == self.config.n_layer - 1
            x = block(x, intervene, cuts or {}, layout, last, copies if layer == 0 else 1, positions)
        x = residual("final_resid", x, intervene)
        if layout.last:
            x = x.flatten(0, 1)
        logits: Tensor = self.lm_head(self.transformer["ln_f"](x))
        if self.final_logits_bias is not None:
            logits = logits + self.final_logits_bias
        if self.bigram_table is None:
            return logits.float()
        # In place: a table of logits less, in float32 whatever type the product has.
        return F.embedding(layout.read_tokens(copies), self.bigram_table).add_(logits)
