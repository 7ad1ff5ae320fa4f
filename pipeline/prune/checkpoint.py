"""Prune any checkpoint for any task: from folders and files to a circuit in a folder.

``prune_checkpoint("models/sparse_d256", "pairs.jsonl", out="circuit")``; the task is one of the study's by name or a
file of contrast pairs (docs/pairs.md). What can be refused is refused before the search begins.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.artifacts import check_new_folder, whole_folder, write_json
from pipeline.circuit import Circuit
from pipeline.circuit.make_ablations import ablations_for
from pipeline.config import ConfigError, Params, PruneConfig, parse_params
from pipeline.data.pairs import PairBatch
from pipeline.data.words import SPLITS
from pipeline.model.scoring import mean_loss, score
from pipeline.model.transformer import Transformer
from pipeline.prune.limits import MAX_ADVISED_LOSS
from pipeline.prune.prune import OnProgress, Pruned, prune_task
from pipeline.seeds import seed_of
from pipeline.workspace import LoadedModel, LoadedTask, settings_for

CHANCE = math.log(2)  # nats: the loss of a guess between two answers


class UnsolvedError(ValueError):
    """A task that the model cannot do well enough, or a target loss that it cannot meet."""


def prune_checkpoint(
    model: Path | str,
    task: Path | str,
    *,
    out: Path | str | None = None,
    params: Params | Path | str | None = None,
    seed: int | None = None,
    tokenizer: Path | str | None = None,
    tokens: Path | str | None = None,
    on_progress: OnProgress = lambda what: None,
    **changes: Any,
) -> Pruned:
    """The smallest circuit of a checkpoint for a task, and the row about it with its ``test_loss`` in nats.

    ``model``: a checkpoint's folder. ``task``: a name of the study's twenty, or a file of contrast pairs. ``out``: a
    new folder for circuit.json, circuit.safetensors, summary.json and trials.json, written whole or not at all.
    ``params``: the settings, or their file (None: params.yaml of the model's workspace, else of the current folder);
    ``changes`` to their section prune, such as ``target_loss=0.1, budget=16, tie_qk=True, ablations=["zero"]`` (None:
    no change). ``seed``: of the search (None: the settings'); how pairs are split follows from their seed alone.
    ``tokenizer``, ``tokens``: folders (None: the model's own, else data/tokens of its workspace). ``on_progress``: told
    what is being done.

    Raises UnsolvedError where the model does not reach the target loss on validation pairs, or no circuit does;
    ConfigError, PairsFileError, TaskError, ArtifactError and FileExistsError for input that cannot be used. With a
    budget of trials and an ``out``, a search that was killed goes on when this is called again in the same way.
    """
    folder, out = Path(model), None if out is None else Path(out)
    if out is not None:
        check_new_folder(out)
    settings = params if isinstance(params, Params) else settings_for(folder, params)
    config = _changed(settings, {name: value for name, value in changes.items() if value is not None})
    loaded = LoadedModel.open(folder, settings, tokenizer).load_task(task, settings)
    _check_solved(loaded, config, chosen=changes.get("target_loss") is not None)
    about = loaded.about | {"seed": settings.seed if seed is None else seed}
    pruned = _searched(loaded, config, about, loaded.tokens if tokens is None else Path(tokens), out, on_progress)
    if out is not None:
        assert pruned.circuit is not None
        with whole_folder(out) as partial:
            pruned.circuit.save(partial)
            described = about | {"settings": config.model_dump(mode="json")}
            write_json(partial / "summary.json", described | pruned.row)
            write_json(partial / "trials.json", pruned.trials)
    return pruned


def circuit_loss(circuit: Circuit, model: Transformer, batch: PairBatch) -> float:
    """The task loss in nats of the circuit alone, calibrated; the mean over its draws of ablation values."""
    losses = [mean_loss(circuit.answers(model, batch, draw)) for draw in range(len(circuit.ablation_values.draws))]
    return math.fsum(losses) / len(losses)


def _changed(settings: Params, changes: dict[str, Any]) -> PruneConfig:
    """The settings of pruning, changed. Raises ConfigError for unknown ones and values that are not allowed."""
    if not changes:
        return settings.prune
    if one := changes.pop("ablation", None):  # as it was called before there could be several
        changes["ablations"] = [one]
    whole = settings.model_dump(mode="json")
    config = parse_params(whole | {"prune": whole["prune"] | changes}, origin="asked for").prune
    if config.target_loss >= CHANCE:
        raise ConfigError(
            f"prune.target_loss: {config.target_loss:g} nats are met by guessing, that is, by no circuit at all; "
            f"allowed: above 0 and below {CHANCE:.3f}"
        )
    return config


def _check_solved(loaded: LoadedTask, config: PruneConfig, *, chosen: bool) -> None:
    """Raises UnsolvedError where the whole model does not reach the target loss on validation pairs."""
    target, loss = config.target_loss, mean_loss(score(loaded.model, loaded.batch("validation")))
    if loss <= target:
        return
    least = math.ceil(loss * 1000) / 1000
    if chosen and least < CHANCE:
        raise UnsolvedError(
            f"target loss {target:g} is below the loss of {loaded.name} itself, which is {loss:.4f} nats on the "
            f"validation pairs of {loaded.task}; allowed: at least {least:g}"
        )
    mend = f"allow --target-loss {least:g}, or take" if least < MAX_ADVISED_LOSS else f"guessing has {CHANCE:.3f}; take"
    raise UnsolvedError(
        f"{loaded.name} cannot do {loaded.task}: the whole model has a loss of {loss:.4f} nats on validation pairs, "
        f"the target is {target:g}; {mend} a model trained longer or a task that it does"
    )


def _searched(
    loaded: LoadedTask,
    config: PruneConfig,
    about: dict[str, Any],
    tokens: Path,
    out: Path | None,
    on_progress: OnProgress,
) -> Pruned:
    """The result of ``prune_task``, with the circuit's test loss. Raises UnsolvedError where it finds no circuit."""
    seed = seed_of(about["seed"], "prune", loaded.name, loaded.task)
    batches = {split: loaded.batch(split) for split in SPLITS}
    trials = None  # a search with a budget keeps its trials beside ``out`` until it is done, under a hash of its inputs
    if out is not None and config.budget:
        asked = json.dumps([about, config.model_dump(mode="json")], sort_keys=True)
        trials = out.with_name(f".{out.name}.{hashlib.sha256(asked.encode()).hexdigest()[:16]}.search")
    draws_seed = seed_of(seed, "draws")
    pruned = prune_task(
        model=loaded.model,
        means=loaded.means,
        ablations=ablations_for(
            config, loaded.model, loaded.means, batches["train"], tokens, loaded.tokenizer.hash, draws_seed
        ),
        batches=batches,
        config=config,
        seed=seed,
        about=about,
        storage=trials,
        on_progress=on_progress,
    )
    if trials is not None:
        shutil.rmtree(trials, ignore_errors=True)
    if pruned.circuit is None:
        raise UnsolvedError(
            f"no circuit of {loaded.name} for {loaded.task} has a loss of at most {config.target_loss:g} nats on "
            f"train and validation pairs, by a wide enough margin, its complement ablated to "
            f"{' and '.join(config.ablations)}; "
            f"raise --target-loss or --budget ({config.budget}), or give more pairs"
        )
    return replace(pruned, row=pruned.row | {"test_loss": circuit_loss(pruned.circuit, loaded.model, batches["test"])})
