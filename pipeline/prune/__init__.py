"""Pruning: from a model that does a task to the smallest circuit that still does it.

The package is the face's function, too: ``from pipeline import prune``, then ``prune(model, task)``.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.prune.prune import Pruned, empty_row, prune_task

__all__ = ["Pruned", "empty_row", "prune_task"]


class _Package(ModuleType):
    def __call__(self, model: Any, task: Path | str, **settings: Any) -> Pruned:
        """The smallest circuit of a model for a task: ``.circuit``, and ``.row`` with its sizes and losses in nats.

        ``model``: a ``LoadedModel`` or its folder; the rest as ``pipeline.prune.checkpoint.prune_checkpoint``'s, such
        as ``target_loss=0.15``, ``budget=16``, ``out="folder"``. Raises as it does.
        """
        from pipeline.prune.checkpoint import prune_checkpoint

        return prune_checkpoint(getattr(model, "folder", model), task, **settings)


sys.modules[__name__].__class__ = _Package
