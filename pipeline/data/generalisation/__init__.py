"""Generalisation sets of a task, on which other algorithms fail: its pairs in other surroundings, and real code."""

from __future__ import annotations

from pipeline.data.generalisation.generalisation_set import NATURAL, GeneralisationSet
from pipeline.data.generalisation.make import make_generalisation_sets

__all__ = ["NATURAL", "GeneralisationSet", "make_generalisation_sets"]
