"""Sparse circuits: train weight-sparse transformers, cut out circuits, prove them. Knows nothing of Prefect or DVC.

From Python: ``from pipeline import Circuit, load_model, load_task, prune, validate, draw`` (docs/python.md).
"""

import importlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline import prune, validate
    from pipeline.face import Circuit, draw, load_model, load_task

__all__ = ["Circuit", "draw", "load_model", "load_task", "prune", "validate"]

# torch's OpenMP threads spin for milliseconds after each operation, on the very cores that the compiled kernels'
# threads then need. It reads this when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _place_for_kernels() -> str | None:
    """A folder for numba's compiled kernels where neither the code's nor the home's can be written: one of this user's
    alone, since numba runs what it finds there. None where numba finds a place, or there is none."""
    if os.access(Path(__file__).parent / "kernels", os.W_OK):
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


if place := _place_for_kernels():
    os.environ.setdefault("NUMBA_CACHE_DIR", place)


def __getattr__(name: str) -> Any:
    """The face, imported when it is first asked for: that takes seconds, which stages need not spend."""
    if name not in __all__:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    face = importlib.import_module("pipeline.face")
    if name in ("prune", "validate"):  # packages that are functions, too
        return importlib.import_module(f"pipeline.{name}")
    return getattr(face, name)
