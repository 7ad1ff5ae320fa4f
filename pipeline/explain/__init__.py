"""The inputs that the nodes of circuits respond to: on prompts, over the pretraining distribution, in a few words."""

from __future__ import annotations

from pipeline.explain.explain import assembled, explain_circuit, explain_nodes
from pipeline.explain.larger_circuits import larger

__all__ = ["assembled", "explain_circuit", "explain_nodes", "larger"]
