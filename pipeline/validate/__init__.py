"""Validation: a battery of tests that tries to refute a circuit, and says how far it got (§6).

The package is the face's function, too: ``from pipeline import validate``, then ``validate(model, circuit)``.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.rows import ValidationRow
from pipeline.validate.checkpoint import validate_checkpoint, windows_of
from pipeline.validate.circuit_under_test import CircuitUnderTest
from pipeline.validate.features import residual_kurtosis
from pipeline.validate.validate import validate_circuit

__all__ = ["CircuitUnderTest", "residual_kurtosis", "validate_checkpoint", "validate_circuit", "windows_of"]


class _Package(ModuleType):
    def __call__(self, model: Any, circuit: Any, *, task: Path | str | None = None, **settings: Any) -> ValidationRow:
        """Every attempt to refute a circuit, by section, and the ``verdict``.

        ``model``: a ``LoadedModel`` or its folder; ``circuit``: a ``Circuit`` or its folder; the rest as
        ``pipeline.validate.checkpoint.validate_checkpoint``'s, such as ``controls=False``. Raises as it does.
        """
        return validate_checkpoint(getattr(model, "folder", model), circuit, task=task, **settings)


sys.modules[__name__].__class__ = _Package
