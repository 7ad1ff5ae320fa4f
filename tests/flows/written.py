"""What stages leave of a checkpoint and of its circuits, as far as MLflow is told of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from flows.tracking import Tracker
from pipeline.artifacts import write_json
from pipeline.circuit import Circuit
from pipeline.config import Params

MODEL = "sparse_d256"
TASKS = ("quotes", "brackets", "swaps")  # a circuit, none, and not expressible


def write_checkpoint(folder: Path, model_hash: str) -> dict[str, Any]:
    """models/<name> without the tensors; returns its summary."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = {
        "name": MODEL, "kind": "sparse", "n_layer": 2, "d_model": 128, "n_params": 1000, "l0": 250, "tokens": 4096,
        "l0_by_matrix": {"wte.weight": 200, "lm_head.weight": 50}, "val_loss_nats": 2.5, "train_seconds": 9.0,
        "model_hash": model_hash,
    }  # fmt: skip
    write_json(folder / "summary.json", summary)
    write_json(folder / "config.json", {})
    history = [{"step": step, "train_loss": 4.0 - step, "val_loss": 4.5 - step} for step in (1, 2)]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    return summary


HYPERPARAMETERS = {
    "k_coef": 2e-3, "init_noise_scale": 0.01, "init_noise_bias": 0.1, "weight_decay": 0.001, "lr": 0.02, "beta2": 0.95,
    "warmup": 0.05, "heaviside_temp": 1.0,
}  # fmt: skip
NESTED = {
    "discretised": {"n_nodes": 9, "n_edges": 21, "validation_loss": 0.149},
    "calibration_scale": 1.5,
    "hyperparameters": HYPERPARAMETERS,
    "n_trials": 2,
    "curve": [{"target_loss": 0.5, "n_nodes": 2, "n_edges": 1, "loss": 0.4},
              {"target_loss": 0.015, "n_nodes": None, "n_edges": None, "loss": None}],
    "baselines": {"attribution": {"n_nodes": 12, "n_edges": 44, "validation_loss": 0.148},
                  "random": {"n_nodes": None, "n_edges": None, "validation_loss": None}},
}  # fmt: skip
EMPTY = dict.fromkeys(NESTED) | {"curve": [], "baselines": {}}
TRIALS = [
    {"number": 0, "source": "centre", "state": "complete", "hyperparameters": HYPERPARAMETERS, "n_nodes": 9,
     "n_edges": 21, "validation_loss": 0.149},
    {"number": 1, "source": "optuna", "state": "pruned", "hyperparameters": HYPERPARAMETERS | {"lr": 0.3},
     "n_nodes": None, "n_edges": None, "validation_loss": None},
]  # fmt: skip


def write_circuits(folder: Path, model_hash: str, n_nodes: int) -> None:
    """circuits/<name> of the three tasks; the search of the first left two trials."""
    circuit = Circuit(
        nodes={"0.mlp_neuron": torch.arange(n_nodes)},
        edges={},
        means={"0.mlp_neuron": torch.zeros(8)},
        scores={"0.mlp_neuron": torch.zeros(8)},
        about={"model_hash": model_hash},
    )
    circuit.save(folder / "quotes")
    write_json(folder / "quotes" / "trials.json", TRIALS)
    row = {"expressible": True, "unpruned_loss": 0.1, "solved": True, "n_nodes": n_nodes, "n_edges": 7} | NESTED
    unsolved = row | {"unpruned_loss": 0.6, "solved": False, "n_nodes": None, "n_edges": None} | EMPTY
    rows = dict(zip(TASKS, (row, unsolved, unsolved | {"expressible": False, "unpruned_loss": None}), strict=True))
    write_json(folder / "summary.json", {"model_hash": model_hash, "tasks": rows})


def record_circuits(params: Params, tmp_path: Path, n_nodes: int = 3, model_hash: str = "abc") -> None:
    """What flows.prune tells of a checkpoint and its circuits."""
    write_checkpoint(tmp_path / "model", model_hash)
    write_circuits(tmp_path / "circuits", model_hash, n_nodes)
    with Tracker(params, MODEL) as tracker:
        tracker.log_circuits(tmp_path / "model", tmp_path / "circuits")
