"""A checkpoint out of its folder, with its tokenizer, means, tokens and tasks; ready to be run on text."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.artifacts import ArtifactError, Workspace, read_json
from pipeline.circuit import Circuit
from pipeline.circuit.masked import MaskedPairs
from pipeline.config import ConfigError, Params, load_params
from pipeline.data.pairs import PairBatch
from pipeline.data.pairs_file import read_pairs
from pipeline.data.shards import STATS_FILE
from pipeline.data.tasks import Task, TaskError, TaskSet, find_task, task_names
from pipeline.data.tasks.encode import encode_task
from pipeline.data.tokenizer import SETTINGS_FILE, Tokenizer
from pipeline.formats import is_foreign, read_foreign
from pipeline.formats.stored_means import MEANS_FILE, read_means
from pipeline.model.checkpoint import load_model
from pipeline.model.device import pick_device
from pipeline.model.record import record
from pipeline.model.transformer import Cuts, Intervene, Transformer, sees_residual
from pipeline.sites import residual_names, site_keys


class WrongPairsError(TaskError):
    """A circuit is to be shown on pairs that it was not made for."""


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint, its tokenizer and the means of its nodes over the pretraining distribution."""

    folder: Path
    name: str
    model: Transformer
    known_means: dict[str, Tensor] | None
    tokenizer: Tokenizer

    def __repr__(self) -> str:
        shape = self.model.config
        size = f"{shape.n_layer} layers of width {shape.d_model}, {self.model.vocab_size} tokens"
        return f"{type(self).__name__}({self.name}: {size})"

    @classmethod
    def open(cls, folder: Path | str, params: Params | None = None, tokenizer: Path | str | None = None) -> LoadedModel:
        """The model saved in ``folder``, on the device that ``params`` choose (None: a CPU).

        ``tokenizer``: the folder of its tokenizer (None: the model's own, else data/tokens of its workspace). Raises
        ArtifactError for files that are missing, damaged or do not belong together. A folder of another project, such
        as a released model's, is read as it is (``pipeline.formats``).
        """
        folder, device = Path(folder), pick_device(params.compute) if params else torch.device("cpu")
        if is_foreign(folder):
            foreign = read_foreign(folder, None if tokenizer is None else Path(tokenizer))
            model, name = foreign.model.to(device).freeze(), folder.resolve().name
            loaded = foreign.tokenizer or _tokenizer_of(folder, model, None, None)
        else:
            described, model = _description_of(folder), load_model(folder, device)
            name = described.get("name") or folder.resolve().name
            loaded = _tokenizer_of(folder, model, described.get("tokenizer"), tokenizer)
        return cls(folder, name, model, read_means(folder, model), loaded)

    @property
    def means(self) -> dict[str, Tensor]:
        """Site key → mean of every node over the pretraining distribution. Raises ArtifactError where there are
        none."""
        if self.known_means is None:
            raise ArtifactError(
                f"{self.folder}/{MEANS_FILE}: no such file; the means of a model's nodes, which nodes are ablated to, "
                f"are made by sparse-circuits means {self.folder} --data TEXT"
            )
        return self.known_means

    def load_task(self, task: str | Path, params: Params | None = None) -> LoadedTask:
        """One task in the model's tokens: a name of the study's twenty, or a file of contrast pairs.

        ``params``: the settings that say how many pairs there are (None: those of the model's workspace). Raises
        TaskError, PairsFileError, ArtifactError or ConfigError for a task that cannot be used.
        """
        tasks, name = _tasks_for(self, str(task), params or settings_for(self.folder))
        return LoadedTask(**vars(self), tasks=tasks, task=name)

    def load_task_of(
        self, circuit: Circuit, task: str | Path | None = None, params: Params | None = None
    ) -> LoadedTask:
        """The task that a circuit was made for, found by its pairs: a file of them may have any name.

        ``task``: a name, or a file of contrast pairs (None: the name that the circuit says). Raises WrongPairsError for
        other pairs than the circuit's, and as ``load_task``.
        """
        made_for = str(circuit.about.get("task"))
        asked = made_for if task is None else str(task)
        tasks, name = _tasks_for(self, asked, params or settings_for(self.folder), called=made_for)
        found = LoadedTask(**vars(self), tasks=tasks, task=name)
        found.check_pairs(circuit)
        return found

    def to_tokens(self, text: str | Sequence[str] | Int[Tensor, "prompt pos"]) -> Int[Tensor, "prompt pos"]:
        """Token ids on the model's device: each text begins with ``<|endoftext|>``, as documents do in training.

        Raises ValueError for an empty text or none, for texts of different lengths (run them one by one, or give tokens
        that are padded), for more than n_ctx tokens, and for ids outside the vocabulary.
        """
        if isinstance(text, Tensor):
            return self._checked(text)
        texts = [text] if isinstance(text, str) else list(text)
        if not texts or not all(isinstance(one, str) and one for one in texts):
            raise ValueError(f"{text!r} is no text; allowed: code, a list of it, or a tensor of ids [prompt, pos]")
        rows = [[self.tokenizer.eot, *self.tokenizer.encode(one)] for one in texts]
        if len({len(row) for row in rows}) != 1:
            raise ValueError(f"texts of {', '.join(str(len(row)) for row in rows)} tokens; run them one by one")
        return self._checked(torch.tensor(rows))

    def _checked(self, tokens: Int[Tensor, "prompt pos"]) -> Int[Tensor, "prompt pos"]:
        """The tokens on the model's device. Raises ValueError where the model cannot read them."""
        if tokens.ndim != 2 or not tokens.numel() or tokens.is_floating_point():
            raise ValueError(f"tokens {list(tokens.shape)} of {tokens.dtype}; allowed: ids [prompt, pos], one at least")
        if tokens.shape[1] > self.model.config.n_ctx:
            raise ValueError(f"a text of {tokens.shape[1]} tokens; allowed: at most n_ctx, {self.model.config.n_ctx}")
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.model.vocab_size:
            outside = low if low < 0 else high
            raise ValueError(f"token {outside} is outside the vocabulary; allowed: 0 to {self.model.vocab_size - 1}")
        return tokens.to(self.model.device)

    def run_with_cache(
        self,
        text: str | Sequence[str] | Int[Tensor, "prompt pos"],
        names: str | Sequence[str] = "*",
        *,
        circuit: Circuit | None = None,
        intervene: Intervene | None = None,
        cuts: Cuts | None = None,
    ) -> tuple[Float[Tensor, "prompt pos vocab"], dict[str, Float[Tensor, "prompt pos _width"]]]:
        """Logits in nats, and name → value at the sites that a pattern of ``names`` fits (``"*.mlp_neuron"``).

        Names are ``"0.attn_in"`` and its like (``pipeline.sites``), and of the residual stream ``"0.resid_pre"``,
        ``"0.resid_mid"``, ``"final_resid"``. ``circuit``: only that circuit is live. ``intervene(name, value)`` returns
        the value to go on with, at sites and in the residual stream, after the circuit's masks. Raises
        WrongModelError for a circuit of another model, ValueError for a pattern that fits no name, and as
        ``to_tokens``.
        """
        patterns = [names] if isinstance(names, str) else list(names)
        known = [*site_keys(self.model.config.n_layer), *residual_names(self.model.config.n_layer)]
        for pattern in patterns:
            if not fnmatch.filter(known, pattern):
                raise ValueError(f"{pattern!r} fits no name; allowed: patterns of {', '.join(known)}")
        changes = _changes_of(self.model, circuit, intervene, cuts)
        with torch.no_grad():
            logits, values = record(self.model, self.to_tokens(text), **changes, residual=True)
        return logits, {key: values[key] for key in values if any(fnmatch.fnmatch(key, p) for p in patterns)}

    @torch.no_grad()
    def generate(
        self,
        text: str,
        max_new_tokens: int = 20,
        *,
        temperature: float = 1.0,
        seed: int = 0,
        circuit: Circuit | None = None,
        intervene: Intervene | None = None,
        cuts: Cuts | None = None,
    ) -> str:
        """The text and what the model, or a circuit of it, writes after it, up to ``<|endoftext|>`` or n_ctx tokens.

        ``temperature`` 0: always the likeliest token. Raises ValueError for a negative one, and as ``to_tokens``.
        """
        if temperature < 0:
            raise ValueError(f"temperature {temperature}; allowed: 0 and above")
        tokens, generator = self.to_tokens(text), torch.Generator(self.model.device).manual_seed(seed)
        changes = _changes_of(self.model, circuit, intervene, cuts)
        for _ in range(min(max_new_tokens, self.model.config.n_ctx - tokens.shape[1])):
            logits = self.model(tokens, **changes)[0, -1]
            if temperature:
                token = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
            else:
                token = logits.argmax()[None]
            if int(token) == self.tokenizer.eot:
                break
            tokens = torch.cat([tokens, token[None]], dim=1)
        return self.tokenizer.decode(tokens[0, 1:].tolist())

    @property
    def workspace(self) -> Workspace:
        """The workspace that the model's folder, models/<name>, lies in."""
        return _workspace_of(self.folder)

    @property
    def tokens(self) -> Path:
        """The folder of the packed tokens that the model was trained on: its own, or its workspace's data/tokens."""
        return self.folder if (self.folder / STATS_FILE).is_file() else self.workspace.tokens


@dataclass(frozen=True, repr=False)
class LoadedTask(LoadedModel):
    """A checkpoint and one task in its tokens: all that a circuit is made from."""

    tasks: TaskSet
    task: str

    def batch(self, split: str) -> PairBatch:
        """The pairs of a split, on the model's device. Raises TaskError for a task that is not expressible."""
        return self.tasks.batch(self.task, split).to(self.model.device)

    @property
    def about(self) -> dict[str, Any]:
        """The task and the checkpoint that a circuit of it belongs to, by name and by hash."""
        task_hash = self.tasks.hash(self.task)
        return {"task": self.task, "model": self.name, "model_hash": self.model.checkpoint, "task_hash": task_hash}

    def check_pairs(self, circuit: Circuit) -> None:
        """Raises WrongPairsError where the circuit was made with other pairs than these, whatever both are called."""
        made_for = str(circuit.about.get("task", self.task))
        known, here = circuit.about.get("task_hash"), self.tasks.hash(self.task)
        others = known != here if known else made_for != self.task  # circuits of other projects note no hash
        if others:
            raise WrongPairsError(
                f"{circuit.folder or 'the circuit'}: made with other pairs ({known}) of {made_for} than these of "
                f"{self.task} ({here}); name the task or the file of pairs that it was made for (--task), and the same "
                "settings (--params)"
            )


def _changes_of(
    model: Transformer, circuit: Circuit | None, intervene: Intervene | None, cuts: Cuts | None
) -> dict[str, Any]:
    """``intervene`` and ``cuts`` of a run: the circuit's, then the caller's own. Raises WrongModelError."""
    masked = None if circuit is None else circuit(model)
    if isinstance(masked, MaskedPairs):
        raise ValueError("this circuit's ablation values follow from both prompts of a pair: use circuit.answers")

    def both(name: str, x: Tensor) -> Tensor:
        x = x if masked is None else masked.intervene(name, x)
        return x if intervene is None else intervene(name, x)

    return {"intervene": sees_residual(both), "cuts": {**(masked.cuts if masked else {}), **(cuts or {})}}


def _workspace_of(folder: Path) -> Workspace:
    return Workspace(folder.resolve().parent.parent)


def model_beside(circuit: Circuit) -> Path:
    """The checkpoint of a circuit loaded from circuits/<model>/<task>: models/<model> of that workspace.

    Raises ArtifactError for a circuit that lies elsewhere, or in no folder.
    """
    model = str(circuit.about.get("model"))
    if circuit.folder is None:
        raise ArtifactError(f"a circuit of {model} that was not loaded from a folder; name its model too")
    place = circuit.folder.resolve().parent.parent.parent / "models" / model
    if not place.is_dir():
        raise ArtifactError(f"{circuit.folder}: a circuit of {model}; there is no {place}; name the model (--model)")
    return place


def settings_for(folder: Path | str, params: Path | str | None = None) -> Params:
    """The settings in a file; None: those of the workspace that the model lies in, else of the current folder."""
    if params is None:
        places = [_workspace_of(Path(folder)).params, Path("params.yaml").resolve()]
        params = next((place for place in places if place.is_file()), None)
        if params is None:
            raise ConfigError(f"no settings: neither {places[0]} nor {places[1]} is there; name one (--params)")
    return load_params(params)


def _description_of(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json. Raises ArtifactError where the folder has none."""
    path = folder / "config.json"
    described = read_json(path) if path.is_file() else None
    if not isinstance(described, dict):
        absent = "has no config.json" if described is None else "is no checkpoint"
        raise ArtifactError(
            f"{folder}: {absent if folder.is_dir() else 'no such folder'}; allowed: the folder of a checkpoint, with "
            "config.json, model.safetensors and means.safetensors, as pretrain writes models/<name>"
        )
    return described


def _tokenizer_of(folder: Path, model: Transformer, trained_with: str | None, chosen: Path | str | None) -> Tokenizer:
    """The tokenizer of a checkpoint. Raises ArtifactError where it is missing or another one."""
    places = [folder, _workspace_of(folder).tokens] if chosen is None else [Path(chosen)]
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


def _tasks_for(loaded: LoadedModel, task: str, params: Params, *, called: str | None = None) -> tuple[TaskSet, str]:
    """A set that has the task, and its name there: pairs of a file; or the study's where it is in these tokens, else
    made now. ``called``: the name that a file's pairs get (None: the file's)."""
    tokenizer, n_ctx = loaded.tokenizer, loaded.model.config.n_ctx
    if task not in task_names() and Path(task).is_file():
        name = called or Path(task).stem
        return read_pairs(Path(task), tokenizer, n_ctx=n_ctx, seed=params.seed, name=name), name
    known, report = _known(task), loaded.workspace.tasks / "report.json"
    tasks = _study_tasks(report.parent, report.stat().st_mtime_ns) if report.is_file() else None
    if tasks is None or task not in tasks.names or tasks.tokenizer_hash != tokenizer.hash:
        rows, about = encode_task(known, params.tasks, params.seed, tokenizer)
        tasks = TaskSet({"tokenizer": tokenizer.hash, "seed": params.seed, "tasks": {task: about}}, {task: rows})
    longest = tasks.about(task)["n_tokens_max"] or 0
    if longest > n_ctx:
        raise TaskError(
            f"task {task}: its longest prompt has {longest} tokens; allowed: at most the model's n_ctx, {n_ctx}; "
            "take another task or a model that reads more"
        )
    return tasks, task


@lru_cache(maxsize=1)
def _study_tasks(folder: Path, _written: int) -> TaskSet:
    """All tasks of a study, read once for every time they were written."""
    return TaskSet.load(folder)


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
