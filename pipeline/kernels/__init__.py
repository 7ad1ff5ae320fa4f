"""Compiled kernels: numba for CPUs, Triton for GPUs; plain torch versions are the oracles of the tests.

Numba keeps what it compiled beside the code or in the user's home. Where neither may be written to (another user's
checkout and no home), it would refuse; it then keeps it for this process and those that it starts.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path


def writable(place: Path) -> bool:
    """Whether a folder can be written to, or made."""
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    return os.access(there, os.W_OK)


def keep_compiled_code() -> None:
    """Name a place for numba's cache, of this process' own, where it would find none. It reads pickles from there, so
    that nobody else may have written them."""
    beside, home = Path(__file__).parent / "__pycache__", Path("~").expanduser() / ".cache"
    if "NUMBA_CACHE_DIR" in os.environ or writable(beside) or writable(home):
        return
    os.environ["NUMBA_CACHE_DIR"] = place = tempfile.mkdtemp(prefix="numba-")
    owner = os.getpid()
    atexit.register(lambda: shutil.rmtree(place, ignore_errors=True) if os.getpid() == owner else None)


keep_compiled_code()
