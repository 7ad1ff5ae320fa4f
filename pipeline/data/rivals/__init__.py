"""Second test sets of a task, on which rival algorithms come apart: its pairs in other surroundings, and real code."""

from __future__ import annotations

from pipeline.data.rivals.make import make_rivals
from pipeline.data.rivals.rivalset import NATURAL, RivalSet

__all__ = ["NATURAL", "RivalSet", "make_rivals"]
