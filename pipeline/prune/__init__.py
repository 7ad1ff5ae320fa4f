"""Pruning: from a model that does a task to the smallest circuit that still does it."""

from pipeline.prune.prune import Pruned, empty_row, prune_task

__all__ = ["Pruned", "empty_row", "prune_task"]
