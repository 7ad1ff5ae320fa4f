"""A circuit: the nodes and edges of one model that do one task, with all that is needed to run them again (METHOD §5).

Saved as ``circuit.json`` (which nodes and edges, by name; what they belong to) and ``circuit.safetensors`` (means and
order of all nodes), readable without this project.
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

FORMAT = 1


@dataclass(frozen=True)
class Circuit:
    """Kept nodes and edges of a model.

    ``nodes``: site key → kept indices, ascending; sites without kept nodes are absent. ``edges``: edge key →
    [n_edges, 2] (source index, target index), sorted; absent where empty. ``means``: site key → mean of *every* node of
    the site over the pretraining distribution. ``order``: site key → τ of every node, the larger the more needed.
    ``calibration``: (scale, shift) of the two answer logits. ``about``: model, task, model_hash, task_hash,
    target_loss, validation_loss and what else identifies it.
    """

    nodes: Mapping[str, Int[Tensor, " n"]]
    edges: Mapping[str, Int[Tensor, "n 2"]]
    means: Mapping[str, Float[Tensor, " width"]]
    order: Mapping[str, Float[Tensor, " width"]]
    calibration: tuple[float, float] = (1.0, 0.0)
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_nodes(self) -> int:
        return sum(len(indices) for indices in self.nodes.values())

    @property
    def n_edges(self) -> int:
        return sum(len(pairs) for pairs in self.edges.values())

    def node_masks(self) -> dict[str, Float[Tensor, " width"]]:
        """Site key → 1 for kept nodes, 0 for the others, for every site of the model."""
        masks = {key: torch.zeros_like(mean) for key, mean in self.means.items()}
        for key, indices in self.nodes.items():
            masks[key][indices] = 1
        return masks

    def save(self, folder: Path) -> None:
        """Write the circuit into ``folder``, whole or not at all."""
        description = {
            "format": FORMAT,
            "about": dict(self.about),
            "n_nodes": self.n_nodes,
            "n_edges": self.n_edges,
            "calibration": {"scale": self.calibration[0], "shift": self.calibration[1]},
            "nodes": {key: indices.tolist() for key, indices in self.nodes.items()},
            "edges": {key: pairs.tolist() for key, pairs in self.edges.items()},
        }
        tensors = {f"mean.{key}": value for key, value in self.means.items()}
        tensors |= {f"order.{key}": value for key, value in self.order.items()}
        with whole_folder(folder) as partial:
            write_json(partial / "circuit.json", description)
            save_file({key: value.contiguous() for key, value in tensors.items()}, partial / "circuit.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Circuit:
        """The circuit saved in ``folder``. Raises ArtifactError where it is missing or of another format."""
        description = read_json(folder / "circuit.json")
        if description.get("format") != FORMAT:
            raise ArtifactError(f"{folder}: circuit format {description.get('format')!r}; this version reads {FORMAT}")
        try:
            tensors = load_file(folder / "circuit.safetensors")
        except Exception as error:  # safetensors raises its own untyped errors
            raise ArtifactError(f"{folder}/circuit.safetensors: damaged ({error}); run prune again") from error
        return cls(
            nodes={key: torch.tensor(value) for key, value in description["nodes"].items()},
            edges={key: torch.tensor(value).view(-1, 2) for key, value in description["edges"].items()},
            means={key[5:]: value for key, value in tensors.items() if key.startswith("mean.")},
            order={key[6:]: value for key, value in tensors.items() if key.startswith("order.")},
            calibration=(description["calibration"]["scale"], description["calibration"]["shift"]),
            about=description["about"],
        )
