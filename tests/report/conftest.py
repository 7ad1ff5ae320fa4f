"""A small invented study on disk: the artifacts of pretrain, prune and ablate, as those stages write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.artifacts import Workspace, read_json, write_json
from pipeline.circuit import Circuit
from pipeline.data.pairs import PairBatch
from pipeline.model.checkpoint import model_hash, save_model
from pipeline.model.transformer import Transformer
from pipeline.report.inputs import ModelArtifacts
from pipeline.sites import edge_keys, site_keys, split_edge_key
from tests.report.make_fixture import FOLDER, MODELS


@dataclass(frozen=True)
class Side:
    prompt: str
    answer: str


@dataclass(frozen=True)
class Pair:
    a: Side
    b: Side


FIXTURE = {kind: read_json(FOLDER / f"{kind}.json") for kind in MODELS}  # kind → the rows of a model of a smoke study
TEXTS = [f"t{token}" for token in range(24)]  # of the tiny models' tokens


class FakeTasks:
    """Two prompts per task, always with answers 1 and 2."""

    def batch(self, name: str, split: str) -> PairBatch:
        return PairBatch(torch.zeros(2, 3, dtype=torch.long), torch.tensor([2, 2]), torch.tensor([[1, 2], [2, 1]]))

    def examples(self, name: str, n: int) -> list[Pair]:
        return [Pair(Side('print("red & <blue>', '")\n'), Side("print('red & <blue>", "')\n"))] * n


def random_circuit(model: Transformer, share: float, seed: int) -> Circuit:
    """A circuit of a random ``share`` of each site's nodes, with every nonzero weight between them as an edge."""
    generator = torch.Generator().manual_seed(seed)
    width = {"mlp_neuron": model.config.d_mlp}
    widths = {key: width.get(key.split(".")[1], model.config.d_model) for key in site_keys(model.config.n_layer)}
    kept = {key: torch.rand(size, generator=generator) < share for key, size in widths.items()}
    edges = {}
    for key in edge_keys(model.config.n_layer):
        layer, kind = split_edge_key(key)
        matrix = model.state_dict()[f"transformer.h.{layer}.{kind.weight}.weight"]
        matrix = matrix[kind.rows(len(matrix))] != 0
        sources, targets = kept[f"{layer}.{kind.source.value}"], kept[f"{layer}.{kind.target.value}"]
        found = (matrix & targets[:, None] & sources[None]).T.nonzero()
        edges |= {key: found} if len(found) else {}
    nodes = {key: mask.nonzero().flatten() for key, mask in kept.items() if mask.any()}
    values = {key: torch.zeros(size) for key, size in widths.items()}
    return Circuit(nodes, edges, means=values, order={key: value + 1 for key, value in values.items()})


HYPERPARAMETERS = {
    "k_coef": 2e-3, "init_noise_scale": 0.01, "init_noise_bias": 0.1, "weight_decay": 0.001, "lr": 0.02, "beta2": 0.95,
    "warmup": 0.05, "heaviside_temp": 1.0,
}  # fmt: skip


def before_minimisation(circuit: Circuit) -> dict[str, Any]:
    """What a task's entry says of sizes before minimisation: 3 times the edges; baselines 6, no and 30 times."""
    nothing = {"n_nodes": None, "n_edges": None, "validation_loss": None}

    def sized(factor: int) -> dict[str, Any]:
        return {"n_nodes": factor * circuit.n_nodes, "n_edges": factor * circuit.n_edges, "validation_loss": 0.14}

    return {
        "discretised": sized(3),
        "calibration_scale": 1.75,
        "hyperparameters": HYPERPARAMETERS,
        "n_trials": 2,
        "one_minimal": True,
        "baselines": {"attribution": sized(6), "integrated_gradients": nothing, "random": sized(30)},
    }


def task_entry(circuit: Circuit | None, unpruned_loss: float | None, seconds: float = 1.0) -> dict[str, Any]:
    """One task of circuits/<name>/summary.json; ``unpruned_loss`` None: not expressible."""
    expressible = unpruned_loss is not None
    found = circuit is not None
    curve = [
        {"target_loss": loss, "n_nodes": circuit.n_nodes, "n_edges": max(int(circuit.n_edges * share), 1), "loss": loss}
        for loss, share in ((0.5, 0.4), (0.25, 0.7), (0.15, 1.0), (0.06, 1.5))
    ] if found else []  # fmt: skip
    entry = {
        "expressible": expressible,
        "reason": None if expressible else "answer ')\\n' is two tokens",
        "unpruned_loss": unpruned_loss,
        "unpruned_validation_loss": unpruned_loss,
        "solved": found if expressible else None,
        "n_nodes": circuit.n_nodes if found else None,
        "n_edges": circuit.n_edges if found else None,
        "validation_loss": 0.14 if found else None,
        "discretised": None,
        "calibration_scale": None,
        "hyperparameters": None,
        "n_trials": None,
        "one_minimal": None,
        "curve": curve,
        "baselines": {},
        "seconds": seconds,
    }
    return entry | (before_minimisation(circuit) if circuit is not None else {})


def ablation_entry(unpruned_loss: float) -> dict[str, Any]:
    """One task of ablations/<name>.json: a circuit that is sufficient, not by its nodes only, and necessary."""
    entry: dict[str, Any] = {"unpruned_accuracy": 1.0, "circuit_accuracy": 0.95, "nodes_only_accuracy": 0.9}
    entry |= {"circuit_loss_uncalibrated": 0.33, "nodes_only_loss_uncalibrated": 0.44}
    losses = {"unpruned": unpruned_loss, "circuit": 0.14, "nodes_only": 0.2, "ablated_nodes": 2.5, "ablated_edges": 1.5}
    for name, loss in losses.items():
        entry |= {f"{name}_loss": loss, f"{name}_loss_interval": [loss * 0.9, loss * 1.1]}
    for name, low in (("circuit", 0.7), ("nodes_only", 0.8), ("nodes", 0.05), ("edges", 0.04)):
        entry |= {f"random_{name}_losses": [low, low + 0.1, low + 0.3]}
    return entry


def necessity_section() -> dict[str, Any]:
    """Curves of a circuit of four nodes and no edges: loss 0.1 before, 0.5 without two, 0.9 without all."""

    def point(size: int, loss: float) -> dict[str, Any]:
        random = {"size": size, "median": 0.2, "low": 0.1, "high": 0.3, "losses": [0.1, 0.2, 0.3]}
        return {"size": size, "loss": {"mean": loss, "interval": [0.9 * loss, 1.1 * loss], "n": 32}, "random": random}

    points = [point(2, 0.5), point(4, 0.9), point(8, 2.0)]
    return {
        "n_pairs": 32,
        "limit": 0.683,
        "model_loss": {"mean": 0.1, "interval": [0.09, 0.11], "n": 32},
        "nodes": {"n": 4, "curve": points, "n_to_chance": 4},
        "edges": {"n": 0, "curve": [], "n_to_chance": None},
        "tests": [],
    }


def families(passed: bool) -> dict[str, Any]:
    """The second test set, on which the model's loss is 0.125, and the circuit's 0.25 or 0.75."""
    rows = {"model": 0.125, "circuit": 0.25 if passed else 0.75}
    return {"names": {name: {"mean": loss, "interval": [0.1, 0.9], "n": 64} for name, loss in rows.items()}}


def validation_entry(passed: bool) -> dict[str, Any]:
    """One task of validations/<name>.json: tests, some with an outcome to choose, and the controls."""

    def test(name: str, outcome: bool | None) -> dict[str, Any]:
        return {"name": name, "passed": outcome, "value": 0.5, "limit": 0.4, "says": f"{name} said <so>"}

    estimate = {"mean": 0.9, "interval": [0.8, 1.0], "n": 32}
    control = {"met": True, "n_nodes": 3, "n_edges": 40, "validation_loss": 0.14, "test_loss": 0.2, "ratio_edges": 1.0}
    nothing = control | {"met": False, "validation_loss": 0.6, "ratio_edges": None}
    failed = [] if passed else ["sufficient_zero", "necessary_nodes", "generalises_names"]
    return {
        "complement": {
            "mean": {"loss": estimate | {"mean": 0.125}, "faithfulness": estimate},
            "zero": {"loss": estimate | {"mean": 0.5 if passed else 1.5}, "faithfulness": estimate},
            "tests": [test("sufficient_mean", True), test("sufficient_zero", passed)],
        },
        "necessity": necessity_section() | {"tests": [test("necessary_nodes", passed)]},
        "generalisation": {"families": families(passed), "tests": [test("generalises_names", passed)]},
        "faithfulness": {
            "cpr": 0.75, "cpr_interval": [0.7, 0.8], "cmd": 0.25, "cmd_interval": [0.2, 0.3],
            "circuit": {"k": 0.01, "m": 1.5, "f": 0.875, "interval": [0.85, 0.95]},
        },
        "features": {"binarised": estimate, "single": {"of_each": [{"node": str(i)} for i in range(99)]}, "tests": []},
        "stability": {"jaccard_edges": {"median": 0.4, "least": 0.3, "most": 0.5}, "tests": [test("stable", None)]},
        "controls": {"true": control, "nonsense": nothing, "tests": [test("control_nonsense", True)]},
        "verdict": {
            "n_passed": 5 - len(failed), "n_failed": len(failed), "passed": [], "failed": failed,
            "measured": ["stable"], "not_tested": [],
            "line": f"passes {5 - len(failed)} of 5",
        },
        "seconds": {"complement": 1.0},
    }  # fmt: skip


@pytest.fixture(autouse=True)
def no_chart_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page without Vega in it, whose bundling takes seconds; the browser's tests have it."""
    monkeypatch.setattr("pipeline.report.page.chart_library", lambda: "")


@pytest.fixture
def task_source() -> FakeTasks:
    return FakeTasks()


@pytest.fixture
def make_circuit() -> Callable[[Transformer, float, int], Circuit]:
    """(model, share of nodes kept, seed) → circuit."""
    return random_circuit


MakeModel = Callable[..., ModelArtifacts]


@pytest.fixture
def make_model(tmp_path: Path, tiny_model: Callable[..., Transformer]) -> MakeModel:
    """Writes all artifacts of one model into ``tmp_path``; tasks: name → (unpruned loss, share of nodes kept)."""

    def make(
        name: str, kind: str, val_loss: float, tasks: dict[str, tuple[float | None, float | None]], **changes: Any
    ) -> ModelArtifacts:
        return write_model(tmp_path, tiny_model(**changes), name, kind, val_loss, tasks)

    return make


def write_model(
    folder: Path,
    model: Transformer,
    name: str,
    kind: str,
    val_loss: float,
    tasks: dict[str, tuple[float | None, float | None]],
) -> ModelArtifacts:
    """What the stages would leave of one model, written into ``folder``."""
    files = ModelArtifacts.of(Workspace(folder), name)
    files.model.mkdir(parents=True)
    save_model(model, files.model, {})
    identity = model_hash(files.model)
    write_json(files.model / "summary.json", model_summary(name, kind, val_loss, model) | {"model_hash": identity})
    write_history(files.model / "history.jsonl", val_loss)
    pruned, ablated, validated = {}, {}, {}
    for seed, (task, (loss, share)) in enumerate(tasks.items()):
        circuit = None if share is None else random_circuit(model, share, seed)
        pruned[task] = task_entry(circuit, loss)
        if circuit is not None and loss is not None:
            circuit.save(files.circuits / task)
            ablated[task] = ablation_entry(loss)
            validated[task] = validation_entry(passed=seed % 2 == 0)
    write_json(files.circuits / "summary.json", {"model": name, "model_hash": identity, "tasks": pruned})
    write_json(files.ablations, {"model": name, "model_hash": identity, "tasks": ablated})
    kurtosis = {"mean": 7.5, "interval": [7.0, 8.0], "n": 64}
    found = {"model": name, "model_hash": identity, "residual_kurtosis": kurtosis, "tasks": validated}
    write_json(files.validations, found)
    return files


def model_summary(name: str, kind: str, val_loss: float, model: Transformer) -> dict[str, Any]:
    n_params = sum(parameter.numel() for parameter in model.parameters())
    return {
        "name": name,
        "kind": kind,
        "n_layer": model.config.n_layer,
        "d_model": model.config.d_model,
        "n_params": n_params,
        "l0": sum(int((parameter != 0).sum()) for parameter in model.parameters()),
        "tokens": 4096,
        "val_loss_nats": val_loss,
        "train_seconds": 12.5,
        "l0_by_matrix": {},
    }


def write_history(path: Path, val_loss: float, steps: Iterable[int] = range(0, 100, 10)) -> None:
    lines = [
        {"step": step, "tokens": 100 * step, "train_loss": val_loss + 1, "val_loss": val_loss + 1 / (1 + step),
         "l0": 9000 - step}
        for step in steps
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
