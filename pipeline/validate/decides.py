"""Does the circuit decide the answer: against all else, and put into a run of the pair's other prompt (§6)?

A circuit that is sufficient against a constant background may still be overruled, since most of the decision can run
elsewhere. *Counterfactual*: the circuit runs on one prompt, all else has the values of the pair's other prompt,
position by position, and a cut edge carries its source's value there (the ablation of ACDC, arXiv 2304.14997, and of
MIB, 2504.13151). *Flip*: the model runs on one prompt, and only the circuit's nodes have the values of the other one
(interchange interventions, Geiger et al. 2021): the answer has to become the other prompt's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from pipeline.ablation import Ablation
from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.conditions import Ablator, Condition
from pipeline.data.pairs import of_pairs
from pipeline.model.scoring import calibrated
from pipeline.rows import Check
from pipeline.validate.circuit_under_test import UNCALIBRATED, CircuitUnderTest, PromptAnswers
from pipeline.validate.limits import MARGIN, MIN_ACCURACY, half_way
from pipeline.validate.verdict import check, untested

N_SWAPPED = 4  # random sets, as large as the circuit, that are put into the other run as well
NAMES = ("counterfactual_accuracy", "counterfactual_loss", "flip_accuracy", "flip_edges_accuracy")


def decides(tested: CircuitUnderTest) -> dict[str, Any]:
    """Both ways, with their checks; without a node, there is nothing that could decide.

    ``counterfactual``: ``loss`` (calibrated, nats), ``loss_uncalibrated`` and ``accuracy`` (calibrated), estimates on
    test pairs. Calibration shifts both prompts of a pair alike: it cannot decide between them.
    ``flip``: ``accuracy``, the share of the test pairs' prompts whose answer becomes that of the pair's other prompt;
    ``edges``: the share where only the circuit's edges carry the other prompt's values, so that what else reads its
    nodes does not follow them; ``random``: as ``accuracy``, on the few pairs, with as many random nodes instead.
    """
    if not tested.circuit.n_nodes:
        return {"tests": [untested(name, "no node is kept") for name in NAMES]}
    others = Ablator(tested.model, AblationValues.of(Ablation.COUNTERFACTUAL, tested.circuit.means))
    against, by_nodes, by_edges = (
        others.answers(tested.circuit, condition, tested.test)[0]
        for condition in (Condition.CIRCUIT, Condition.ABLATED_NODES, Condition.ABLATED_EDGES)
    )
    answers = calibrated(against, tested.circuit.calibration)
    found: dict[str, Any] = {
        "loss": tested.estimate(tested.losses(against)),
        "loss_uncalibrated": tested.estimate(tested.losses(against, UNCALIBRATED)),
        "accuracy": tested.estimate(of_pairs((answers[:, 0] > answers[:, 1]).float())),
    }
    shares = {"accuracy": tested.estimate(flipped(by_nodes)), "edges": tested.estimate(flipped(by_edges))}
    flip = shares | {"random": of_random(tested, others)}
    return {"counterfactual": found, "flip": flip, "tests": [*check_against(tested, found), *check_flip(flip)]}


def of_random(tested: CircuitUnderTest, others: Ablator) -> dict[str, Any]:
    """Shares of flipped prompts, on the few pairs, with random sets of as many nodes; their range."""
    generator = tested.generator("flip")
    sets = [tested.complement.random_set(tested.circuit, generator, of_edges=False) for _ in range(N_SWAPPED)]
    answers = [others.answers(drawn, Condition.ABLATED_NODES, tested.few)[0] for drawn in sets]
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
    made_for = {ablated_to.kind for ablated_to in tested.circuit.all_ablations}
    limit = tested.target + MARGIN if Ablation.COUNTERFACTUAL in made_for else half_way(tested.target)
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
