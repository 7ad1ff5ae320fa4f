"""Compiled kernels: numba for CPUs, Triton for GPUs; plain torch versions are the oracles of the tests."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def place_for_kernels() -> str | None:
    """A folder for numba's compiled kernels where neither the code's nor the home's can be written: one of this user's
    alone, since numba runs what it finds there. None where numba finds a place, or there is none."""
    if os.access(Path(__file__).parent, os.W_OK):
        return None
    with suppress(OSError, RuntimeError):  # no home
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
        return None
    try:
        place = Path(tempfile.gettempdir()) / f"sparse-circuits-{os.getuid()}"
        place.mkdir(mode=0o700, exist_ok=True)
        mine = place.lstat().st_uid == os.getuid() and place.lstat().st_mode & 0o170077 == 0o40000
        return str(place) if mine else tempfile.mkdtemp()
    except OSError:
        return None


if place := place_for_kernels():
    os.environ.setdefault("NUMBA_CACHE_DIR", place)
