"""Weights out of files of other projects: read without running code, and checked by name and shape.

PyTorch's files are read with ``weights_only``, which refuses any pickle that would call a function.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.artifacts import existing, memory_ended, write_json
from pipeline.formats.errors import FormatError, read_json, refuse

SHARD_BYTES = 2 << 30  # the most that one file of a sharded folder holds
SHOWN = 4  # names in one line of an error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what readers of weights raise for damaged and dangerous files into a FormatError of one line."""
    if path.is_file():
        existing(path)  # and may be read
    try:
        yield
    except pickle.UnpicklingError as error:
        raise FormatError(
            f"{path}: holds more than tensors and plain values, or is no file of torch.save; it was not loaded, since "
            "loading it would run code from it; save a plain state dict"
        ) from error
    except PermissionError as error:
        raise FormatError(f"{path}: cannot be read ({_first_sentence(error)})") from error
    except Exception as error:  # a damaged file can make them raise anything
        if memory_ended(error, path):
            raise
        raise FormatError(f"{path}: damaged or not a file of weights ({_first_sentence(error)})") from error


def _first_sentence(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line.split(". ")[0][:200]


def load_pt(path: Path) -> Any:
    """The value in a file of torch.save, on the CPU. Raises FormatError for a file that is missing, damaged or holds
    code."""
    if not path.is_file():
        raise FormatError(f"{path}: no such file")
    with reading(path):
        return torch.load(path, map_location="cpu", weights_only=True)


def read_weights(folder: Path, stems: Collection[str]) -> tuple[dict[str, Tensor], list[Path]]:
    """Name → tensor of the first weights file that a folder has, and the files that they came from.

    ``stems``: ``final_model``, ``model``, ``pytorch_model``: tried as .safetensors, .pt and .bin, whole or as shards
    that ``<file>.index.json`` lists. Raises FormatError where there is none, or part of them is missing.
    """
    names = [f"{stem}{suffix}" for stem in stems for suffix in (".safetensors", ".pt", ".bin")]
    for name in names:
        if (folder / name).is_file():
            return _tensors(folder / name), [folder / name]
        if (folder / f"{name}.index.json").is_file():
            return _sharded(folder, f"{name}.index.json")
    raise FormatError(f"{folder}: has no weights; allowed: one of {', '.join(names)}, or shards with an index")


def _sharded(folder: Path, index: str) -> tuple[dict[str, Tensor], list[Path]]:
    listed = read_json(folder / index)
    places = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise FormatError(f"{folder / index}: no index of shards; it lacks weight_map")
    paths = [folder / Path(name).name for name in sorted(set(places.values()))]
    refuse(folder, (f"{path.name}: no such file" for path in paths if not path.is_file()), f"{index} lists it")
    found: dict[str, Tensor] = {}
    for path in paths:
        found |= _tensors(path)
    refuse(folder, (f"{name}: in no shard" for name in sorted(set(places) - set(found))), f"{index} lists it")
    return found, [folder / index, *paths]


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        with reading(path):
            return load_file(path)
    found = load_pt(path)
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise FormatError(f"{path}: not a plain state dict; allowed: name → tensor, as torch.save(model.state_dict())")
    return {str(name): value for name, value in found.items()}


def fitted(
    found: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], place: Path, optional: Collection[str] = ()
) -> dict[str, Tensor]:
    """The wanted tensors in float32. Raises FormatError that names all that are missing, extra, of another shape, or
    no finite numbers; those that are ``optional`` may be missing."""
    missing = [name for name in wanted if name not in found and name not in optional]
    extra = [name for name in found if name not in wanted]
    shapes = {name: tuple(found[name].shape) for name in wanted if name in found}
    wrong = [
        f"{name} {list(shape)}, not {list(wanted[name])}" for name, shape in shapes.items() if shape != wanted[name]
    ]
    reasons = [
        f"{what} {_some(names)}"
        for what, names in (
            ("lacks", [f"{name} {list(wanted[name])}" for name in missing]),
            ("has unknown", [f"{name} {list(found[name].shape)}" for name in extra]),
            ("has a wrong shape of", wrong),
        )
        if names
    ]
    refuse(place, reasons, "its config describes other tensors")
    tensors = {name: found[name] for name in wanted if name in found}
    refuse(place, (f"{name} is of {t.dtype}" for name, t in tensors.items() if not t.is_floating_point()), "not floats")
    tensors = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    refuse(place, (f"{name} has NaN" for name, t in tensors.items() if t.isnan().any()), "no model has such weights")
    return tensors


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def write_shards(tensors: Mapping[str, Tensor], folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """``model.safetensors``, or where that would be larger than a shard, numbered shards and their index."""
    shards: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and _size(shards[-1].values()) + _size([tensor]) > shard_bytes:
            shards.append({})
        shards[-1][name] = tensor.contiguous()
    if len(shards) == 1:
        return save_file(shards[0], folder / "model.safetensors", metadata={"format": "pt"})
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        places |= {key: name for key in shard}
    index = {"metadata": {"total_size": _size(tensors.values())}, "weight_map": places}
    return write_json(folder / "model.safetensors.index.json", index)


def _size(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
