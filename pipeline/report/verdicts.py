"""Is a circuit sufficient, is it necessary: the one verdict that summary and page give.

The verdict is validate's wherever a circuit was validated. All other circuits, and empty ones, in which validate has
nothing to test, get theirs from ablate's losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config import Ablation
from pipeline.report.validation import lines_of
from pipeline.rows import TaskSummary

PARTS = ("nodes", "edges")


@dataclass(frozen=True)
class CircuitTarget:
    """The loss that every circuit of the study was made for, and under which ablation."""

    target_loss: float  # nats, on validation pairs
    margin: float  # nats that the loss on test pairs may be above it
    ablation: Ablation


def verdict(task: TaskSummary, target: CircuitTarget) -> dict[str, Any]:
    """``sufficient``, ``necessary_nodes`` and ``necessary_edges``, each with ``passed`` (None: not tested) and
    ``says``, a sentence; ``by``: the stage that gives the verdict, None where no stage measured the circuit."""
    lines = {line["name"]: line for line in lines_of(task["validation"])}
    if not lines:
        return by_ablate(task, target)
    names = {"sufficient": f"sufficient_{target.ablation.as_tested}"}
    names |= {f"necessary_{parts}": f"necessary_{parts}" for parts in PARTS}
    said = {name: found(line["passed"], line["says"]) for name, line in lines.items()}
    return {"by": "validate"} | {what: said.get(name, found()) for what, name in names.items()}


def found(passed: bool | None = None, says: str = "not tested") -> dict[str, Any]:
    return {"passed": passed, "says": says}


def by_ablate(task: TaskSummary, target: CircuitTarget) -> dict[str, Any]:
    """The verdict from ablate's losses on all test pairs.

    Sufficient: the circuit's loss is at most the target and the margin. Necessary: ablating it costs more than ablating
    any of the random sets of its size; the interval's lower end counts.
    """
    loss = task["circuit_loss"]
    most = target.target_loss + target.margin
    alone = found() if loss is None else found(loss <= most, f"loss {loss:.3f} nats alone")
    return {
        "by": None if loss is None else "ablate",
        "sufficient": alone,
        **{f"necessary_{parts}": beyond_random(task, parts) for parts in PARTS},
    }


def beyond_random(task: Mapping[str, Any], parts: str) -> dict[str, Any]:
    """Whether the model loses more without the circuit's nodes or edges than without any random ones."""
    interval, control = task[f"ablated_{parts}_loss_interval"], task[f"random_{parts}_loss_range"]
    if not task[f"n_{parts}"]:
        return found(None, f"no {parts} to remove")
    if interval is None or control is None:
        return found()
    says = f"loss at least {interval[0]:.3f} nats without its {parts}, at most {control[1]:.3f} without random ones"
    return found(interval[0] > control[1], says)
