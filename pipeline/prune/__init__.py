"""Pruning: from a model that does a task to the smallest circuit that still does it (docs/pruning.md).

Phase 1: gate. The unpruned model has to meet the target loss on validation pairs. (prune.py)

Phase 2: search. A τ for every node is learned, with a sigmoid's gradient through a Heaviside step (App. A.5), by the
hyperparameters of the study's centres; where none gives a circuit of few enough edges, by gentler ones with a smaller
``k_coef``; then, with a budget, by Optuna's proposals, hopeless ones stopped early. Every trial that ends scores all
nodes. (tune.py, search.py)

Phase 3: discretise. Bisection finds the fewest nodes of highest score that meet the target; every circuit is calibrated
and evaluated by the compact executor. (discretise.py, evaluator.py)

Phase 4: edges. While the circuit has too many edges to try each, a τ for every edge is learned, and the edges are
discretised as in Phase 3. (edge_search.py)

Phase 5: removal path. From the circuit of a stricter target, dead ends, nodes and edges are removed, the cheapest first
in nats an edge, under a limit that rises by half at a time. The loss-size curve is read off this path, and off the
rankings before it where they give smaller circuits. (minimise.py)

Phase 6: 1-minimal. Single nodes and edges are removed from the main target's circuit until no removal meets the target;
the losses after each are the certificate. (minimise.py)

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
