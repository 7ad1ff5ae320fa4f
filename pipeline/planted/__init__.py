"""Planted circuits: models whose circuit is known, to test methods that look for circuits.

``plant(Algorithm.QUOTE, d_model=64, seed=0)`` is a transformer that does one task by weights written by hand, at random
places among random distractors. Pruning it has to find ``.nodes`` and ``.edges``, all of them and no others.
"""

from pipeline.planted.planted import Algorithm, Planted, plant

__all__ = ["Algorithm", "Planted", "plant"]
