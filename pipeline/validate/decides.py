"""Does the circuit decide the answer: against all else, and put into a run of the pair's other prompt (§6)?

A circuit that is sufficient against a constant background may still be overruled, since most of the decision can run
elsewhere. *Counterfactual*: the circuit runs on one prompt, all else has the values of the pair's other prompt,
position by position, and a cut edge carries its source's value there (the ablation of ACDC, arXiv 2304.14997, and of
MIB, 2504.13151). *Flip*: the model runs on one prompt, and only the circuit's nodes have the values of the other one
(interchange interventions, Geiger et al. 2021): the answer has to become the other prompt's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.circuit import Circuit
from pipeline.circuit.cut_linear import between_channels
from pipeline.circuit.interventions import SOURCES, edge_cuts, mask_nodes
from pipeline.data.pairs import PairBatch, counterparts, of_pairs
from pipeline.model.transformer import Cuts, Transformer
from pipeline.rows import Check
from pipeline.sites import Site, site_key
from pipeline.validate.circuit_under_test import UNCALIBRATED, CircuitUnderTest, PromptAnswers
from pipeline.validate.limits import MARGIN, MIN_ACCURACY, half_way
from pipeline.validate.paired_runs import Indices, RecordedValues, given, padded_answers, recorded
from pipeline.validate.verdict import check, untested

PAIRS_AT_ONCE = 16  # whose values at all sites are in memory at one time
N_SWAPPED = 4  # random sets, as large as the circuit, that are put into the other run as well
NAMES = ("counterfactual_accuracy", "counterfactual_loss", "flip_accuracy", "flip_edges_accuracy")


def decides(tested: CircuitUnderTest) -> dict[str, Any]:
    """Both ways, with their checks; without a node, there is nothing that could decide.

    ``counterfactual``: ``loss`` (calibrated, nats), ``loss_uncalibrated`` and ``accuracy``, estimates on test pairs.
    ``flip``: ``accuracy``, the share of the test pairs' prompts whose answer becomes that of the pair's other prompt;
    ``edges``: the share where only the circuit's edges carry the other prompt's values, so that what else reads its
    nodes does not follow them; ``random``: as ``accuracy``, on the few pairs, with as many random nodes instead.
    """
    if not tested.circuit.n_nodes:
        return {"tests": [untested(name, "no node is kept") for name in NAMES]}
    against, by_nodes, by_edges = in_parts(lambda *part: both_ways(tested, *part), tested, tested.test)
    found: dict[str, Any] = {
        "loss": tested.estimate(tested.losses(against)),
        "loss_uncalibrated": tested.estimate(tested.losses(against, UNCALIBRATED)),
        "accuracy": tested.estimate(of_pairs((against[:, 0] > against[:, 1]).float())),
    }
    shares = {"accuracy": tested.estimate(flipped(by_nodes)), "edges": tested.estimate(flipped(by_edges))}
    flip = shares | {"random": of_random(tested)}
    return {"counterfactual": found, "flip": flip, "tests": [*check_against(tested, found), *check_flip(flip)]}


@torch.no_grad()
def in_parts(
    runs: Callable[[PairBatch, RecordedValues], Sequence[PromptAnswers]], tested: CircuitUnderTest, batch: PairBatch
) -> list[PromptAnswers]:
    """The answers of some runs to a batch, each given a few pairs with their counterfactual values, which take room."""
    pairs = torch.arange(batch.n_pairs, device=batch.tokens.device).split(PAIRS_AT_ONCE)
    parts = [batch.take(some) for some in pairs]
    found = [runs(part, counterfactual_values(tested.model, part, tested.circuit.means)) for part in parts]
    return [torch.cat(answers) for answers in zip(*found, strict=True)]


def counterfactual_values(
    model: Transformer, batch: PairBatch, means: Mapping[str, Float[Tensor, " _width"]]
) -> RecordedValues:
    """Site key → the model's values [prompt, pos, width] on the pair's other prompt, at the aligned positions; means
    where there is none."""
    aligned = counterparts(batch)
    other = torch.arange(len(aligned), device=aligned.device)[:, None] ^ 1
    there, at = (aligned >= 0)[..., None], aligned.clamp(min=0)
    values = recorded(model, batch).values
    return {key: torch.where(there, x[other, at], means[key].to(x)) for key, x in values.items()}


def both_ways(tested: CircuitUnderTest, batch: PairBatch, values: RecordedValues) -> list[PromptAnswers]:
    """Answers of the circuit against all else, and of the model with the circuit's nodes, and with its edges, as on the
    pair's other prompt."""
    return [
        counterfactual_answers(tested.model, tested.circuit, batch, values),
        swapped_nodes(tested, tested.circuit.nodes, batch, values),
        swapped_edges(tested.model, tested.circuit, batch, values),
    ]


@torch.no_grad()
def counterfactual_answers(
    model: Transformer, circuit: Circuit, batch: PairBatch, values: RecordedValues
) -> PromptAnswers:
    """The circuit's answers, all other nodes and the sources of cut edges at their counterfactual values.

    The definition, by one padded run; AbsTopK chooses before nodes are ablated, as everywhere (§5).
    """
    masks = {key: mask.to(model.device) for key, mask in circuit.node_masks().items()}
    ablate, live = mask_nodes(masks, values), dict[str, Tensor]()

    def intervene(key: str, x: Tensor) -> Tensor:
        live[key] = ablate(key, x)
        return live[key]

    return recorded(model, batch, intervene, cuts_to(model, circuit, values, live, keep=True)).answers


def swapped_nodes(tested: CircuitUnderTest, nodes: Indices, batch: PairBatch, values: RecordedValues) -> PromptAnswers:
    """The model's answers with some nodes at their counterfactual values."""
    return padded_answers(tested.model, batch, given(nodes, values, batch.last))


def swapped_edges(model: Transformer, circuit: Circuit, batch: PairBatch, values: RecordedValues) -> PromptAnswers:
    """The model's answers where the circuit's edges carry their sources' counterfactual values, and all others live."""
    live: dict[str, Tensor] = {}
    cuts = cuts_to(model, circuit, values, live, keep=False)
    return recorded(model, batch, lambda key, x: live.setdefault(key, x), cuts).answers


def cuts_to(model: Transformer, circuit: Circuit, values: RecordedValues, live: RecordedValues, *, keep: bool) -> Cuts:
    """Cuts of all edges but the circuit's (``keep``), or of these alone, in runs whose sites hold all positions: cut
    edges carry the ``values``.

    Through attention's c_proj, a cut edge carries its source's values as the head's ``live`` queries and keys mix them.
    """

    def cut(layer: int, name: str, edges: Float[Tensor, "out in"]) -> Callable[..., Tensor]:
        def product(linear: nn.Linear, x: Float[Tensor, "prompt pos in"], attention_mass: Tensor | None) -> Tensor:
            source = values[site_key(layer, SOURCES[name])]
            if SOURCES[name] is Site.ATTN_V:
                q, k = (live[site_key(layer, site)] for site in (Site.ATTN_Q, Site.ATTN_K))
                source = model.transformer["h"][layer].attn.mix(q, k, source)[0]
            most, few = (source, x) if keep else (x, source)  # few: of the circuit's edges
            changed = between_channels(linear.weight * edges, torch.zeros_like(linear.bias))
            found: Tensor = linear(most) + changed(few - most, None)
            return found

        return product

    means = {key: value.to(model.device) for key, value in circuit.means.items()}
    definition = edge_cuts(model, circuit.edges, means, keep=True)
    return {key: cut(int(key.partition(".")[0]), key.partition(".")[2], one.keep) for key, one in definition.items()}


def of_random(tested: CircuitUnderTest) -> dict[str, Any]:
    """Shares of flipped prompts, on the few pairs, with random sets of as many nodes; their range."""
    generator = tested.generator("flip")
    sets = [tested.complement.random_set(tested.circuit, generator, of_edges=False).nodes for _ in range(N_SWAPPED)]
    answers = in_parts(lambda *part: [swapped_nodes(tested, nodes, *part) for nodes in sets], tested, tested.few)
    found = [float(flipped(of_set).mean()) for of_set in answers]
    return {"low": min(found), "high": max(found), "accuracies": found}


def flipped(answers: PromptAnswers) -> Float[Tensor, " pair"]:
    """The share of each pair's prompts at which the other prompt's answer has the larger logit; a tie does not
    count."""
    return of_pairs((answers[:, 1] > answers[:, 0]).float())


def check_against(tested: CircuitUnderTest, found: Mapping[str, Any]) -> list[Check]:
    """Whether the circuit still says the right answer with the wrong one outside, and how surely: within MARGIN of the
    target, if it was made for this; otherwise nearer to the target than to chance."""
    accuracy, loss = found["accuracy"]["mean"], found["loss"]["mean"]
    made_for = tested.circuit.ablation_values.kind.as_tested
    limit = tested.target + MARGIN if made_for == "counterfactual" else half_way(tested.target)
    against = "with all else as on the pair's other prompt"
    return [
        check(
            "counterfactual_accuracy", accuracy >= MIN_ACCURACY, accuracy, MIN_ACCURACY,
            f"right on {accuracy:.0%} of the prompts {against}",
        ),
        check("counterfactual_loss", loss <= limit, loss, limit, f"loss {loss:.3f} nats {against}"),
    ]  # fmt: skip


def check_flip(flip: Mapping[str, Any]) -> list[Check]:
    """Whether the circuit's nodes carry the answer into the other prompt's run, more often than any random set does;
    and whether its edges alone do."""
    share, high, edges = flip["accuracy"]["mean"], flip["random"]["high"], flip["edges"]["mean"]
    says = (
        f"the circuit's nodes, as on the pair's other prompt, flip the model's answer on {share:.0%} of the prompts; "
        f"as many random nodes on at most {high:.0%}"
    )
    by_edges = f"its edges alone, with the other prompt's values, flip the model's answer on {edges:.0%} of the prompts"
    return [
        check("flip_accuracy", share >= MIN_ACCURACY and share > high, share, MIN_ACCURACY, says),
        check("flip_edges_accuracy", edges >= MIN_ACCURACY, edges, MIN_ACCURACY, by_edges),
    ]
