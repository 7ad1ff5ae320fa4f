"""Circuits for tools of graphs: GraphML and node-link JSON, with the weights of edges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networkx

from pipeline.artifacts import whole_file
from pipeline.circuit import Circuit
from pipeline.circuit.interventions import edge_weights
from pipeline.model.transformer import Transformer
from pipeline.sites import split_edge_name


def graph_of(circuit: Circuit, model: Transformer | None = None) -> Any:
    """``circuit.to_networkx()``; with the model, edges have their ``weight``. Raises WrongModelError."""
    graph = circuit.to_networkx()
    if model is not None:
        circuit.check_model(model)
        for name in circuit.edge_names:
            key, source, target = split_edge_name(name)
            graph.edges[name.split("->")]["weight"] = float(edge_weights(model, key)[target, source])
    return graph


def write_graphml(circuit: Circuit, path: Path, model: Transformer | None = None) -> None:
    """GraphML, which Gephi, Cytoscape, yEd and igraph read: nodes with layer, site, index; edges with their key."""
    with whole_file(path) as partial:
        networkx.write_graphml(graph_of(circuit, model), partial)


def write_node_link(circuit: Circuit, path: Path, model: Transformer | None = None) -> None:
    """Node-link JSON, which networkx and D3 read."""
    with whole_file(path) as partial:
        described = networkx.node_link_data(graph_of(circuit, model), edges="links")
        partial.write_text(json.dumps(described, ensure_ascii=False, allow_nan=False), encoding="utf-8")
