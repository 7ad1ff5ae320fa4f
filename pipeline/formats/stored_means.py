"""Means of the nodes that lie beside a model."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.artifacts import whole_file
from pipeline.formats.errors import FormatError
from pipeline.formats.tensors import reading
from pipeline.model.checkpoint import finite
from pipeline.model.transformer import Transformer
from pipeline.sites import site_keys

MEANS_FILE = "means.safetensors"


def read_means(folder: Path, model: Transformer) -> dict[str, Tensor] | None:
    """Site key → mean of every node, beside a model, on its device; None where there are none. Raises FormatError."""
    path = folder / MEANS_FILE
    if not path.is_file():
        return None
    with reading(path):
        means = load_file(path)
    means = finite(means, path)
    wrong = set(site_keys(model.config.n_layer)) ^ set(means)
    if wrong:
        raise FormatError(f"{path}: sites do not fit the model: {', '.join(sorted(wrong))}")
    if {key: tuple(mean.shape) for key, mean in means.items()} != {k: (width,) for k, width in model.widths().items()}:
        raise FormatError(f"{path}: sites of other widths than the model's; make them again (sparse-circuits means)")
    return {key: mean.to(model.device) for key, mean in means.items()}


def write_means(means: dict[str, Tensor], folder: Path) -> Path:
    """Write means beside a model, whole or not at all; the file's path."""
    path = folder / MEANS_FILE
    with whole_file(path) as partial:
        save_file({key: mean.cpu().contiguous() for key, mean in means.items()}, partial)
    return path
