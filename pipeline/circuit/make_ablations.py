"""Ablation values for a model and a task: of every kind that pruning was asked for, or as a circuit has them (§4)."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from pipeline.ablation import Ablation
from pipeline.artifacts import ArtifactError
from pipeline.circuit.ablation_values import AblationValues, Values, node_samples, random_windows
from pipeline.circuit.background import task_means
from pipeline.config import PruneConfig
from pipeline.data.pairs import PairBatch
from pipeline.data.shards import TokenStream
from pipeline.model.means import node_means
from pipeline.model.transformer import Transformer


def ablations_for(
    config: PruneConfig,
    model: Transformer,
    means: Values,
    train: PairBatch,
    tokens: Path,
    tokenizer: str | None,
    seed: int,
) -> list[AblationValues]:
    """The values of a circuit's complement under each of ``config.ablations``, on the means' device.

    ``train``: the task's train pairs, over which means of the task are taken. ``tokens``, the folder of packed tokens,
    is read for resampling only: ``draws`` random places of the training split, over which the means were taken too.
    Raises ArtifactError where the tokens are missing or not those of ``tokenizer`` (its hash), CorpusTooSmallError
    where they are fewer than one window.
    """
    made = []
    for kind in config.ablations:
        if kind is Ablation.RESAMPLE:
            made.append(resampled(config.draws, model, means, tokens, tokenizer, seed))
        elif kind is Ablation.TASK_MEAN:
            made.append(task_means(model, train, means))
        else:
            made.append(AblationValues.of(kind, means))
    return made


def resampled(
    n: int, model: Transformer, means: Values, tokens: Path, tokenizer: str | None, seed: int
) -> AblationValues:
    """Every node at its values at ``n`` random places of the training tokens."""
    stream = TokenStream.open(tokens, "train")
    if stream.tokenizer_hash != tokenizer:
        raise ArtifactError(
            f"{tokens}: in the tokens of tokenizer {stream.tokenizer_hash}, but the model was trained with {tokenizer};"
            " name the folder of the tokens that it was trained on"
        )
    windows = random_windows(stream, n, model.config.n_ctx, seed)
    samples = node_samples(model, [windows], n, seed)
    return AblationValues.resampled({key: value.to(means[key].device) for key, value in samples.items()})


def values_of(
    like: AblationValues, model: Transformer, windows: Int[Tensor, "window pos"], train: PairBatch, seed: int
) -> AblationValues:
    """The same kind and as many draws, by another model's values on windows of the pretraining distribution, and on a
    task's train pairs."""
    if like.kind is Ablation.ZERO:
        return like
    if like.kind is Ablation.RESAMPLE:
        return AblationValues.resampled(node_samples(model, [windows], len(like.draws), seed))
    means = {key: mean.to(model.device) for key, mean in node_means(model, [windows]).items()}
    return task_means(model, train, means) if like.kind is Ablation.TASK_MEAN else AblationValues.of(like.kind, means)
