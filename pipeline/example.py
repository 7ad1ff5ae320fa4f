"""A model and its circuits in few bytes: a workspace small enough to be committed, for a first look.

The weights are rounded to 16 bits, which makes another model. So every circuit is evaluated again on the rounded one:
its losses, its calibration and its certificate are those of the model beside it. Pairs are made when asked for,
from the settings beside it: the same as the study's.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.artifacts import Workspace, read_json, whole_folder, write_json
from pipeline.circuit import Circuit
from pipeline.circuit.graph import Subgraph
from pipeline.config import ConfigError, Params
from pipeline.data.shards import SPLITS as STREAMS
from pipeline.data.shards import STATS_FILE, TokenStream
from pipeline.data.words import SPLITS
from pipeline.model.checkpoint import load_means, load_model, save_means, save_model
from pipeline.prune.minimise import minimal
from pipeline.prune.problem import make_problem
from pipeline.workspace import LoadedModel, LoadedTask

N_TOKENS = 1 << 16  # of each split: enough for the windows that validation draws


def write_example(workspace: Workspace, params: Params) -> tuple[int, dict[str, float]]:
    """Write ``workspace.example``: its size in bytes, and task → change of the circuit's validation loss in nats.

    Raises ArtifactError where the model, its circuits or the tokens are missing or damaged, ConfigError
    where the settings have no such model.
    """
    name, losses = params.report.example_model, dict[str, float]()
    if name not in params.models:
        raise ConfigError(
            f"params.yaml: report.example_model: {name!r} is no model; allowed: {', '.join(params.models)}"
        )
    with whole_folder(workspace.example) as partial:
        small = Workspace(partial)
        shutil.copy(workspace.params, small.params)
        _copy_tokens(workspace.tokens, small.tokens)
        _copy_model(workspace.model(name), small.model(name))
        for folder in sorted(file.parent for file in workspace.circuits(name).glob("*/circuit.json")):
            circuit = Circuit.load(folder)
            task = LoadedModel.open(small.model(name), params).load_task(folder.name, params)
            again = carried_over(circuit, task, params)
            again.save(small.circuits(name) / folder.name)
            losses[folder.name] = again.about["validation_loss"] - circuit.about["validation_loss"]
        n_bytes = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    return n_bytes, losses


def carried_over(circuit: Circuit, loaded: LoadedTask, params: Params) -> Circuit:
    """The circuit in another checkpoint of its model, without the nodes and edges that it does not need there."""
    batches = {split: loaded.batch(split) for split in SPLITS}
    problem = make_problem(loaded.model, circuit.all_ablations, batches, params.prune, params.seed)
    target = params.prune.target_loss
    start = problem.evaluator(Subgraph(circuit.nodes, circuit.edges), target).candidate
    found, certificate = minimal(problem, start, target)
    return replace(
        circuit,
        nodes=found.nodes,
        edges=found.edges,
        calibration=found.calibration,
        certificate=certificate,
        about=dict(circuit.about) | loaded.about | {"validation_loss": found.validation_loss},
    )


def _copy_model(folder: Path, into: Path) -> None:
    into.mkdir(parents=True)
    described = read_json(folder / "config.json")
    extra = {key: value for key, value in described.items() if key not in ("format", "model", "vocab_size")}
    save_model(load_model(folder), into, extra, small=True)
    save_means(load_means(folder), into)


def _copy_tokens(folder: Path, into: Path) -> None:
    """The tokenizer, and the beginning of every stream."""
    into.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer.tiktoken"):
        shutil.copy(folder / name, into / name)
    stats = read_json(folder / STATS_FILE)
    for split in STREAMS:
        tokens = np.asarray(TokenStream.open(folder, split).tokens[:N_TOKENS])
        (into / f"{split}.bin").write_bytes(tokens.tobytes())
        stats["n_tokens"][split] = len(tokens)
    write_json(into / STATS_FILE, stats)
