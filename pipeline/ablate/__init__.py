"""Ablation: tests of circuits on pairs they were not made from."""

from pipeline.ablate.ablate import ablate_task

__all__ = ["ablate_task"]
