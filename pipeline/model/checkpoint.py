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

from pipeline.artifacts import ArtifactError, file_hash, memory_ended, read_json, readable, write_json
from pipeline.model.packed import INDEX, packed, unpacked
from pipeline.model.transformer import Transformer
from pipeline.shape import ModelShape
from pipeline.sites import site_keys, split_site_key

FORMAT = 2
MAX_PACKED = 10_000  # times as many parameters as numbers that a file holds: all zeros are left out
# What a file that is damaged, or not what it says, makes the code raise that takes it apart
ODD = (KeyError, RuntimeError, IndexError, TypeError, AttributeError, ValueError, ArithmeticError)
RECIPE = ("block_density", "embed_density", "lr", "tokens")  # which format 1 stored with the shape


def save_model(model: Transformer, folder: Path, extra: dict[str, Any], *, small: bool = False) -> None:
    """Write parameters and configuration into an existing folder. ``extra`` goes into config.json.

    ``small``: in float16 and without the zeros of sparse matrices (``pipeline.model.packed``), for a repository.
    """
    tensors = {name: p.detach().float().cpu().contiguous() for name, p in model.named_parameters()}
    save_file(packed(tensors) if small else tensors, folder / "model.safetensors")
    config = {"format": FORMAT, "model": model.config.shape.model_dump(), "vocab_size": model.vocab_size, **extra}
    write_json(folder / "config.json", config)


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> Transformer:
    """The model saved in ``folder``: float32, frozen, in evaluation mode.

    Raises ArtifactError for a missing, damaged or foreign checkpoint: every tensor has to be there, of its shape, and
    no other.
    """
    folder = Path(folder)
    described = read_json(folder / "config.json")
    if not isinstance(described, dict):
        raise ArtifactError(f"{folder}/config.json: not that of a checkpoint")
    if described.get("format") not in (1, FORMAT):
        raise ArtifactError(f"{folder}: checkpoint format {described.get('format')!r}; allowed: 1 and {FORMAT}")
    path = folder / "model.safetensors"
    tensors = _read(path)
    finite({name: tensor for name, tensor in tensors.items() if not name.endswith(INDEX)}, path)
    try:
        shape = _shape(described)
        _check_size(shape, described["vocab_size"], tensors)
        model = Transformer(shape, described["vocab_size"])
        shapes = {name: p.shape for name, p in model.named_parameters()}
        model.load_state_dict(unpacked(tensors, shapes), strict=True)
    except (ValidationError, *ODD) as error:
        if memory_ended(error):
            raise
        raise ArtifactError(f"{folder}: not a checkpoint of this project: {error}; run pretrain again") from error
    model.checkpoint = model_hash(folder)
    return model.to(device).freeze()


def _check_size(shape: ModelShape, vocab_size: int, tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError where a model of this shape has other layers than the file, or matrices of other sizes: before
    room is made for them. Of matrices that are packed, loading itself finds that they do not fit."""
    n_layer = len({name.split(".")[2] for name in tensors if name.startswith("transformer.h.")})
    if shape.n_layer != n_layer:
        raise ValueError(f"n_layer {shape.n_layer}, but the weights are of {n_layer} layers")
    block, positions = "transformer.h.0", shape.d_pos or shape.d_model
    wanted = {
        "transformer.wte.weight": (vocab_size, shape.d_model),
        "transformer.wpe.weight": (shape.n_ctx, positions),
        f"{block}.attn.c_attn.weight": (3 * shape.n_head * shape.d_head, shape.d_read),
        f"{block}.mlp.c_fc.weight": (shape.d_mlp, shape.d_read),
    }
    for name, size in wanted.items():
        if name in tensors and tuple(tensors[name].shape) != size:
            raise ValueError(f"{name} is {list(tensors[name].shape)}, not {list(size)}")
    whole = vocab_size * shape.d_model + (shape.n_ctx * positions if shape.positions or shape.d_pos else 0)
    whole += vocab_size**2 * shape.bigram + n_layer * shape.d_mlp * shape.d_read
    if whole > MAX_PACKED * sum(tensor.numel() for tensor in tensors.values()):
        raise ValueError(f"a model of this shape has over {whole} parameters, far more than the file")


def _shape(described: Mapping[str, Any]) -> ModelShape:
    """The shape that a checkpoint stores; format 1 stored how it was trained beside it."""
    left_out = RECIPE if described["format"] == 1 else ()
    return ModelShape.model_validate({key: value for key, value in described["model"].items() if key not in left_out})


def save_means(means: dict[str, Tensor], folder: Path) -> None:
    """Write the node means into an existing folder."""
    save_file({key: value.contiguous() for key, value in means.items()}, folder / "means.safetensors")


def load_means(folder: Path | str) -> dict[str, Tensor]:
    """Site key → mean of every node. Raises ArtifactError where they are missing or not those of a whole model."""
    folder = Path(folder)
    means = finite(_read(folder / "means.safetensors"), folder / "means.safetensors")
    try:
        shape = _shape(read_json(folder / "config.json"))
    except (ValidationError, *ODD) as error:
        raise ArtifactError(f"{folder}/config.json: not that of a checkpoint: {error}") from error
    missing = set(site_keys(min(shape.n_layer, len(means)))) ^ set(means)
    if missing:
        raise ArtifactError(f"{folder}/means.safetensors: sites do not fit the model: {', '.join(sorted(missing))}")
    for key, mean in means.items():
        if mean.shape != (width := split_site_key(key)[1].width(shape),):
            raise ArtifactError(f"{folder}/means.safetensors: {key} is {list(mean.shape)}, the model has [{width}]")
    return means


def model_hash(folder: Path) -> str:
    """Identity of a checkpoint: its parameters and configuration."""
    return file_hash(folder / "model.safetensors", folder / "config.json")


def finite(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of a file in float32, as models compute. Raises ArtifactError, by name, for one that holds
    a NaN, an infinity or no floating-point numbers."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ArtifactError(f"{path}: {name} is of {tensor.dtype}; allowed: floating-point numbers")
    try:
        found = {name: tensor.float() for name, tensor in tensors.items()}
    except RuntimeError as error:  # numbers that torch knows and cannot read
        raise ArtifactError(f"{path}: of a kind of numbers that is not read here ({error})") from error
    for name, tensor in found.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"{path}: {name} is not finite: it holds a NaN or an infinity; make the file again")
    return found


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; run pretrain (dvc repro)")
    try:
        return load_file(readable(path))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise ArtifactError(f"{path}: damaged ({error}); delete it and run pretrain again") from error
