"""A model with a known circuit in it; and the prompts, the corpus and the means that a search for it needs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.circuit.interventions import edge_weights
from pipeline.data.pairs import PairBatch
from pipeline.model.means import node_means
from pipeline.model.scoring import score
from pipeline.model.transformer import Transformer
from pipeline.planted.distractors import fill, reads
from pipeline.planted.induction import induction
from pipeline.planted.layout import ResidualLayout, draw_layout
from pipeline.planted.lists import lists
from pipeline.planted.quote import quote
from pipeline.planted.recipe import N_CTX, Recipe, Wire
from pipeline.seeds import seed_of
from pipeline.shape import ModelShape
from pipeline.sites import Site, edge_key

FIT_LOSS = 0.01  # nats: the task is done, and not so surely that no gradient is left to a method that needs one
FIT_PAIRS = 128
MEAN_TOKENS = 4096
CENTRED = (Site.ATTN_Q, Site.ATTN_OUT, Site.MLP_OUT)


class Algorithm(StrEnum):
    """The algorithm of a planted circuit."""

    QUOTE = "quote"  # close the quote that was opened: one attention head that looks for it
    LISTS = "lists"  # close a nested or a flat list: one head that averages, one neuron that compares
    INDUCTION = "induction"  # copy the token after the previous occurrence of the last: two heads in two layers


RECIPES: dict[Algorithm, Callable[[int], Recipe]] = {
    Algorithm.QUOTE: quote,
    Algorithm.LISTS: lists,
    Algorithm.INDUCTION: induction,
}


@dataclass(frozen=True)
class Language:
    """The text of a planted model: the recipe's tokens, as the model numbers them. Draws are by seed and purpose."""

    recipe: Recipe
    tokens: Mapping[str, int]
    seed: int

    def batch(self, split: str, n_pairs: int) -> PairBatch:
        """The first ``n_pairs`` contrast pairs of a split, padded on the right with token 0; any name is a split."""
        draw = random.Random(seed_of(self.seed, "pairs", split))
        pairs = [self.recipe.pair(draw, i) for i in range(n_pairs)]
        prompts = [[self.tokens[name] for name in prompt] for pair in pairs for prompt in pair.prompts]
        answers = [[self.tokens[name] for name in order] for p in pairs for order in (p.answers, p.answers[::-1])]
        return PairBatch.of(prompts, answers, pad=0)

    def corpus(self, n_tokens: int) -> Int[Tensor, "sequence pos"]:
        """At least ``n_tokens`` of the pretraining distribution, in sequences of the context's length.

        Tokens are random; every other sequence begins with a prompt.
        """
        n = -(-n_tokens // N_CTX)
        generator = torch.Generator().manual_seed(seed_of(self.seed, "corpus"))
        sequences = torch.randint(0, len(self.tokens), (n, N_CTX), generator=generator)
        prompts = self.batch("corpus", -(-n // 4))
        for sequence, tokens, last in zip(sequences[::2], prompts.tokens, prompts.last.tolist(), strict=False):
            sequence[: last + 1] = tokens[: last + 1]
        return sequences


@dataclass(frozen=True)
class Planted(Language):
    """A frozen model that does one task by a circuit that is known exactly, and its language.

    ``nodes`` and ``edges`` are as a ``Circuit``'s: site key → indices, ascending; edge key → [n, 2] (source index,
    target index), sorted. ``means``: site key → every node's mean over ``corpus(4096)``. The circuit alone does the
    task; any circuit that does it has all of these nodes and edges; and no further node or edge helps or hurts.
    """

    name: str
    model: Transformer
    nodes: Mapping[str, Int[Tensor, " _n"]]
    edges: Mapping[str, Int[Tensor, "_n 2"]]
    means: Mapping[str, Float[Tensor, " _width"]]


@torch.no_grad()
def plant(
    algorithm: Algorithm,
    *,
    d_model: int,
    seed: int,
    n_layer: int = 2,
    d_head: int = 16,
    vocab_size: int = 48,
    afrac: float = 1.0,
) -> Planted:
    """A model that does ``algorithm`` by a circuit planted at random places among random distractors.

    The same arguments give the same bits. Raises ValueError for a model or a vocabulary too small for the algorithm, or
    where AbsTopK (``afrac`` below 1) leaves so little of the circuit that the model does not do the task.
    """
    recipe = RECIPES[algorithm](vocab_size)
    config = ModelShape(
        n_layer=n_layer, d_model=d_model, d_head=d_head, n_ctx=N_CTX, afrac=afrac, positions=bool(recipe.clock)
    )
    check(algorithm, recipe, config, vocab_size)
    generator = torch.Generator().manual_seed(seed_of(seed, "planted", algorithm, str(d_model)))
    layout = draw_layout(recipe, config, generator)
    language = Language(recipe, layout.tokens, seed_of(seed, "language", algorithm))
    model = Transformer(config, vocab_size)
    fill(model, recipe, layout, generator)
    write(model, recipe, layout, generator)
    model.freeze()
    centre(model, recipe, layout, language)
    fit_answers(model, recipe, layout, language)
    means = node_means(model, [language.corpus(MEAN_TOKENS)])
    return Planted(
        **vars(language),
        name=f"{algorithm}-{d_model}-{seed}",
        model=model,
        nodes=layout.nodes(recipe),
        edges=layout.edges(recipe.wires),
        means=means,
    )


def check(algorithm: Algorithm, recipe: Recipe, config: ModelShape, vocab_size: int) -> None:
    """Raises ValueError where the algorithm does not fit into the model."""
    least = {"n_layer": recipe.n_parts, "d_model": 32, "d_head": 8}
    for name, allowed in least.items():
        if getattr(config, name) < allowed:
            raise ValueError(
                f"{name} {getattr(config, name)} is too small for {algorithm}; allowed: at least {allowed}"
            )
    needed = sum(not name.startswith("filler") for name in recipe.tokens) + 8  # fillers that prompts are made with
    if vocab_size < needed:
        raise ValueError(f"vocab_size {vocab_size} is too small for {algorithm}; allowed: at least {needed}")


def write(model: Transformer, recipe: Recipe, layout: ResidualLayout, generator: torch.Generator) -> None:
    """The planted weights and biases, half of the decoys with random signs, the clock, the answers."""
    for wire in recipe.wires:
        set_weight(model, layout, wire, wire.weight)
    for wire in recipe.decoys:
        present, positive = torch.randint(0, 2, (2,), generator=generator).tolist()
        set_weight(model, layout, wire, present * (1 if positive else -1) * wire.weight)
    for node, value in recipe.biases.items():
        reads(model.transformer["h"][layout.layers[node.part]], node)[1][layout.index(node)] = value
    if recipe.clock:
        model.transformer["wpe"].weight.zero_()
    for channel, values in recipe.clock.items():
        model.transformer["wpe"].weight[:, layout.channels[channel]] = torch.tensor(values)
    for name, code in recipe.answers.items():
        for channel, value in code.items():
            model.lm_head.weight[layout.tokens[name], layout.channels[channel]] = value


def set_weight(model: Transformer, layout: ResidualLayout, wire: Wire, weight: float) -> None:
    key = edge_key(layout.layers[wire.source.part], wire.kind)
    edge_weights(model, key)[layout.index(wire.target), layout.index(wire.source)] = weight


def centre(model: Transformer, recipe: Recipe, layout: ResidualLayout, language: Language) -> None:
    """Set biases so that planted queries and writes have mean 0: an ablated one neither looks nor says anything.

    After an ablated write of 0 the norm has nothing to scale: no answer leaks through the length of the residual
    stream. Nodes with a bias of their own keep it.
    """
    corpus = [language.corpus(MEAN_TOKENS)]
    for part, layer in enumerate(layout.layers):
        for site in CENTRED:
            nodes = [n for n in recipe.nodes if (n.part, n.site) == (part, site) and n not in recipe.biases]
            if nodes:
                mean = node_means(model, corpus)[f"{layer}.{site}"]
                for node in nodes:
                    index = layout.index(node)
                    reads(model.transformer["h"][layer], node)[1][index] -= mean[index]


def fit_answers(model: Transformer, recipe: Recipe, layout: ResidualLayout, language: Language) -> None:
    """A shift between two answers that makes both sides' least sure pair as sure, and a gain for the loss FIT_LOSS."""
    right, wrong = score(model, language.batch("fit", FIT_PAIRS)).unbind(1)
    margin = right - wrong
    shift = float(margin[1::2].min() - margin[0::2].min()) / 2 if len(recipe.answers) == 2 else 0.0
    margin[0::2] += shift
    margin[1::2] -= shift
    if margin.min() <= 0:
        raise ValueError("the planted circuit does not do its task here; raise afrac, or take another seed")
    gain = gain_for(margin, FIT_LOSS)
    tokens = torch.tensor([layout.tokens[name] for name in recipe.answers])
    channels = torch.tensor(sorted({layout.channels[name] for code in recipe.answers.values() for name in code}))
    model.lm_head.weight[tokens[:, None], channels] *= gain
    assert model.bigram_table is not None
    model.bigram_table[:, tokens[0]] += gain * shift


def gain_for(margin: Float[Tensor, " prompt"], loss: float) -> float:
    """The factor that gives positive margins that mean loss in nats, by bisection."""
    low, high = 0.0, -math.log(math.expm1(loss)) / float(margin.min())  # there, even the least sure has that loss
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if float(F.softplus(-middle * margin).mean()) < loss else (middle, high)
    return high
