"""Circuits of the released models: ``circuit_data`` of a viz_data.pt, read into a ``Circuit`` and written from one.

It has the kept indices of every site; edges are all nonzero weights between kept nodes. Losses in these files are
stored twice too large, and token samples are padded on the right with token 0, which is also a token of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.artifacts import memory_ended, whole_file
from pipeline.circuit import Circuit
from pipeline.circuit.graph import induced_edges
from pipeline.circuit.interventions import node_masks
from pipeline.formats.errors import FormatError, refuse
from pipeline.formats.tensors import load_pt
from pipeline.model.checkpoint import ODD
from pipeline.model.transformer import Transformer
from pipeline.sites import Site, site_keys, split_site_key

KEY = "circuit_data"
THEIRS = {
    Site.ATTN_IN: "attn.act_in",
    Site.ATTN_Q: "attn.q",
    Site.ATTN_K: "attn.k",
    Site.ATTN_V: "attn.v",
    Site.ATTN_OUT: "attn.resid_delta",
    Site.MLP_IN: "mlp.act_in",
    Site.MLP_NEURON: "mlp.post_act",
    Site.MLP_OUT: "mlp.resid_delta",
}
FINAL = "final_resid"  # kept channels of the residual stream's end, which is no site of ours
LOSSES = ("loss", "interv_loss")  # of ``importances``: of the model and of the circuit


@dataclass(frozen=True)
class Published:
    """A released circuit; its losses in nats, as they are; its samples without padding; and notes on what is lost."""

    circuit: Circuit
    losses: Mapping[str, float]
    samples: tuple[list[int], ...]
    notes: tuple[str, ...]


def their_name(key: str) -> str:
    """``"3.mlp.post_act"`` of ``"3.mlp_neuron"``."""
    layer, site = split_site_key(key)
    return f"{layer}.{THEIRS[site]}"


def read_viz(
    path: Path, model: Transformer, means: Mapping[str, Tensor], about: Mapping[str, Any] | None = None
) -> Published:
    """The circuit in a viz_data.pt, of a model and with the means of its nodes.

    ``about``: facts that identify it, beside the model's hash. Raises FormatError for a file that holds code, no
    circuit, unknown sites, or nodes that the model does not have.
    """
    found = load_pt(path)
    try:
        return _published(found, path, model, means, about)
    except ODD as error:
        if isinstance(error, FormatError) or memory_ended(error):
            raise
        raise FormatError(f"{path}: not a released circuit ({type(error).__name__}: {error})") from error


def _published(
    found: Any, path: Path, model: Transformer, means: Mapping[str, Tensor], about: Mapping[str, Any] | None
) -> Published:
    kept = found.get(KEY, found) if isinstance(found, dict) else None
    ours = {their_name(key): key for key in site_keys(model.config.n_layer)}
    named = isinstance(found, dict) and KEY in found  # else: the mapping itself, which has to have a site of ours
    if not isinstance(kept, dict) or not (named or ours.keys() & kept.keys()):
        raise FormatError(f"{path}: has no {KEY}; allowed: site → kept indices, such as 0.mlp.post_act")
    sites = {name: value for name, value in kept.items() if name not in (FINAL, "prune_config")}
    refuse(path, (f"unknown site {name}" for name in sites if name not in ours), f"this model has {', '.join(ours)}")
    nodes = {key: _indices(sites.get(name, ()), name, path) for name, key in ours.items()}
    widths = model.widths()
    outside = [f"{their_name(key)} keeps {some[-1]}" for key, some in nodes.items() if (some >= widths[key]).any()]
    refuse(path, outside, "a circuit of another model: this one has narrower sites")
    nodes = {key: some for key, some in nodes.items() if len(some)}
    facts = dict(about or {}) | ({"model_hash": model.checkpoint} if model.checkpoint else {})
    edges = induced_edges(model, {key: mask.to(model.device) for key, mask in node_masks(nodes, means).items()})
    circuit = Circuit(nodes, edges, dict(means), scores={key: torch.zeros(n) for key, n in widths.items()}, about=facts)
    return Published(circuit, _losses(found), _samples(found), tuple(_notes(kept, path, model)))


def _indices(value: Any, name: str, path: Path) -> Tensor:
    """Kept indices, ascending. Raises FormatError for what is no list of them."""
    try:
        indices = torch.as_tensor(value).flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise FormatError(f"{path}: {name} is no list of indices ({error})") from error
    whole = indices.numel() == 0 or not indices.is_floating_point() and indices.dtype != torch.bool
    if not whole or bool((indices < 0).any()):
        raise FormatError(f"{path}: {name} is no list of indices ({indices.dtype})")
    return indices.long().unique()


def _losses(found: Mapping[str, Any]) -> dict[str, float]:
    """The losses that the file has, halved: nats a prompt."""
    importances = found.get("importances")
    stored = importances if isinstance(importances, dict) else {}
    return {name: float(stored[name]) / 2 for name in LOSSES if name in stored}


def _samples(found: Mapping[str, Any]) -> tuple[list[int], ...]:
    """The prompts that the file has, without the zeros at their ends."""
    importances = found.get("importances")
    stored = importances.get("task_samples") if isinstance(importances, dict) else None
    rows = stored[0] if isinstance(stored, tuple | list) and len(stored) else stored
    return () if rows is None else tuple(strip_padding(row) for row in torch.as_tensor(rows).tolist())


def strip_padding(tokens: list[int]) -> list[int]:
    """The tokens up to the last that is not 0: zeros in between are tokens."""
    end = len(tokens)
    while end and tokens[end - 1] == 0:
        end -= 1
    return tokens[:end]


def _notes(kept: Mapping[str, Any], path: Path, model: Transformer) -> list[str]:
    final = kept.get(FINAL)
    if final is None or len(final) == model.config.d_model:
        return []
    return [
        f"{path.name}: {FINAL} keeps {len(final)} of {model.config.d_model} channels; the end of the residual stream "
        "is no site here, the circuit keeps them all"
    ]


def write_viz(circuit: Circuit, path: Path) -> None:
    """A file with ``circuit_data`` alone: every site's kept indices by the released names, without edges."""
    empty = torch.zeros(0, dtype=torch.long)
    kept = {their_name(key): circuit.nodes.get(key, empty).long().cpu() for key in circuit.means}
    with whole_file(path) as partial:
        torch.save({KEY: kept}, partial)


def to_circuit_folder(published: Published, out: Path) -> Circuit:
    """Save a released circuit as a folder of ours; what was saved, with its losses in ``about``."""
    about = dict(published.circuit.about) | {f"published_{name}": loss for name, loss in published.losses.items()}
    circuit = replace(published.circuit, about=about)
    circuit.save(out)
    return circuit
