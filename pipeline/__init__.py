"""Sparse circuits: train weight-sparse transformers, cut out circuits, prove them. Knows nothing of Prefect or DVC.

From Python: ``from pipeline import Circuit, load_model, load_task, prune, validate, draw`` (docs/python.md).
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline import prune, validate
    from pipeline.face import Circuit, draw, load_model, load_task

__all__ = ["Circuit", "draw", "load_model", "load_task", "prune", "validate"]

# torch's OpenMP threads spin for milliseconds after each operation, on the very cores that the compiled kernels'
# threads then need. It reads this when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def __getattr__(name: str) -> Any:
    """The face, imported when it is first asked for: that takes seconds, which stages need not spend."""
    if name not in __all__:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    face = importlib.import_module("pipeline.face")
    if name in ("prune", "validate"):  # packages that are functions, too
        return importlib.import_module(f"pipeline.{name}")
    return getattr(face, name)
