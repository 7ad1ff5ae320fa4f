"""Ablation: tests of circuits on pairs they were not made from."""

from pipeline.ablate.ablate import WrongModelError, ablate_task, check_belongs

__all__ = ["WrongModelError", "ablate_task", "check_belongs"]
