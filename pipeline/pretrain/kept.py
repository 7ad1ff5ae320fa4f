"""Resumable checkpoints of a training: written whole, the last two kept, verified when they are read."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.artifacts import memory_ended, whole_file

NAME = "checkpoint.pt"
MAX_SHARE = 0.02  # of a training's time, that checkpoints may take beyond those of pretrain.checkpoint_every
MIN_SECONDS = 1.0  # between two of these


class Kept:
    """The resumable checkpoints of one training: at ``path`` the last, beside it the one before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before = path.with_name(f"before-{path.name}")
        self._written, self._cost = time.monotonic(), 0.0  # seconds that the last one took

    def is_due(self) -> bool:
        """Whether the last one is so old that another is worth its time: the less it takes, the more of them."""
        return time.monotonic() - self._written >= max(MIN_SECONDS, self._cost / MAX_SHARE)

    def write(self, state: dict[str, Any]) -> None:
        """Keep a state. Raises OSError where the disk takes none; then the last ones stay."""
        began = time.monotonic()
        with whole_file(self.path) as partial:
            try:
                torch.save({"state": state, "digest": _digest(state)}, partial)
            except RuntimeError as error:  # torch's own words for a disk that takes no more
                raise OSError(
                    f"{self.path}: cannot be written ({_first_line(error)}); is the disk full? Make room there, then "
                    "give the command again, which goes on from the checkpoint before"
                ) from error
            if self.path.is_file():
                self.path.replace(self.before)
        self._written = time.monotonic()
        self._cost = self._written - began

    def last_whole(self, device: torch.device) -> dict[str, Any] | None:
        """The last one that is whole, on a device; None where there is none.

        One that a crash of the machine left empty, cut or filled with zeros is passed over, with a warning.
        """
        for path in (self.path, self.before):
            if not path.is_file():
                continue
            try:
                saved = torch.load(path, map_location=device, weights_only=True)
                if saved["digest"] != _digest(saved["state"]):
                    raise ValueError("other bits than were written")
                state: dict[str, Any] = saved["state"]
                return state
            except Exception as error:  # a damaged file can make torch raise anything
                if isinstance(error, PermissionError) or memory_ended(error, path):  # of a file that can be whole
                    raise
                why = _first_line(error) or type(error).__name__
                print(f"warning: {path} is damaged ({why}); training goes on from an earlier step", file=sys.stderr)
        return None

    def forget(self) -> None:
        """Delete both, of a training that has ended."""
        for path in (self.path, self.before):
            path.unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def _digest(value: Any) -> str:
    """The identity of the tensors and numbers in a state."""
    digest = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, Tensor):
            digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
            digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        elif isinstance(part, dict):
            for key in part:
                digest.update(repr(key).encode())
                add(part[key])
        elif isinstance(part, list | tuple):
            for one in part:
                add(one)
        else:
            digest.update(repr(part).encode())

    add(value)
    return digest.hexdigest()
