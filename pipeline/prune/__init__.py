"""Pruning: from a model that does a task to the smallest circuit that still does it."""

from pipeline.prune.prune import Pruned, prune_task

__all__ = ["Pruned", "prune_task"]
