"""Does the circuit decide the answer: against all else, and put into a run of the pair's other prompt (§6)?

A circuit that is sufficient against a constant background may still be overruled, since most of the decision can run
elsewhere. *Counterfactual*: the circuit runs on one prompt, all else has the values of the pair's other prompt,
position by position, and a cut edge carries its source's value there (the ablation of ACDC, arXiv 2304.14997, and of
MIB, 2504.13151). *Flip*: the model runs on one prompt, and only the circuit's nodes have the values of the other one
(interchange interventions, Geiger et al. 2021): the answer has to become the other prompt's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.circuit import Circuit
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
    ``random``: the shares, on the few pairs, with as many random nodes of the complement in the circuit's place;
    ``edges``: the share where only the circuit's edges carry the other prompt's values, so that what else reads its
    nodes does not follow them.
    """
    if not tested.circuit.n_nodes:
        return {"tests": [untested(name, "no node is kept") for name in NAMES]}
    answers = in_parts(lambda part: counterfactual_answers(tested.model, tested.circuit, part), tested.test)
    found: dict[str, Any] = {
        "loss": tested.estimate(tested.losses(answers)),
        "loss_uncalibrated": tested.estimate(tested.losses(answers, UNCALIBRATED)),
        "accuracy": tested.estimate(of_pairs((answers[:, 0] > answers[:, 1]).float())),
    }
    flip = {
        "accuracy": tested.estimate(flips(tested, tested.circuit.nodes, tested.test)),
        "random": of_random(tested),
        "edges": tested.estimate(flips_by_edges(tested, tested.test)),
    }
    return {"counterfactual": found, "flip": flip, "tests": [*check_against(tested, found), *check_flip(flip)]}


def in_parts(run: Callable[[PairBatch], PromptAnswers], batch: PairBatch) -> PromptAnswers:
    """The answers of a run that holds the values at all sites, a few pairs at a time."""
    pairs = torch.arange(batch.n_pairs, device=batch.tokens.device).split(PAIRS_AT_ONCE)
    return torch.cat([run(batch.take(some)) for some in pairs])


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


@torch.no_grad()
def counterfactual_answers(model: Transformer, circuit: Circuit, batch: PairBatch) -> PromptAnswers:
    """The circuit's answers, all other nodes and the sources of cut edges at their values on the pair's other prompt.

    The definition, by one padded run; AbsTopK chooses before nodes are ablated, as everywhere (§5).
    """
    values = counterfactual_values(model, batch, circuit.means)
    masks = {key: mask.to(model.device) for key, mask in circuit.node_masks().items()}
    ablate, live = mask_nodes(masks, values), dict[str, Tensor]()

    def intervene(key: str, x: Tensor) -> Tensor:
        live[key] = ablate(key, x)
        return live[key]

    return recorded(model, batch, intervene, cuts_to(model, circuit, values, live, keep=True)).answers


def cuts_to(model: Transformer, circuit: Circuit, values: RecordedValues, live: RecordedValues, *, keep: bool) -> Cuts:
    """Cuts of all edges but the circuit's (``keep``), or of these alone, in runs whose sites hold all positions: cut
    edges carry the ``values``.

    Through attention's c_proj, a cut edge carries its source's values as the head's ``live`` queries and keys mix them.
    """

    def cut(layer: int, name: str, live_edges: Float[Tensor, "out in"]) -> Callable[..., Tensor]:
        def product(linear: nn.Linear, x: Float[Tensor, "prompt pos in"], attention_mass: Tensor | None) -> Tensor:
            source = values[site_key(layer, SOURCES[name])]
            if SOURCES[name] is Site.ATTN_V:
                q, k = (live[site_key(layer, site)] for site in (Site.ATTN_Q, Site.ATTN_K))
                source = model.transformer["h"][layer].attn.mix(q, k, source)[0]
            kept = F.linear(x, linear.weight * live_edges, linear.bias)
            return kept + F.linear(source, linear.weight * (1 - live_edges))

        return product

    means = {key: value.to(model.device) for key, value in circuit.means.items()}
    definition = edge_cuts(model, circuit.edges, means, keep=keep)
    return {key: cut(int(key.partition(".")[0]), key.partition(".")[2], one.keep) for key, one in definition.items()}


@torch.no_grad()
def flips(tested: CircuitUnderTest, nodes: Indices, batch: PairBatch) -> Float[Tensor, " pair"]:
    """The share of each pair's prompts at which the model says the other prompt's answer, once some nodes have their
    values of that prompt; a tie does not count."""

    def run(part: PairBatch) -> PromptAnswers:
        values = counterfactual_values(tested.model, part, tested.circuit.means)
        return padded_answers(tested.model, part, given(nodes, values, part.last))

    return flipped(in_parts(run, batch))


@torch.no_grad()
def flips_by_edges(tested: CircuitUnderTest, batch: PairBatch) -> Float[Tensor, " pair"]:
    """The same share, where the circuit's edges alone carry the other prompt's values, and no node is changed."""

    def run(part: PairBatch) -> PromptAnswers:
        values, live = counterfactual_values(tested.model, part, tested.circuit.means), dict[str, Tensor]()
        cuts = cuts_to(tested.model, tested.circuit, values, live, keep=False)
        return recorded(tested.model, part, lambda key, x: live.setdefault(key, x), cuts).answers

    return flipped(in_parts(run, batch))


def flipped(answers: PromptAnswers) -> Float[Tensor, " pair"]:
    """The share of each pair's prompts with the other prompt's answer."""
    return of_pairs((answers[:, 1] > answers[:, 0]).float())


def of_random(tested: CircuitUnderTest) -> dict[str, Any]:
    """Shares of flipped prompts, on the few pairs, with random sets of as many nodes; their range."""
    generator = tested.generator("flip")
    sets = [tested.complement.random_set(tested.circuit, generator, of_edges=False) for _ in range(N_SWAPPED)]
    found = [float(flips(tested, drawn.nodes, tested.few).mean()) for drawn in sets]
    return {"low": min(found), "high": max(found), "accuracies": found}


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
