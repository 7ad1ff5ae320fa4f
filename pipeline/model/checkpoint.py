"""Checkpoints: ``model.safetensors`` (parameters by the released names), ``config.json``, ``means.safetensors``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.artifacts import ArtifactError, file_hash, read_json, write_json
from pipeline.model.packed import INDEX, packed, unpacked
from pipeline.model.transformer import Transformer
from pipeline.shape import ModelShape
from pipeline.sites import site_keys

FORMAT = 2
RECIPE = ("block_density", "embed_density", "lr", "tokens")  # which format 1 stored with the shape


def save_model(model: Transformer, folder: Path, extra: dict[str, Any], *, small: bool = False) -> None:
    """Write parameters and configuration into an existing folder. ``extra`` goes into config.json.

    ``small``: in float16 and without the zeros of sparse matrices (``pipeline.model.packed``), for a repository.
    """
    tensors = {name: p.detach().float().cpu().contiguous() for name, p in model.named_parameters()}
    save_file(packed(tensors) if small else tensors, folder / "model.safetensors")
    config = {"format": FORMAT, "model": model.config.shape.model_dump(), "vocab_size": model.vocab_size, **extra}
    write_json(folder / "config.json", config)


def load_model(folder: Path, device: torch.device | str = "cpu") -> Transformer:
    """The model saved in ``folder``: float32, frozen, in evaluation mode.

    Raises ArtifactError for a missing, damaged or foreign checkpoint: every tensor has to be there, of its shape, and
    no other.
    """
    described = read_json(folder / "config.json")
    if not isinstance(described, dict):
        raise ArtifactError(f"{folder}/config.json: not that of a checkpoint")
    if described.get("format") not in (1, FORMAT):
        raise ArtifactError(f"{folder}: checkpoint format {described.get('format')!r}; allowed: 1 and {FORMAT}")
    path = folder / "model.safetensors"
    tensors = _read(path)
    finite({name: tensor for name, tensor in tensors.items() if not name.endswith(INDEX)}, path)
    try:
        model = Transformer(_shape(described), described["vocab_size"])
        shapes = {name: p.shape for name, p in model.named_parameters()}
        model.load_state_dict(unpacked(tensors, shapes), strict=True)
    except (ValidationError, KeyError, RuntimeError, IndexError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{folder}: not a checkpoint of this project: {error}; run pretrain again") from error
    model.checkpoint = model_hash(folder)
    return model.to(device).freeze()


def _shape(described: Mapping[str, Any]) -> ModelShape:
    """The shape that a checkpoint stores; format 1 stored how it was trained beside it."""
    left_out = RECIPE if described["format"] == 1 else ()
    return ModelShape.model_validate({key: value for key, value in described["model"].items() if key not in left_out})


def save_means(means: dict[str, Tensor], folder: Path) -> None:
    """Write the node means into an existing folder."""
    save_file({key: value.contiguous() for key, value in means.items()}, folder / "means.safetensors")


def load_means(folder: Path) -> dict[str, Tensor]:
    """Site key → mean of every node. Raises ArtifactError where they are missing or not those of a whole model."""
    means = finite(_read(folder / "means.safetensors"), folder / "means.safetensors")
    try:
        n_layer = read_json(folder / "config.json")["model"]["n_layer"]
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{folder}/config.json: not that of a checkpoint: no model.n_layer") from error
    missing = set(site_keys(n_layer)) ^ set(means)
    if missing:
        raise ArtifactError(f"{folder}/means.safetensors: sites do not fit the model: {', '.join(sorted(missing))}")
    return means


def model_hash(folder: Path) -> str:
    """Identity of a checkpoint: its parameters and configuration."""
    return file_hash(folder / "model.safetensors", folder / "config.json")


def finite(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of a file, those of less than 32 bits in float32. Raises ArtifactError, by name, for one that holds
    a NaN, an infinity or no floating-point numbers."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ArtifactError(f"{path}: {name} is of {tensor.dtype}; allowed: floating-point numbers")
        if not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"{path}: {name} is not finite: it holds a NaN or an infinity; make the file again")
    return {name: tensor.float() if tensor.dtype.itemsize < 4 else tensor for name, tensor in tensors.items()}


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; run pretrain (dvc repro)")
    try:
        return load_file(path)
    except PermissionError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from error
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); delete it and run pretrain again") from error
