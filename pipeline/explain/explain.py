"""The inputs that every node of every circuit of a model responds to: the content of ``explanations/<model>.json``.

``explain_circuit`` is about one circuit on its task's test pairs, ``explain_nodes`` about nodes over held-out code;
``assembled`` puts both together, with a table of the tokens that occur. Numbers have three significant digits; of
values token by token, that many of the node's largest (``pipeline.explain.rounding``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from pipeline.circuit import Circuit
from pipeline.circuit.graph import by_key
from pipeline.config import ExplainConfig
from pipeline.data.pairs import PairBatch
from pipeline.data.shards import TokenStream
from pipeline.data.tokenizer import Tokenizer
from pipeline.explain.distribution import node_values, of_node
from pipeline.explain.effects import ablated_losses
from pipeline.explain.flow import flow
from pipeline.explain.heads import heads
from pipeline.explain.labels import Labeller
from pipeline.explain.places import Places
from pipeline.explain.prompts import PromptRuns, node_runs, prompts
from pipeline.explain.rounding import rounded
from pipeline.explain.story import named_by, story, untold
from pipeline.explain.task_nodes import TaskReading
from pipeline.model.scoring import mean_loss, score
from pipeline.model.transformer import Transformer
from pipeline.rows import Explanation
from pipeline.seeds import seed_of
from pipeline.sites import node_name, site_keys, split_node_name

Explained = dict[str, Any]  # of a node or a circuit


def explain_circuit(
    model: Transformer, circuit: Circuit, batch: PairBatch, tokenizer: Tokenizer, config: ExplainConfig
) -> Explained:
    """One circuit on test pairs: ``model_loss``, ``prompts``, ``nodes``, ``heads``, ``story``, and of
    ``pipeline.explain.flow`` ``carried``, ``pushes``, ``paths``, ``order``, ``sizes``, ``size_pairs``.

    ``model_loss``: of the whole model, with nothing ablated, on the pairs of ``ablated_loss``. ``nodes``: name →
    ``model`` and ``circuit`` (values token by token, a list a prompt), ``removed_loss`` (of the circuit without the
    node, on the certificate's pairs; None without a certificate) and ``ablated_loss`` (of the whole model with only
    this node ablated, on the first ``ablated_pairs``), in nats; ``task_label``, from the first ``label_pairs``
    (``pipeline.explain.task_nodes``); of the ``most_nodes`` of largest effect only. ``story``: of these nodes
    (``pipeline.explain.story``). Raises WrongModelError, CompiledModelError.
    """
    runs = PromptRuns.of(model, circuit, batch.first(config.pairs))
    few = batch.first(config.ablated_pairs)
    removed, ablated = circuit.removal_losses, ablated_losses(model, circuit, few)
    effects = removed or ablated  # of a circuit without a certificate, on the model
    shown = sorted(circuit.node_names, key=lambda name: -effects[name])[: config.most_nodes]
    reading = TaskReading.of(model, circuit, batch.first(config.label_pairs), tokenizer, shown) if shown else None
    labels = {name: reading.label(name) for name in shown} if reading else {}
    nodes = {
        name: node_runs(runs, *split_node_name(name))
        | {
            "task_label": labels[name],
            "removed_loss": rounded(removed[name]) if name in removed else None,
            "ablated_loss": rounded(ablated[name]),
        }
        for name in shown
    }
    answers = {token: tokenizer.decode([token]) for token in runs.batch.answers.flatten().tolist()}
    told = story(reading) if reading else untold()
    return {
        "model_loss": rounded(mean_loss(score(model, few))),
        "prompts": prompts(runs, circuit, answers),
        "nodes": nodes,
        "heads": heads(model, circuit, runs, 2 * config.pattern_pairs),
        "story": told,
        **flow(model, circuit, batch.first(config.carried_pairs), few, named_by(told["sentences"])),
    }


def explain_nodes(
    model: Transformer,
    nodes: Iterable[str],
    *,
    stream: TokenStream,
    tokenizer: Tokenizer,
    config: ExplainConfig,
    seed: int,
) -> dict[str, Explained]:
    """Node name → its values over a split of the corpus.

    ``mean``, ``std``, ``density`` (share of places where it is not 0), ``least``, ``most``, ``histogram``; contexts
    ``top``, ``bottom`` and ``random``: ``tokens``, ``values`` and ``at``, the place in them that they are picked for;
    ``label`` (``pipeline.explain.labels``). Raises CorpusTooSmallError, CompiledModelError.
    """
    places, indices = Places.of(stream, tokenizer, config.tokens, model.config.n_ctx), by_site(model, nodes)
    labeller = Labeller(places, places.facts(), config, seed)
    generator, n = np.random.default_rng(seed_of(seed, "random places")), places.tokens.numel()
    some = generator.choice(n, min(config.contexts, n), replace=False).tolist()
    found: dict[str, Explained] = {}
    for key, values in node_values(model, places.tokens, indices).items():
        labels = labeller(values.flatten(0, 1))
        for place, (index, label) in enumerate(zip(indices[key].tolist(), labels, strict=True)):
            found[node_name(key, index)] = of_node(values[..., place], places, config, some) | {"label": label}
    return found


def by_site(model: Transformer, names: Iterable[str]) -> dict[str, Int[Tensor, " _n"]]:
    """Site key → indices of the named nodes, in the order of the forward pass."""
    found = by_key(map(split_node_name, set(names)))
    return {key: found[key].sort().values for key in site_keys(model.config.n_layer) if key in found}


def assembled(
    model: str,
    model_hash: str,
    nodes: Mapping[str, Explained],
    circuits: Mapping[str, Explained],
    tokenizer: Tokenizer,
) -> Explanation:
    """The whole of ``explanations/<model>.json``: tokens become indices into the table ``tokens`` of their texts."""
    used: set[int] = set()
    with_tokens([nodes, circuits], used.update)
    place = {token: index for index, token in enumerate(sorted(used))}
    nodes, circuits = with_tokens([nodes, circuits], lambda ids: [place[token] for token in ids])
    texts = [tokenizer.decode([token]) for token in place]
    return {"model": model, "model_hash": model_hash, "tokens": texts, "nodes": nodes, "circuits": circuits}


def with_tokens(value: Any, change: Callable[[list[int]], Any]) -> Any:
    """The same with ``change(ids)`` in place of every list of token ids."""
    if isinstance(value, Mapping):
        return {name: change(part) if name == "tokens" else with_tokens(part, change) for name, part in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        return [with_tokens(part, change) for part in value]
    return value
