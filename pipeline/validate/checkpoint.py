"""Validate any circuit of any checkpoint: from folders and files to all that the tests found.

``validate_checkpoint("models/sparse_d256", "my_circuit")`` for what ``prune_checkpoint`` wrote, or for a circuit of a
study (circuits/<model>/<task>).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from pipeline.artifacts import ArtifactError, Workspace
from pipeline.circuit import Circuit
from pipeline.circuit.ablation_values import random_windows
from pipeline.data.generalisation import GeneralisationSet
from pipeline.data.pairs import PairBatch
from pipeline.data.shards import STATS_FILE, TokenStream
from pipeline.data.words import SPLITS
from pipeline.model.transformer import Transformer
from pipeline.rows import ValidationRow
from pipeline.seeds import seed_of
from pipeline.validate.circuit_under_test import CircuitUnderTest
from pipeline.validate.validate import validate_circuit
from pipeline.workspace import LoadedModel, LoadedTask, settings_for

N_WINDOWS = 128  # sequences of the pretraining distribution that values are drawn from


class OtherPairsError(ValueError):
    """A circuit is to be tested on pairs that it was not made for."""


def validate_checkpoint(
    model: Path | str,
    circuit: Circuit | Path | str,
    *,
    task: Path | str | None = None,
    params: Path | str | None = None,
    tokenizer: Path | str | None = None,
    tokens: Path | str | None = None,
    controls: bool = True,
    workers: int = 1,
    on_progress: Callable[[str], None] = lambda what: None,
) -> ValidationRow:
    """``validate_circuit`` of a circuit's folder, on the test pairs of its task.

    ``model``: a checkpoint's folder. ``task``: the name, or the file of pairs, that the circuit was made for (None: the
    name that the circuit says). ``params``, ``tokenizer``, ``tokens``: as ``prune_checkpoint``'s. ``controls``:
    whether the method's controls are run, which takes longest. ``workers``: as ``validate_circuit``'s. Generalisation
    sets are used where the model's workspace has them for the task of that name (data/generalisation). Raises
    OtherPairsError, WrongModelError, ArtifactError, TaskError, ConfigError and CorpusTooSmallError.
    """
    folder, found = Path(model), circuit if isinstance(circuit, Circuit) else Circuit.load(circuit)
    settings = settings_for(folder, params)
    name = str(found.about.get("task")) if task is None else task
    loaded = LoadedModel.open(folder, settings, tokenizer).load_task(name, settings)
    found.check_model(loaded.model)
    known = found.about.get("task_hash", loaded.about["task_hash"])
    if known != loaded.about["task_hash"]:
        raise OtherPairsError(
            f"{'the circuit' if isinstance(circuit, Circuit) else circuit}: made with pairs {known} of "
            f"{found.about.get('task')}, not with {loaded.about['task_hash']}; "
            "name the task or the file of pairs that it was made for (--task), and the same --params"
        )
    tested = CircuitUnderTest(
        model=loaded.model,
        circuit=found,
        batches={split: loaded.batch(split) for split in SPLITS},
        windows=windows_of(_tokens_of(loaded, tokens), loaded.model, settings.seed),
        config=settings.validate,
        seed=seed_of(settings.seed, "validate", loaded.name, loaded.task),
        target=max(settings.prune.target_loss, float(found.about.get("target_loss", 0))),
    )
    return validate_circuit(
        tested,
        generalisation=generalisation_of(loaded.workspace, loaded) if loaded.task == str(name) else {},
        prune=settings.prune,
        tokenizer=loaded.tokenizer,
        with_controls=controls,
        workers=workers,
        on_progress=on_progress,
    )


def _tokens_of(loaded: LoadedTask, chosen: Path | str | None) -> Path:
    """The folder of packed tokens. Raises ArtifactError where it is missing or in another tokenizer's tokens."""
    folder = loaded.tokens if chosen is None else Path(chosen)
    if not (folder / STATS_FILE).is_file():
        raise ArtifactError(
            f"{folder}/{STATS_FILE}: no such file; name the folder of the packed tokens that {loaded.folder} was "
            "trained on (--tokens)"
        )
    stream = TokenStream.open(folder, "train")
    if stream.tokenizer_hash != loaded.tokenizer.hash:
        raise ArtifactError(
            f"{folder}: in the tokens of tokenizer {stream.tokenizer_hash}, but {loaded.folder} was trained with "
            f"{loaded.tokenizer.hash}; name the folder of the tokens that it was trained on (--tokens)"
        )
    return folder


def windows_of(tokens: Path, model: Transformer, seed: int) -> Int[Tensor, "window pos"]:
    """Sequences of the pretraining distribution in a folder of packed tokens, the same for all circuits of a model."""
    stream = TokenStream.open(tokens, "train")
    return random_windows(stream, N_WINDOWS, model.config.n_ctx, seed_of(seed, "validate windows"))


def generalisation_of(workspace: Workspace, loaded: LoadedTask) -> dict[str, PairBatch]:
    """Family → generalisation set of the task; none where the workspace has none for it.

    Raises ArtifactError where they are of other pairs than the task's.
    """
    if not (workspace.generalisation / "report.json").is_file():
        return {}
    generalisation = GeneralisationSet.load(workspace.generalisation)
    if generalisation.tokenizer_hash != loaded.tokenizer.hash or loaded.task not in generalisation.names:
        return {}
    generalisation.check_tasks(loaded.tasks, workspace.generalisation)
    return {
        family: generalisation.batch(loaded.task, family).to(loaded.model.device)
        for family in generalisation.families(loaded.task)
    }
