"""Every setting of the study: one frozen class per section of params.yaml, unknown keys refused.

Nothing has a default, but for a model's own seed, and for what came to section prune later: older settings, of a shared
model, still load. ``params.yaml`` holds every number; these classes say what each means and which values are allowed.
Derived numbers are properties. ``load_params`` refuses what it does not know by its full path, with the nearest name.
"""

from __future__ import annotations

import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.ablation import Ablation
from pipeline.refusal import YAML_ERRORS, ModelName, RefusalError, read_yaml, sentence
from pipeline.shape import ModelShape, PositiveFraction, PositiveInt, option

Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]  # of a moving average


class ConfigError(RefusalError, ValueError):
    """A setting that cannot be used; the message names the key, the value and what is allowed."""


class Settings(BaseModel):
    """A part of params.yaml: immutable, complete, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ComputeConfig(Settings):
    """Where and how numbers are computed."""

    device: Literal["auto", "cuda", "mps", "cpu"]  # auto takes the first of cuda, mps, cpu that is there
    precision: Literal["auto", "bfloat16", "float32"]  # of matrix products; auto: bfloat16 where in hardware
    threads: PositiveInt  # CPU threads of one process; part of what makes results bit-identical
    sparse_below: Literal["auto"] | Fraction  # density from which on products skip zeros; auto: by measurement
    workers: PositiveInt  # units of a mapped stage (tasks of one model) side by side, one thread each
    processes: PositiveInt  # that train one model together on this machine: each has a share of the batch and a GPU


class CodeSource(Settings):
    """A source of real code, which is cut into functions."""

    weight: PositiveFraction  # share of the corpus' characters
    min_lines: PositiveInt  # of a function
    max_lines: PositiveInt


class InstalledSource(CodeSource):
    """Functions of the standard library and of the packages that the lock file names, as installed here."""

    kind: Literal["installed"]


class FilesSource(CodeSource):
    """The user's own files: .py (cut into functions), .jsonl or .parquet (one text per row)."""

    kind: Literal["files"]
    globs: list[str]
    column: str  # of .jsonl and .parquet


class HuggingFaceSource(CodeSource):
    """Any dataset that the datasets library reads: of the hub, of a local folder, or of files."""

    kind: Literal["huggingface"]
    path: str
    name: str | None
    split: str
    column: str
    filter: dict[str, str]  # column → value a row must have
    data_files: list[str] | None = option(None)  # globs of files; ``path`` is then json, parquet, arrow or text
    streaming: bool = option(True)  # false: downloaded whole first


class IdiomsSource(Settings):
    """Generated simple, repetitive Python: the counterpart of the paper's simple component (§2)."""

    kind: Literal["idioms"]
    weight: Annotated[float, Field(gt=0, le=0.5)]  # real code keeps at least half


Source = Annotated[InstalledSource | FilesSource | HuggingFaceSource | IdiomsSource, Field(discriminator="kind")]


class CorpusConfig(Settings):
    """The text that the models read."""

    n_chars: PositiveInt  # size of the corpus, all sources together, in characters
    validation_frac: Annotated[float, Field(gt=0, lt=0.5)]  # of source files or packages
    sources: Annotated[list[Source], Field(min_length=1)]

    @model_validator(mode="after")
    def _weights_add_up(self) -> CorpusConfig:
        total = sum(source.weight for source in self.sources)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the weights of the sources add up to {total:g}; they must add up to 1")
        return self


class TokeniseConfig(Settings):
    """The tokenizer and the statistics of its tokens."""

    vocab_size: Annotated[int, Field(ge=257, le=200_000)]  # 256 bytes and <|endoftext|> at least
    bigram_smoothing: Annotated[float, Field(gt=0)]  # pseudo-count, spread as the unigram distribution
    tokenizer: str | None = option(None)  # a folder with one to take, instead of learning one from the corpus


class TasksConfig(Settings):
    """How many contrast pairs of each task there are."""

    n_train: PositiveInt
    n_validation: PositiveInt
    n_test: PositiveInt
    tail_chars: PositiveInt  # a prompt's last characters, which must not occur in the training split


class ModelConfig(ModelShape):
    """One model of the study: its shape, its sparsity, and what it is trained with (§1 and §2)."""

    afrac: PositiveFraction
    sink: bool
    positions: bool
    block_density: PositiveFraction  # nonzero fraction of attention and MLP matrices; 1 = dense
    embed_density: PositiveFraction  # nonzero fraction of embedding, unembedding and biases
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)]  # base learning rate
    tokens: PositiveInt  # training tokens
    seed: Annotated[int, Field(ge=0)] | None = option(None)  # its own instead of the study's: of weights and batches

    @property
    def kind(self) -> Literal["sparse", "dense"]:
        """Dense models have density 1 and AbsTopK off: same code, nothing sparse."""
        return "dense" if self.block_density == self.embed_density == self.afrac == 1 else "sparse"


class PretrainConfig(Settings):
    """The settings of training that all models share (§2)."""

    batch: PositiveInt  # sequences of n_ctx tokens a step, all processes together
    accumulate: PositiveInt  # parts of a process' share of them that pass one after the other, to spare memory
    activation_checkpointing: bool  # layers are computed again in the backward pass: less memory, a third more time
    keep_alive: Annotated[int, Field(ge=0)]  # least nonzero weights of a neuron or attention channel (the paper's j)
    anneal_start: Fraction  # fraction of steps after which weights begin to be zeroed
    anneal_end: Fraction  # fraction of steps at which the target density is reached
    warmup: Fraction  # fraction of steps of learning-rate warm-up
    beta1: Decay
    beta2: Decay
    eps: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    dense_gradient_every: PositiveInt  # steps after annealing; between them of few weights (pretrain/backward_set.py)
    bigram_init: Literal["counts", "uniform"]  # smoothed log counts of the training tokens, or the authors' U(0, 0.02)
    validate_every: PositiveInt  # steps
    validation_tokens: PositiveInt
    mean_tokens: PositiveInt  # training tokens over which each node's mean is taken
    checkpoint_every: PositiveInt  # steps between resumable checkpoints

    @model_validator(mode="after")
    def _anneals_forwards(self) -> PretrainConfig:
        if self.anneal_start > self.anneal_end:  # where both are the same, all at once
            raise ValueError(f"anneal_start {self.anneal_start:g} is after anneal_end {self.anneal_end:g}")
        return self

    def sequences_at_once(self, processes: int) -> int:
        """Sequences in one forward pass of each process. Raises ValueError where they do not come out equal."""
        parts = processes * self.accumulate
        if self.batch % parts:
            raise ValueError(
                f"pretrain.batch {self.batch} does not divide into equal parts for {processes} processes × "
                f"pretrain.accumulate {self.accumulate}; allowed: a multiple of {parts}"
            )
        return self.batch // parts


class Baseline(StrEnum):
    """Ways to rank nodes that learned pruning is compared with (the paper's Fig 31)."""

    ATTRIBUTION = "attribution"  # gradient × (activation − mean), at the unpruned model
    INTEGRATED_GRADIENTS = "integrated_gradients"  # the same, averaged on the way from all means to the unpruned model
    RANDOM = "random"


class Hyperparameters(Settings):
    """The eight that the paper tunes for every model and task (Table 2)."""

    k_coef: Annotated[float, Field(gt=0)]  # nats a kept node
    init_noise_scale: Annotated[float, Field(ge=0)]
    init_noise_bias: float
    weight_decay: Annotated[float, Field(ge=0)]
    lr: Annotated[float, Field(gt=0)]
    beta2: Decay
    warmup: Fraction  # of the steps
    heaviside_temp: Annotated[float, Field(gt=0)]


class DecidingConfig(Settings):
    """What the search for a deciding circuit does in another way: one that decides whatever surrounds it (§6)."""

    ablations: Annotated[list[Ablation], Field(min_length=1)]
    most_scale: Annotated[float, Field(ge=1)]
    max_minimised_edges: PositiveInt
    target_losses: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]  # the first that is met counts
    curve_losses: list[Annotated[float, Field(gt=0)]]
    centres: Annotated[list[Hyperparameters], Field(min_length=1)]
    baselines: list[Baseline]


class PruneConfig(Settings):
    """The search for a circuit (§4)."""

    target_loss: Annotated[float, Field(gt=0)]  # nats, two-way, on train and validation pairs
    curve_losses: list[Annotated[float, Field(gt=0)]]  # targets of the loss-against-size curve
    steps: PositiveInt
    batch_pairs: PositiveInt
    centres: Annotated[list[Hyperparameters], Field(min_length=1)]  # all are tried; the circuit of fewest edges wins
    budget: Annotated[int, Field(ge=0)]  # trials that Optuna adds to the centres; 0 = centres only
    at_once: PositiveInt  # trials that are searched for together, at most
    grad_clip: Annotated[float, Field(gt=0)]
    calibration_steps: Annotated[int, Field(ge=0)]  # of Newton; 0 = no calibration
    train_pairs: PositiveInt = 100_000  # at most, by which a circuit is found
    validation_pairs: PositiveInt = 100_000  # at most, by which it is chosen
    calibration_pairs: PositiveInt  # of the train pairs
    most_scale: Annotated[float, Field(ge=1)]  # that calibration may multiply answer logits by
    tie_qk: bool  # one mask for channel i of attn_q and channel i of attn_k
    ablations: Annotated[list[Ablation], Field(min_length=1)]  # the target has to be met under each
    draws: PositiveInt  # of resampled values; not used by the other kinds
    max_minimised_edges: PositiveInt = 100_000  # a discretised circuit of more edges stays as it is
    baselines: list[Baseline]
    deciding: DecidingConfig | None = None  # None: no deciding circuits

    @model_validator(mode="before")
    @classmethod
    def _one_ablation(cls, values: Any) -> Any:
        """Settings from before there could be several say ``ablation``."""
        if isinstance(values, dict) and "ablation" in values and "ablations" not in values:
            others = {key: value for key, value in values.items() if key != "ablation"}
            return others | {"ablations": [values["ablation"]]}
        return values

    def for_deciding(self) -> list[PruneConfig]:
        """The same search for a deciding circuit, at each of its targets: the first that is met counts."""
        own = {"target_losses": [], "curve_losses": []} | dict(self.deciding or {}) | {"deciding": None}
        targets, curve = own.pop("target_losses"), own.pop("curve_losses")
        at = [{"target_loss": target, "curve_losses": [x for x in curve if x >= target]} for target in targets]
        return [self.model_copy(update=own | changed) for changed in at]


class AblateConfig(Settings):
    """The tests of a circuit on pairs it was not made from (§6)."""

    n_random: Annotated[int, Field(ge=1)]  # random sets of the circuit's size per site
    random_pairs: PositiveInt  # of the test pairs, on which the random sets are scored
    n_bootstrap: Annotated[int, Field(ge=100)]


class GeneralisationConfig(Settings):
    """Generalisation sets, which tell a task's algorithm from other algorithms that do as well on its own pairs."""

    n_pairs: PositiveInt  # of each family, made from the task's test pairs
    n_natural: PositiveInt  # contexts of the held-out corpus in which the same decision is made, at most


class ValidateConfig(Settings):
    """The tests that try to refute a circuit (§6), all on test pairs."""

    pairs: PositiveInt  # of the test pairs, the first so many, in all tests
    few_pairs: PositiveInt  # of these, in tests that run the whole model again and again
    n_bootstrap: Annotated[int, Field(ge=100)]
    draws: PositiveInt  # of resampled values, and of random subsets of the complement
    adversary_steps: PositiveInt  # of projected gradient ascent
    points: Annotated[int, Field(ge=3)]  # sizes of the curves of necessity and of faithfulness
    n_random: PositiveInt  # random sets of the same size, at each of them
    permutations: Annotated[int, Field(ge=100)]
    alpha: Annotated[float, Field(gt=0, lt=1)]  # level of the hypothesis tests, after correction
    seeds: Annotated[int, Field(ge=0)]  # of the search, whose circuits are compared; 0: not tested
    control_models: list[str]  # names in ``models``: their circuits also get the stress tests, and
    control_tasks: list[str]  # those of these tasks are compared with circuits of the method's controls


class ExplainConfig(Settings):
    """The values of a circuit's nodes that are shown, and those that labels rest on."""

    tokens: PositiveInt  # of held-out code, at which the values of nodes are recorded
    contexts: PositiveInt  # of each kind (largest, least, random), a node
    context_tokens: PositiveInt  # of each of them
    bins: PositiveInt  # of a node's histogram
    pairs: PositiveInt  # of the test pairs, on which nodes are shown token by token
    pattern_pairs: PositiveInt  # of these, those on which attention patterns are shown
    ablated_pairs: PositiveInt  # of the test pairs, for the loss with a single node ablated
    label_pairs: PositiveInt  # of the test pairs, from which labels and sentences are made, half of them to check
    carried_pairs: PositiveInt  # of the test pairs, over which what edges carry is a mean
    most_nodes: PositiveInt  # of a circuit, those of largest effect
    least_score: Fraction  # R² below which a label is none
    margin: Fraction  # R² that a longer label has to have more
    others: Annotated[int, Field(ge=0)]  # next best labels that are kept

    @model_validator(mode="after")
    def _patterns_are_of_shown_pairs(self) -> ExplainConfig:
        if self.pattern_pairs > self.pairs:
            raise ValueError(f"pattern_pairs {self.pattern_pairs} is more than pairs {self.pairs}; lower it")
        return self


class ReportConfig(Settings):
    """The frontier and its interval."""

    n_bootstrap: Annotated[int, Field(ge=100)]
    example_pairs: PositiveInt
    example_model: str  # that example/ ships with its circuits


class TrackingConfig(Settings):
    """Where MLflow files what it is told; MLFLOW_TRACKING_URI says which server."""

    experiment: str
    flush_seconds: Annotated[float, Field(gt=0)]


# The section has its stage's name; what it hides is a deprecated method that nothing here calls.
warnings.filterwarnings("ignore", message='Field name "validate" in "Params" shadows', category=UserWarning)


class Params(Settings):
    """All of params.yaml."""

    profile: str
    seed: Annotated[int, Field(ge=0)]
    compute: ComputeConfig
    corpus: CorpusConfig
    tokenise: TokeniseConfig
    tasks: TasksConfig
    pretrain: PretrainConfig
    models: Annotated[dict[ModelName, ModelConfig], Field(min_length=1)]
    prune: PruneConfig
    ablate: AblateConfig
    generalisation: GeneralisationConfig
    validate: ValidateConfig  # type: ignore[assignment]
    explain: ExplainConfig
    report: ReportConfig
    tracking: TrackingConfig

    @model_validator(mode="after")
    def _sections_fit(self) -> Params:
        self.pretrain.sequences_at_once(self.compute.processes)
        for name, model in self.models.items():
            weights, least = model.block_density * model.d_model, self.pretrain.keep_alive
            if weights < least and model.block_density < 1:
                raise ValueError(
                    f"models.{name}.block_density {model.block_density:g} leaves {weights:.2g} weights a neuron, "
                    f"below pretrain.keep_alive {least}; allowed: at least {least / model.d_model:.4g}"
                )
        unknown = [name for name in self.validate.control_models if name not in self.models]
        if unknown:
            allowed = f"allowed: names in models, {', '.join(self.models)}"
            raise ValueError(f"validate.control_models: unknown model {unknown[0]!r}; {allowed}")
        return self

    def model(self, name: str) -> ModelConfig:
        """The settings of one model. Raises ConfigError for an unknown name."""
        if name not in self.models:
            raise ConfigError(f"unknown model {name!r}; params.yaml has {', '.join(self.models)}")
        return self.models[name]

    def training_seed(self, name: str) -> int:
        """The seed of one model's training: its own, or the study's. Raises ConfigError for an unknown name."""
        own = self.model(name).seed
        return self.seed if own is None else own

    def seeds_of_one_architecture(self) -> list[list[str]]:
        """Names of the models that differ in nothing but name and seed, together; of two models or more each."""
        groups: dict[str, list[str]] = {}
        for name, model in self.models.items():
            groups.setdefault(model.model_dump_json(exclude={"seed"}), []).append(name)
        return [names for names in groups.values() if len(names) > 1]


def load_params(path: Path | str = "params.yaml") -> Params:
    """The settings in a params file. Raises ConfigError that names every wrong key by its full path."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; run from the project's folder")
    try:
        raw = read_yaml(path)
    except YAML_ERRORS as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    return parse_params(raw, origin=str(path))


def parse_params(raw: Any, origin: str = "params") -> Params:
    """Checked settings from plain values. Raises ConfigError as ``load_params`` does."""
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{origin}: {sentence(dict(one), Params)}" for one in error.errors())) from error
