"""What a circuit is made from, out of folders and files: a checkpoint, its tokenizer, and one task in its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.artifacts import ArtifactError, Workspace, read_json
from pipeline.config import ConfigError, Params, load_params
from pipeline.data.pairs import PairBatch
from pipeline.data.pairs_file import read_pairs
from pipeline.data.shards import STATS_FILE
from pipeline.data.tasks import Task, TaskError, TaskSet, find_task, task_names
from pipeline.data.tasks.encode import encode_task
from pipeline.data.tokenizer import SETTINGS_FILE, Tokenizer
from pipeline.model.checkpoint import load_means, load_model
from pipeline.model.device import pick_device
from pipeline.model.transformer import Transformer


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint, and one task in its tokens: all that a circuit is made from."""

    folder: Path
    name: str
    model: Transformer
    means: dict[str, Tensor]
    words: Tokenizer
    tasks: TaskSet
    task: str

    @classmethod
    def load(cls, folder: Path, task: str | Path, params: Params, tokenizer_dir: Path | None) -> LoadedModel:
        """Raises ArtifactError for files that are missing, damaged or do not belong together, ValueError for a task."""
        described = description_of(folder)
        model = load_model(folder, pick_device(params.compute))
        means = {key: value.to(model.device) for key, value in load_means(folder).items()}
        if {key: len(mean) for key, mean in means.items()} != model.widths():
            raise ArtifactError(
                f"{folder}/means.safetensors: sites of other widths than the model's; run pretrain again"
            )
        words = tokenizer_of(folder, model, described.get("tokenizer"), tokenizer_dir)
        tasks = tasks_for(folder, str(task), params, words, model.config.n_ctx)
        name = str(task) if str(task) in tasks.names else Path(task).stem
        return cls(folder, described.get("name") or folder.resolve().name, model, means, words, tasks, name)

    def batch(self, split: str) -> PairBatch:
        """The pairs of a split, on the model's device. Raises TaskError for a task that is not expressible."""
        return self.tasks.batch(self.task, split).to(self.model.device)

    @property
    def tokenizer(self) -> str:
        """The tokenizer's hash."""
        return self.words.hash

    @property
    def tokens(self) -> Path:
        """The folder of the packed tokens that the model was trained on: its own, or its workspace's data/tokens."""
        return self.folder if (self.folder / STATS_FILE).is_file() else Workspace(root_of(self.folder)).tokens

    @property
    def about(self) -> dict[str, Any]:
        """What a circuit of it belongs to."""
        task_hash = self.tasks.hash(self.task)
        return {"task": self.task, "model": self.name, "model_hash": self.model.checkpoint, "task_hash": task_hash}


def root_of(folder: Path) -> Path:
    """The workspace that a model's folder, models/<name>, lies in."""
    return folder.resolve().parent.parent


def settings_for(folder: Path, params: Path | None = None) -> Params:
    """The settings in a file; None: those of the workspace that the model lies in, else of the current folder."""
    if params is None:
        places = [Workspace(root_of(folder)).params, Path("params.yaml").resolve()]
        params = next((place for place in places if place.is_file()), None)
        if params is None:
            raise ConfigError(f"no settings: neither {places[0]} nor {places[1]} is there; name one (--params)")
    return load_params(params)


def description_of(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json. Raises ArtifactError where the folder has none."""
    path = folder / "config.json"
    described = read_json(path) if path.is_file() else None
    if not isinstance(described, dict):
        why = (
            "no such folder"
            if not folder.is_dir()
            else "has no config.json"
            if described is None
            else "is no checkpoint"
        )
        raise ArtifactError(
            f"{folder}: {why}; allowed: the folder of a checkpoint, with config.json, model.safetensors and "
            "means.safetensors, as pretrain writes models/<name>"
        )
    return described


def tokenizer_of(folder: Path, model: Transformer, trained_with: str | None, chosen: Path | None) -> Tokenizer:
    """The tokenizer of a checkpoint. Raises ArtifactError where it is missing or another one."""
    places = [folder, Workspace(root_of(folder)).tokens] if chosen is None else [chosen]
    place = next((place for place in places if (place / SETTINGS_FILE).is_file()), None)
    if place is None:
        raise ArtifactError(
            f"no tokenizer: {' and '.join(f'{place}/{SETTINGS_FILE}' for place in places)}: no such file; name the "
            "folder with tokenizer.json and tokenizer.tiktoken that the model was trained with (--tokenizer)"
        )
    tokenizer = Tokenizer.load(place)
    found, wanted = (tokenizer.hash, trained_with) if trained_with else (tokenizer.vocab_size, model.vocab_size)
    if found != wanted or tokenizer.vocab_size != model.vocab_size:
        raise ArtifactError(
            f"{place}: tokenizer {tokenizer.hash} with {tokenizer.vocab_size} ids, but {folder} was trained with "
            f"{trained_with or 'another one'} and {model.vocab_size} ids; name the folder of that one (--tokenizer)"
        )
    return tokenizer


def tasks_for(folder: Path, task: str, params: Params, tokenizer: Tokenizer, n_ctx: int) -> TaskSet:
    """A set that has the task: pairs of a file; or the study's where it is in these tokens, else made now."""
    if task not in task_names() and Path(task).is_file():
        return read_pairs(Path(task), tokenizer, n_ctx=n_ctx, seed=params.seed)
    known, made = _known(task), Workspace(root_of(folder)).tasks
    tasks = TaskSet.load(made) if (made / "report.json").is_file() else None
    if tasks is None or task not in tasks.names or tasks.tokenizer_hash != tokenizer.hash:
        rows, about = encode_task(known, params.tasks, params.seed, tokenizer)
        tasks = TaskSet({"tokenizer": tokenizer.hash, "seed": params.seed, "tasks": {task: about}}, {task: rows})
    longest = tasks.about(task)["n_tokens_max"] or 0
    if longest > n_ctx:
        raise TaskError(
            f"task {task}: its longest prompt has {longest} tokens; allowed: at most the model's n_ctx, {n_ctx}; "
            "take another task or a model that reads more"
        )
    return tasks


def _known(task: str) -> Task:
    """The task of that name. Raises TaskError that says which files and names there could be."""
    path = Path(task)
    if path.is_dir() or path.suffix or len(path.parts) > 1:
        what = "is a folder" if path.is_dir() else "no such file"
        raise TaskError(f"{path}: {what}; allowed: a JSONL file of contrast pairs (docs/pairs.md), or a task's name")
    try:
        return find_task(task)
    except TaskError as error:
        raise TaskError(f"{error}; or name a JSONL file of contrast pairs (docs/pairs.md)") from None
