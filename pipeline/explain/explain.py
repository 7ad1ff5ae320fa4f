"""What every node of every circuit of a model responds to: the content of ``explanations/<model>.json``.

``explain_circuit`` is about one circuit on its task's test pairs, ``explain_nodes`` about nodes over held-out code;
``assembled`` puts both together, with a table of the tokens that occur. Numbers have three significant digits; of
values token by token, that many of the node's largest (``pipeline.explain.rounding``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.config import ExplainConfig
from pipeline.data.pairs import PairBatch
from pipeline.data.shards import TokenStream
from pipeline.data.tokenizer import Tokenizer
from pipeline.explain.distribution import distribution
from pipeline.explain.effects import ablated_losses, by_effect, removed_losses
from pipeline.explain.heads import heads
from pipeline.explain.places import Places
from pipeline.explain.prompts import Runs, node_runs, prompts
from pipeline.explain.rounding import rounded
from pipeline.model.scoring import mean_loss, score
from pipeline.model.transformer import Transformer
from pipeline.rows import Explanation
from pipeline.sites import site_keys

Found = dict[str, Any]


def explain_circuit(
    model: Transformer, circuit: Circuit, batch: PairBatch, tokenizer: Tokenizer, config: ExplainConfig
) -> Found:
    """One circuit on test pairs: ``model_loss``, ``prompts``, ``nodes``, ``heads``.

    ``model_loss``: of the whole model, with nothing held, on the pairs of ``ablated_loss``.

    ``nodes``: name → ``model`` and ``circuit`` (values token by token, a list a prompt), ``removed_loss`` (of the
    circuit without the node, on the certificate's pairs; None: it has no certificate) and ``ablated_loss`` (of the
    whole model with only this node held, on the first ``ablated_pairs``), in nats; of the ``most_nodes`` of largest
    effect only. Raises WrongModelError, CompiledModelError.
    """
    runs = Runs.of(model, circuit, first(batch, config.pairs))
    few = first(batch, config.ablated_pairs)
    removed, ablated = removed_losses(circuit), ablated_losses(model, circuit, few)
    nodes = {}
    for node in by_effect(circuit, removed, ablated)[: config.most_nodes]:
        losses = {
            "removed_loss": rounded(removed[node]) if node in removed else None,
            "ablated_loss": rounded(ablated[node]),
        }
        nodes["{}.{}".format(*node)] = node_runs(runs, *node) | losses
    answers = {token: tokenizer.decode([token]) for token in runs.batch.answers.flatten().tolist()}
    return {
        "model_loss": rounded(mean_loss(score(model, few))),
        "prompts": prompts(runs, circuit, answers),
        "nodes": nodes,
        "heads": heads(model, circuit, runs, 2 * config.pattern_pairs),
    }


def first(batch: PairBatch, n: int) -> PairBatch:
    """The first pairs; all where there are fewer."""
    return batch.take(torch.arange(min(n, batch.n_pairs)))


def explain_nodes(
    model: Transformer,
    nodes: Iterable[str],
    *,
    stream: TokenStream,
    tokenizer: Tokenizer,
    config: ExplainConfig,
    seed: int,
) -> dict[str, Found]:
    """Node name → what it does over a split of the corpus.

    ``mean``, ``std``, ``density`` (share of places where it is not 0), ``least``, ``most``, ``histogram``; contexts
    ``top``, ``bottom`` and ``random``: ``tokens``, ``values`` and ``at``, the place in them that they are picked for;
    ``label`` (``pipeline.explain.labels``). Raises CorpusTooSmallError, CompiledModelError.
    """
    places = Places.of(stream, tokenizer, config.tokens, model.config.n_ctx)
    return distribution(model, places, by_site(model, nodes), config, seed)


def by_site(model: Transformer, names: Iterable[str]) -> dict[str, Int[Tensor, " n"]]:
    """Site key → indices of the named nodes, in the order of the forward pass."""
    found: dict[str, list[int]] = {}
    for name in set(names):
        key, _, index = name.rpartition(".")
        found.setdefault(key, []).append(int(index))
    return {key: torch.tensor(sorted(found[key])) for key in site_keys(model.config.n_layer) if key in found}


def assembled(
    model: str, model_hash: str, nodes: Mapping[str, Found], circuits: Mapping[str, Found], tokenizer: Tokenizer
) -> Explanation:
    """The whole of ``explanations/<model>.json``: tokens become indices into the table ``tokens`` of their texts."""
    used = sorted({token for part in token_lists([nodes, circuits]) for token in part})
    place = {token: index for index, token in enumerate(used)}
    return {
        "model": model,
        "model_hash": model_hash,
        "tokens": [tokenizer.decode([token]) for token in used],
        "nodes": renamed(nodes, place),
        "circuits": renamed(circuits, place),
    }


def token_lists(value: Any) -> Iterable[list[int]]:
    """Every list of token ids inside ``value``."""
    if isinstance(value, Mapping):
        if "tokens" in value:
            yield value["tokens"]
        for part in value.values():
            yield from token_lists(part)
    elif isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        for part in value:
            yield from token_lists(part)


def renamed(value: Any, place: Mapping[int, int]) -> Any:
    """The same with every token id replaced."""
    if isinstance(value, Mapping):
        return {
            name: [place[token] for token in part] if name == "tokens" else renamed(part, place)
            for name, part in value.items()
        }
    if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        return [renamed(part, place) for part in value]
    return value
