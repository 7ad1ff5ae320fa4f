"""What the circuits of one model have in common stands in the page once: their nodes over the pretraining text.

A bundle of ``circuit_bundle`` is complete. In the study's page its explanation has only what is the task's own, with
tokens numbered as in the model's table; web/app.js puts the two together again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.bundle import node_names
from pipeline.rows import Explanation


def common_part(explanation: Explanation) -> dict[str, Any]:
    """``tokens`` and ``nodes`` of a model's explanation."""
    return {"tokens": explanation["tokens"], "nodes": explanation["nodes"]}


def own_part(bundle: Mapping[str, Any], explanation: Explanation | None) -> dict[str, Any]:
    """A bundle made without explanation, with what the model's explanation says of its task alone."""
    found = explanation["circuits"].get(bundle["task"]) if explanation else None
    if found is None:
        return dict(bundle)
    nodes = [found["nodes"].get(name) for name in node_names(bundle["drawing"])]
    own = {key: found.get(key) for key in ("prompts", "heads", "model_loss")}
    return dict(bundle) | {"explanation": {"nodes": nodes, **own}}
