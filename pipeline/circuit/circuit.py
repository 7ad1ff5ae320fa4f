"""A circuit: the nodes and edges of one model that do one task, with all that is needed to run them (§5).

``Circuit.load(path)`` reads one, ``circuit(model)`` is the model with everything else held, ``circuit.compact(model)``
the same computed by the circuit's nodes alone. Saved as ``circuit.json`` (which nodes and edges, by name; what they
belong to; the certificate) and ``circuit.safetensors`` (means, held values and order of all nodes), readable without
this project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.artifacts import ArtifactError, read_json, whole_folder, write_json
from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.compact import Compact, Frozen
from pipeline.circuit.interventions import node_masks
from pipeline.circuit.masked import Masked
from pipeline.config import Ablation
from pipeline.model.transformer import Transformer

FORMAT = 2


class WrongModelError(ValueError):
    """A circuit is to be run on a model that it was not cut out of."""


@dataclass(frozen=True)
class Circuit:
    """Kept nodes and edges of a model.

    ``nodes``: site key → kept indices, ascending; sites without kept nodes are absent. ``edges``: edge key → [n_edges,
    2] (source index, target index), sorted; absent where empty. ``means``: site key → mean of *every* node of the site
    over the pretraining distribution. ``order``: site key → how needed the search found every node, the larger the
    more. ``ablated_to``: what everything outside is ablated to (None: the means). ``calibration``: (scale, shift) of
    the two answer logits. ``about``: model, task, model_hash, task_hash, target_loss, validation_loss and what else
    identifies it. ``certificate``: what loss it has to answer for after each single removal
    (``pipeline.prune.minimise``); or None.
    """

    nodes: Mapping[str, Int[Tensor, " n"]]
    edges: Mapping[str, Int[Tensor, "n 2"]]
    means: Mapping[str, Float[Tensor, " width"]]
    order: Mapping[str, Float[Tensor, " width"]]
    ablated_to: AblationValues | None = None
    calibration: tuple[float, float] = (1.0, 0.0)
    about: Mapping[str, Any] = field(default_factory=dict)
    certificate: Mapping[str, Any] | None = None

    @property
    def n_nodes(self) -> int:
        return sum(len(indices) for indices in self.nodes.values())

    @property
    def n_edges(self) -> int:
        return sum(len(pairs) for pairs in self.edges.values())

    @property
    def outside(self) -> AblationValues:
        """What nodes outside the circuit and sources of cut edges are held at."""
        return self.ablated_to or AblationValues.at_means(self.means)

    def node_masks(self) -> dict[str, Float[Tensor, " width"]]:
        """Site key → 1 for kept nodes, 0 for the others, for every site of the model."""
        return node_masks(self.nodes, self.means)

    def __call__(self, model: Transformer, draw: int = 0) -> Masked:
        """The model with only this circuit live: call it with tokens, as the model. Raises WrongModelError."""
        self.check_model(model)
        return Masked(model, self.nodes, self.edges, self.outside.draws[draw])

    def compact(self, model: Transformer, draw: int = 0) -> Compact:
        """The same logits within 1e-4, computed by the circuit's nodes alone, on a CPU. Raises WrongModelError."""
        self.check_model(model)
        return Compact(Frozen(model, self.outside.draws[draw]), self.nodes, self.edges)

    def check_model(self, model: Transformer) -> None:
        """Raises WrongModelError where the model is not the one that the circuit was cut out of."""
        if model.checkpoint is not None:
            self.check_hash(model.checkpoint)
        widths = {key: len(mean) for key, mean in self.means.items()}
        if widths != model.widths():
            raise WrongModelError(
                f"circuit of {self.about.get('model')} / {self.about.get('task')}: its model has sites of other widths "
                "than this one; load the model that it was cut out of"
            )

    def check_hash(self, model_hash: str) -> None:
        """Raises WrongModelError where the circuit is of another checkpoint."""
        if self.about.get("model_hash", model_hash) != model_hash:
            raise WrongModelError(
                f"circuit of {self.about.get('model')} / {self.about.get('task')} belongs to checkpoint "
                f"{self.about['model_hash']}, not to {model_hash}; load that model, or prune this one"
            )

    def save(self, folder: Path) -> None:
        """Write the circuit into ``folder``, whole or not at all."""
        description = {
            "format": FORMAT,
            "about": dict(self.about),
            "ablation": self.outside.kind.value,
            "n_nodes": self.n_nodes,
            "n_edges": self.n_edges,
            "calibration": {"scale": self.calibration[0], "shift": self.calibration[1]},
            "nodes": {key: indices.tolist() for key, indices in self.nodes.items()},
            "edges": {key: pairs.tolist() for key, pairs in self.edges.items()},
            "certificate": self.certificate,
        }
        tensors = {f"mean.{key}": value for key, value in self.means.items()}
        tensors |= {f"order.{key}": value for key, value in self.order.items()}
        if self.outside.kind is Ablation.RESAMPLE:
            draws = self.outside.draws
            tensors |= {f"draws.{key}": torch.stack([draw[key] for draw in draws]) for key in draws[0]}
        with whole_folder(folder) as partial:
            write_json(partial / "circuit.json", description)
            save_file(
                {key: value.cpu().contiguous() for key, value in tensors.items()}, partial / "circuit.safetensors"
            )

    @classmethod
    def load(cls, folder: Path | str) -> Circuit:
        """The circuit saved in ``folder``. Raises ArtifactError where it is missing, damaged or of another format."""
        folder = Path(folder)
        description = read_json(folder / "circuit.json")
        if description.get("format") != FORMAT:
            raise ArtifactError(f"{folder}: circuit format {description.get('format')!r}; this version reads {FORMAT}")
        try:
            tensors = load_file(folder / "circuit.safetensors")
        except Exception as error:  # safetensors raises its own untyped errors
            raise ArtifactError(f"{folder}/circuit.safetensors: damaged ({error}); run prune again") from error
        means = _named(tensors, "mean.")
        if not means:
            raise ArtifactError(f"{folder}/circuit.safetensors: has no means of nodes; run prune again")
        return cls(
            nodes={key: torch.tensor(value) for key, value in description["nodes"].items()},
            edges={key: torch.tensor(value).view(-1, 2) for key, value in description["edges"].items()},
            means=means,
            order=_named(tensors, "order."),
            ablated_to=_held(Ablation(description["ablation"]), means, _named(tensors, "draws.")),
            calibration=(description["calibration"]["scale"], description["calibration"]["shift"]),
            about=description["about"],
            certificate=description["certificate"],
        )


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _held(kind: Ablation, means: Mapping[str, Tensor], draws: Mapping[str, Tensor]) -> AblationValues:
    if kind is Ablation.RESAMPLE:
        return AblationValues.resampled(draws)
    return AblationValues.at_zero(means) if kind is Ablation.ZERO else AblationValues.at_means(means)
