"""Every place of the transformer where a node can live, and every weight that can be an edge, named once.

A *site* is a location inside a layer (§1). A *site key* is layer and site, ``"3.mlp_neuron"``. A *node* is a
site key and an index, ``"3.mlp_neuron.1249"``. An *edge key* is layer, source site and target site,
``"3.mlp_in->mlp_neuron"``. AbsTopK, masks, means, ablations, exports and pictures all use these names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pipeline.shape import ModelShape


class Site(StrEnum):
    """The eight sites of a layer, in the order in which the forward pass meets them."""

    ATTN_IN = "attn_in"  # RMSNorm before attention: a read of the residual stream
    ATTN_Q = "attn_q"
    ATTN_K = "attn_k"
    ATTN_V = "attn_v"
    ATTN_OUT = "attn_out"  # c_proj of attention, before the residual add: a write
    MLP_IN = "mlp_in"  # RMSNorm before the MLP: a read of the residual stream
    MLP_NEURON = "mlp_neuron"  # after the activation function
    MLP_OUT = "mlp_out"  # c_proj of the MLP, before the residual add: a write

    @property
    def reads_residual(self) -> bool:
        return self in (Site.ATTN_IN, Site.MLP_IN)

    @property
    def writes_residual(self) -> bool:
        return self in (Site.ATTN_OUT, Site.MLP_OUT)

    @property
    def in_head(self) -> bool:
        """Whether its nodes are channels of attention heads."""
        return self in (Site.ATTN_Q, Site.ATTN_K, Site.ATTN_V)

    @property
    def in_attention(self) -> bool:
        """Whether it is in the first half of a layer."""
        return self.value.startswith("attn")

    @property
    def partner(self) -> Site | None:
        """The site that it is multiplied with in attention's scores: queries of keys, and keys of queries."""
        return {Site.ATTN_Q: Site.ATTN_K, Site.ATTN_K: Site.ATTN_Q}.get(self)

    def width(self, shape: ModelShape) -> int:
        """How many nodes it has."""
        return shape.width_at(self.value)


SITES = tuple(Site)


@dataclass(frozen=True)
class EdgeKind:
    """Where the edges between two sites of a layer have their weights.

    ``weight`` names the block's matrix (rows = targets, columns = sources); ``part`` is which of its equal row blocks
    holds the targets (c_attn stacks q, k, v), out of ``n_parts``.
    """

    source: Site
    target: Site
    weight: str
    part: int = 0
    n_parts: int = 1

    def rows(self, n_rows: int) -> slice:
        """The rows of the weight matrix that belong to the target site."""
        size = n_rows // self.n_parts
        return slice(self.part * size, (self.part + 1) * size)


EDGE_KINDS = (
    EdgeKind(Site.ATTN_IN, Site.ATTN_Q, "attn.c_attn", 0, 3),
    EdgeKind(Site.ATTN_IN, Site.ATTN_K, "attn.c_attn", 1, 3),
    EdgeKind(Site.ATTN_IN, Site.ATTN_V, "attn.c_attn", 2, 3),
    EdgeKind(Site.ATTN_V, Site.ATTN_OUT, "attn.c_proj"),
    EdgeKind(Site.MLP_IN, Site.MLP_NEURON, "mlp.c_fc"),
    EdgeKind(Site.MLP_NEURON, Site.MLP_OUT, "mlp.c_proj"),
)


def site_key(layer: int, site: Site) -> str:
    """``"3.mlp_neuron"``."""
    return f"{layer}.{site.value}"


def split_site_key(key: str) -> tuple[int, Site]:
    """Layer and site of a site key. Raises ValueError for anything else."""
    layer, _, site = key.partition(".")
    return int(layer), Site(site)


def edge_key(layer: int, kind: EdgeKind) -> str:
    """``"3.mlp_in->mlp_neuron"``."""
    return f"{layer}.{kind.source.value}->{kind.target.value}"


def split_edge_key(key: str) -> tuple[int, EdgeKind]:
    """Layer and kind of an edge key. Raises ValueError for anything else."""
    layer, _, ends = key.partition(".")
    for kind in EDGE_KINDS:
        if ends == f"{kind.source.value}->{kind.target.value}":
            return int(layer), kind
    raise ValueError(f"{key!r} is not an edge key; expected e.g. '0.mlp_in->mlp_neuron'")


def node_name(key: str, index: int) -> str:
    """``"3.mlp_neuron.1249"``."""
    return f"{key}.{index}"


def split_node_name(name: str) -> tuple[str, int]:
    """Site key and index of a node's name. Raises ValueError for anything else."""
    key, _, index = name.rpartition(".")
    try:
        split_site_key(key)
        return key, int(index)
    except ValueError:
        raise ValueError(f"{name!r} is not a node; expected e.g. '0.mlp_neuron.17'") from None


def edge_name(key: str, source: int, target: int) -> str:
    """``"3.mlp_in.12->3.mlp_neuron.1249"``."""
    layer, kind = split_edge_key(key)
    return f"{node_name(site_key(layer, kind.source), source)}->{node_name(site_key(layer, kind.target), target)}"


def split_edge_name(name: str) -> tuple[str, int, int]:
    """Edge key, source index and target index of an edge's name. Raises ValueError for anything else."""
    try:
        (source_key, i), (target_key, j) = map(split_node_name, name.split("->"))
        layer, _, site = source_key.partition(".")
        key = f"{layer}.{site}->{target_key.removeprefix(f'{layer}.')}"
        split_edge_key(key)
    except ValueError:
        raise ValueError(f"{name!r} joins no two sites of a layer; expected e.g. '0.attn_in.12->0.attn_v.34'") from None
    return key, i, j


def site_keys(n_layer: int) -> list[str]:
    """All site keys of a model, in the order of the forward pass."""
    return [site_key(layer, site) for layer in range(n_layer) for site in SITES]


def residual_names(n_layer: int) -> list[str]:
    """The residual stream before each layer, between its halves, and after the last: for caches, not for nodes."""
    return [f"{layer}.{place}" for layer in range(n_layer) for place in ("resid_pre", "resid_mid")] + ["final_resid"]


def edge_keys(n_layer: int) -> list[str]:
    """All edge keys of a model, in the order of the forward pass."""
    return [edge_key(layer, kind) for layer in range(n_layer) for kind in EDGE_KINDS]
