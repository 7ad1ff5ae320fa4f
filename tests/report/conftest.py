"""A small study on disk: rows of a smoke study, changed where a law needs a special case, for tiny random models."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
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
from pipeline.rows import PublishedPart, PublishedRow
from pipeline.sites import edge_keys, site_keys, split_edge_key
from pipeline.validate.verdict import verdict
from tests.report.make_fixture import FOLDER, MODELS, NOT_EXPRESSIBLE, SOLVED, UNSOLVED


@dataclass(frozen=True)
class Side:
    prompt: str
    answer: str


@dataclass(frozen=True)
class Pair:
    a: Side
    b: Side


FIXTURE = {kind: read_json(FOLDER / f"{kind}.json") for kind in MODELS}  # kind → the rows of a model of a smoke study
FAILED = ("sufficient_zero", "necessary_nodes", "generalises_names")
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
    return Circuit(nodes, edges, means=values, scores={key: value + 1 for key, value in values.items()})


def rows_of_task(kind: str, part: str, task: str = SOLVED) -> dict[str, Any]:
    """A task's row that a stage left, to be changed."""
    row = copy.deepcopy(FIXTURE[kind][part]["tasks"][task])
    row.pop("deciding", None)  # the small study has the paper's circuits only
    return row


def before_minimisation(circuit: Circuit) -> dict[str, Any]:
    """What a task's entry says of sizes before minimisation: 3 times the edges; baselines 6, no and 30 times."""
    nothing = {"n_nodes": None, "n_edges": None, "validation_loss": None}

    def sized(factor: int) -> dict[str, Any]:
        return {"n_nodes": factor * circuit.n_nodes, "n_edges": factor * circuit.n_edges, "validation_loss": 0.14}

    return {
        "discretised": sized(3),
        "calibration_scale": 1.75,
        "baselines": {"attribution": sized(6), "integrated_gradients": nothing, "random": sized(30)},
    }


def task_entry(kind: str, circuit: Circuit | None, unpruned_loss: float | None) -> dict[str, Any]:
    """One task of circuits/<name>/summary.json; ``unpruned_loss`` None: not expressible."""
    losses = {"unpruned_loss": unpruned_loss, "unpruned_validation_loss": unpruned_loss}
    if circuit is None:
        return rows_of_task(kind, "circuits", NOT_EXPRESSIBLE if unpruned_loss is None else UNSOLVED) | losses
    curve = [
        {"target_loss": loss, "n_nodes": circuit.n_nodes, "n_edges": max(int(circuit.n_edges * share), 1), "loss": loss}
        for loss, share in ((0.5, 0.4), (0.25, 0.7), (0.15, 1.0), (0.06, 1.5))
    ]
    sizes = {"n_nodes": circuit.n_nodes, "n_edges": circuit.n_edges, "validation_loss": 0.14, "curve": curve}
    return rows_of_task(kind, "circuits") | losses | sizes | before_minimisation(circuit)


def ablation_entry(kind: str, unpruned_loss: float) -> dict[str, Any]:
    """One task of ablations/<name>.json: a circuit that is sufficient, not by its nodes only, and necessary."""
    entry = rows_of_task(kind, "ablations") | {"circuit_loss_uncalibrated": 0.33}
    losses = {"unpruned": unpruned_loss, "circuit": 0.14, "nodes_only": 0.2, "ablated_nodes": 2.5, "ablated_edges": 1.5}
    for name, loss in losses.items():
        entry |= {f"{name}_loss": loss, f"{name}_loss_interval": [loss * 0.9, loss * 1.1]}
    for name, low in (("circuit", 0.7), ("nodes_only", 0.8), ("nodes", 0.05), ("edges", 0.04)):
        entry |= {f"random_{name}_losses": [low, low + 0.1, low + 0.3], f"random_{name}_loss_median": low + 0.1}
    return entry


def necessity_edits() -> dict[str, Any]:
    """Curves of a circuit of four nodes and no edges: loss 0.1 before, 0.5 without two, 0.9 without all."""

    def point(size: int, loss: float) -> dict[str, Any]:
        random = {"size": size, "median": 0.2, "low": 0.1, "high": 0.3, "losses": [0.1, 0.2, 0.3]}
        return {"size": size, "loss": {"mean": loss, "interval": [0.9 * loss, 1.1 * loss], "n": 32}, "random": random}

    return {
        "limit": 0.683,
        "model_loss": {"mean": 0.1, "interval": [0.09, 0.11], "n": 32},
        "nodes": {"n": 4, "curve": [point(2, 0.5), point(4, 0.9), point(8, 2.0)], "n_to_chance": 4},
        "edges": {"n": 0, "curve": [], "n_to_chance": None},
    }


def published_entry(found: bool) -> PublishedRow:
    """One part of a published mechanism, a head that is found or not."""
    part: PublishedPart = {
        "statement": "a head copies it", "found": found, "n_found": int(found), "at": "1.3", "weight": 0.4, "lift": 12,
        "look_auc": 0.99, "auc": 1.0, "output_auc": 0.5, "value": "1.attn_v.3", "output": None, "says": "said <so>",
    }  # fmt: skip
    return {"parts": {"copying_head": part}, "n_found": int(found), "n_parts": 1, "line": "of its parts"}


def validation_entry(passed: bool) -> dict[str, Any]:
    """One task of validations/<name>.json: of a circuit that passes every check, or fails those in FAILED."""
    entry = rows_of_task("sparse", "validations")  # of the model that has controls
    sections = {name: section for name, section in entry.items() if name not in ("verdict", "seconds")}
    tests = [test for section in sections.values() for test in section.get("tests", ())]  # faithfulness has none
    for test in (test for test in tests if test["value"] is not None):
        outcome = passed or test["name"] not in FAILED
        test |= {"value": 0.5, "limit": 0.4, "says": f"{test['name']} said <so>"}
        test |= {} if test["passed"] is None else {"passed": outcome}
    entry["published"] = published_entry(found=passed)
    entry["complement"]["zero"]["loss"]["mean"] = 0.5 if passed else 1.5
    entry["necessity"] |= necessity_edits()
    names = entry["generalisation"]["families"]["names"]
    names["model"] |= {"mean": 0.125, "n": 64}
    names["circuit"] |= {"mean": 0.25 if passed else 0.75, "n": 64}
    nothing = {"met": False, "n_edges": 40, "validation_loss": 0.6, "ratio_edges": None}
    entry["controls"]["nonsense"] |= nothing
    return entry | {"verdict": verdict(sections)}


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


Place = tuple[Workspace, str]  # the workspace, and the name of a model in it
MakeModel = Callable[..., Place]


@pytest.fixture
def make_model(tmp_path: Path, tiny_model: Callable[..., Transformer]) -> MakeModel:
    """Writes all artifacts of one model into ``tmp_path``; tasks: name → (unpruned loss, share of nodes kept)."""

    def make(
        name: str, kind: str, val_loss: float, tasks: dict[str, tuple[float | None, float | None]], **changes: Any
    ) -> Place:
        return write_model(tmp_path, tiny_model(**changes), name, kind, val_loss, tasks)

    return make


def write_model(
    folder: Path,
    model: Transformer,
    name: str,
    kind: str,
    val_loss: float,
    tasks: dict[str, tuple[float | None, float | None]],
) -> Place:
    """What the stages would leave of one model, written into the workspace ``folder``."""
    workspace, own = Workspace(folder), Workspace(folder).model(name)
    own.mkdir(parents=True)
    save_model(model, own, {})
    identity = model_hash(own)
    write_json(own / "summary.json", model_summary(name, kind, val_loss, model) | {"model_hash": identity})
    write_history(own / "history.jsonl", kind, val_loss)
    pruned, ablated, validated = {}, {}, {}
    for seed, (task, (loss, share)) in enumerate(tasks.items()):
        circuit = None if share is None else random_circuit(model, share, seed)
        pruned[task] = task_entry(kind, circuit, loss)
        if circuit is not None and loss is not None:
            circuit.save(workspace.circuits(name) / task)
            ablated[task] = ablation_entry(kind, loss)
            validated[task] = validation_entry(passed=seed % 2 == 0)
    write_json(workspace.circuits(name) / "summary.json", {"model": name, "model_hash": identity, "tasks": pruned})
    write_json(workspace.ablations(name), {"model": name, "model_hash": identity, "tasks": ablated})
    found = {"model": name, "model_hash": identity, "tasks": validated}
    write_json(workspace.validations(name), FIXTURE[kind]["validations"] | found)
    return workspace, name


def model_summary(name: str, kind: str, val_loss: float, model: Transformer) -> dict[str, Any]:
    config = model.config
    return FIXTURE[kind]["model"] | {
        "name": name,
        "n_layer": config.n_layer,
        "d_model": config.d_model,
        "n_params": sum(parameter.numel() for parameter in model.parameters()),
        "l0": sum(int((parameter != 0).sum()) for parameter in model.parameters()),
        "val_loss_nats": val_loss,
    }


def write_history(path: Path, kind: str, val_loss: float) -> None:
    """The history of a smoke study's model, moved so that it ends at a loss."""
    lines = FIXTURE[kind]["history"]
    higher = val_loss - lines[-1]["val_loss"]
    moved = [line | {"val_loss": line["val_loss"] + higher} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in moved), encoding="utf-8")
