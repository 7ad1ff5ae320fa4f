"""Nodes, edges, tokens and numbers that do not exist are refused by name, and the same by both executors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.artifacts import ArtifactError
from pipeline.circuit import Circuit
from pipeline.circuit.parts import PartError
from pipeline.formats.stored_means import read_means
from pipeline.model.checkpoint import load_means, load_model, save_means, save_model

TOKENS = torch.tensor([[1, 2, 3]])


def circuit_of(model: Any, nodes: dict[str, list[int]], edges: dict[str, list[list[int]]]) -> Circuit:
    means = {key: torch.zeros(width) for key, width in model.widths().items()}
    return Circuit(
        nodes={key: torch.tensor(indices) for key, indices in nodes.items()},
        edges={key: torch.tensor(pairs) for key, pairs in edges.items()},
        means=means,
        scores={key: torch.zeros(width) for key, width in model.widths().items()},
        about={"task": "t", "model": "m"},
    )


NODES = {"0.mlp_in": [0, 1], "0.mlp_neuron": [2]}
EDGES = {"0.mlp_in->mlp_neuron": [[0, 2]]}


@pytest.fixture
def saved(tmp_path: Path, tiny_model) -> Path:
    circuit_of(tiny_model(), NODES, EDGES).save(tmp_path / "circuit")
    return tmp_path / "circuit"


def rewritten(folder: Path, **changes: Any) -> Path:
    path = folder / "circuit.json"
    described = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in described.items() if value is not ...}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("token", [24, 50256, -1])
def test_a_token_outside_the_vocabulary_is_the_same_error_of_both_executors(tiny_model, token: int) -> None:
    model = tiny_model()
    circuit = circuit_of(model, NODES, EDGES)
    said = []
    for executor in (circuit(model), circuit.compact(model)):
        with pytest.raises(IndexError, match=f"token {token} is outside the vocabulary; allowed: 0 to 23") as error:
            executor(torch.tensor([[1, token]]))
        said.append(str(error.value))
    assert said[0] == said[1]
    assert torch.allclose(circuit(model)(TOKENS), circuit.compact(model)(TOKENS), atol=1e-4)


@pytest.mark.parametrize(
    ("nodes", "edges", "said"),
    [
        ({"0.mlp_in": [0, 99], "0.mlp_neuron": [2]}, {}, "0.mlp_in.99 is no node"),
        ({"0.mlp_in": [-1]}, {}, "0.mlp_in.-1 is no node"),
        ({"7.mlp_in": [0]}, {}, "7.mlp_in is no site"),
        ({"0.mlp_in": [0]}, EDGES, "0.mlp_neuron.2 is no node of the circuit"),
        ({"0.mlp_neuron": [2]}, EDGES, "0.mlp_in.0 is no node of the circuit"),
    ],
)
def test_a_part_that_does_not_exist_is_refused_by_both_executors(tiny_model, nodes, edges, said: str) -> None:
    model = tiny_model()
    circuit = circuit_of(model, nodes, edges)
    for run in (lambda: circuit(model), lambda: circuit.compact(model)):
        with pytest.raises(PartError, match=said):
            run()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nodes": ...}, "circuit.json: no nodes"),
        ({"edges": ...}, "circuit.json: no edges"),
        ({"calibration": {"scale": 1.0}}, "circuit.json: no shift"),
        ({"nodes": {"0.mlp_in": [0], "0.mlp_neuron": []}}, "0.mlp_neuron.2 is no node of the circuit"),
        ({"nodes": {"0.mlp_in": ["x"]}}, "circuit.json: damaged"),
        ({"nodes": 3}, "circuit.json: damaged"),
        ({"edges": {"0.mlp_in->wte": [[0, 1]]}}, "circuit.json: damaged"),
        ({"ablations": ["unheard of"]}, "circuit.json: damaged"),
        ({"n_nodes": 4}, "circuit.json: damaged .n_nodes is 4, but it has 3"),
        ({"n_edges": 0}, "circuit.json: damaged .n_edges is 0, but it has 1"),
        ({"edges": {"0.mlp_in->mlp_neuron": [[0, 2], [0, 2]]}}, "not pairs of nodes, each once"),
        ({"edges": {"0.mlp_in->mlp_neuron": [[0, 2, 0, 2]]}}, "not pairs of nodes, each once"),
    ],
)
def test_a_description_that_is_none_is_refused_by_file(saved: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ArtifactError, match=said):
        Circuit.load(rewritten(saved, **changes))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_by_file_and_tensor(
    saved: Path, tmp_path: Path, tiny_model, value: float
) -> None:
    model = tiny_model()
    save_model(model, tmp_path, {})
    save_means({key: torch.zeros(width) for key, width in model.widths().items()}, tmp_path)
    for path, read in (
        (saved / "circuit.safetensors", lambda: Circuit.load(saved)),
        (tmp_path / "means.safetensors", lambda: load_means(tmp_path)),
        (tmp_path / "model.safetensors", lambda: load_model(tmp_path)),
    ):
        tensors = load_file(path)
        name = sorted(tensors)[0]
        tensors[name].view(-1)[0] = value
        save_file(tensors, path)
        with pytest.raises(ArtifactError, match=f"{path.name}: {name} is not finite"):
            read()


@pytest.mark.parametrize("name", ["mean.0.attn_in", "score.0.attn_in"])
@pytest.mark.parametrize("shaped", [lambda v: v[:, None], lambda v: v[None], lambda v: v[:-1], lambda v: v.sum()])
def test_values_of_another_shape_are_refused(saved: Path, name: str, shaped: Any) -> None:
    path = saved / "circuit.safetensors"
    tensors = load_file(path)
    save_file(tensors | {name: shaped(tensors[name]).contiguous()}, path)
    with pytest.raises(ArtifactError, match="circuit.json: damaged"):
        Circuit.load(saved)


@pytest.mark.parametrize("shaped", [lambda v: v[:, None], lambda v: v[None], lambda v: v[:-1], lambda v: v.sum()])
def test_means_of_another_shape_are_refused_by_both_readers(tmp_path: Path, tiny_model, shaped: Any) -> None:
    model = tiny_model()
    save_model(model, tmp_path, {})
    means = {key: torch.ones(width) for key, width in model.widths().items()}
    save_means(means | {"0.attn_in": shaped(means["0.attn_in"])}, tmp_path)
    for read in (load_means, lambda folder: read_means(folder, model)):
        with pytest.raises(ArtifactError, match="means.safetensors"):
            read(tmp_path)


def test_numbers_of_another_kind_are_refused_and_other_floats_become_float32(tmp_path: Path, tiny_model) -> None:
    model = tiny_model()
    save_model(model, tmp_path, {})
    means = {key: torch.ones(width) for key, width in model.widths().items()}
    for kind in (torch.bfloat16, torch.float16, torch.float64):
        save_means({key: mean.to(kind) for key, mean in means.items()}, tmp_path)
        for found in (load_means(str(tmp_path)), read_means(tmp_path, model)):
            assert all(mean.dtype == torch.float32 for mean in found.values())
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({name: tensor.to(torch.int8) for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match="is of torch.int8; allowed: floating-point numbers"):
        load_model(str(tmp_path))


def test_a_config_without_its_keys_is_refused_by_file(tmp_path: Path, tiny_model) -> None:
    model = tiny_model()
    save_model(model, tmp_path, {})
    save_means({key: torch.ones(width) for key, width in model.widths().items()}, tmp_path)
    for text in ("{}", "[]", '{"format": 2}', '{"format": 2, "model": {}}', '{"format": 2, "model": 3}'):
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        for read in (load_model, load_means):
            with pytest.raises(ArtifactError, match="config.json|checkpoint"):
                read(tmp_path)


def test_a_circuit_without_parts_is_one(tiny_model, tmp_path: Path) -> None:
    model = tiny_model()
    empty = replace(circuit_of(model, {}, {}), folder=None)
    empty.save(tmp_path / "empty")
    assert Circuit.load(tmp_path / "empty").n_nodes == 0
    empty(model)(TOKENS)
