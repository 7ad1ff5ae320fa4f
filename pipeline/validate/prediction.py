"""Does the circuit foretell where the unpruned model fails? Context dilution and stray brackets (the paper's §3.2.2).

The bracket_counting circuit averages a bracket detector over the context and compares the average with a threshold. So
a long nested list should read as flat, and a flat list after a stray bracket as nested. The model is run whole; of the
circuit, only the value of one of its nodes is read, by a rule that was fitted on train pairs. The null is the same rule
on random nodes of that site, none of them the circuit's: where they foretell as much, the circuit explains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.circuit.conditions import Condition
from pipeline.circuit.random_circuits import disjoint_sets
from pipeline.data.pairs import PairBatch
from pipeline.data.tokenizer import Tokenizer
from pipeline.model.scoring import calibrated
from pipeline.rows import Check
from pipeline.seeds import seed_of
from pipeline.stats import central
from pipeline.validate.circuit_under_test import CircuitUnderTest
from pipeline.validate.prediction_node import Reading, answering_nodes, correlation, readings, varying, watch
from pipeline.validate.prediction_prompts import NO_COMMENT, PLAIN, Manipulated, Manipulation, example, manipulated
from pipeline.validate.verdict import check, untested

TASK = "bracket_counting"
SIDES = ("flat", "nested")
NESTED = torch.tensor([False, True])  # of the sides

Sides = Float[Tensor, "pair 2"]  # a value of each prompt: of the flat list, of the nested one
# "model": logit of the nested answer minus the flat one's; "circuit": probability of the nested answer, the circuit
# alone; and each node that is read, by its name.
Seen = Mapping[str, Float[Tensor, "pair point 2"]]


def prediction(tested: CircuitUnderTest, tokenizer: Tokenizer) -> dict[str, Any]:
    """The model's and the node's answers at every point, the two effects, how often they agree; JSON-ready.

    Only for bracket_counting, whose second answer is the nested one; other tasks get a check that was not made.
    """
    if tested.circuit.about.get("task") != TASK:
        return _untested(f"failures are predicted of {TASK} only")
    seed, n_ctx = seed_of(tested.seed, "validate", "prediction"), tested.model.config.n_ctx
    points = manipulated(tested.test, tokenizer, n_ctx=n_ctx, n_pairs=tested.config.few_pairs, seed=seed)
    if not points:
        return _untested(f"fewer than {tested.config.few_pairs} pairs fit into n_ctx {n_ctx} in this vocabulary")
    return measure(tested, points, nested=int(tested.test.answers[1, 0])) | {"examples": example(points, tokenizer)}


def measure(tested: CircuitUnderTest, points: Manipulated, *, nested: int) -> dict[str, Any]:
    """The same for prompts that are there: ``nested`` is the token that closes a nested list.

    Row i of every point comes from one pair; pairs are resampled for intervals.
    """
    found, random_sets = _fitted(tested, nested)
    if not found:
        return _untested("no node of the circuit varies at the position that answers")
    each = [_see(tested, batch, [*found, *chain(*random_sets)], nested) for batch in points.values()]
    seen = {name: torch.stack([sides[name] for sides in each], dim=1) for name in each[0]}
    agreement = _agreement(tested, seen, found[0]) | {"null": _null(tested, seen, found[0], random_sets)}
    both_say = (seen["model"] > 0) == (seen["circuit"] > 0.5)
    return {
        "node": _described(found[0]),
        "pairs": next(iter(points.values())).n_pairs,
        "lengths": sorted({point.length for point in points}),
        "comments": list(dict.fromkeys(point.comment for point in points)),
        "points": [_point(tested, point, sides, found[0]) for point, sides in zip(points, each, strict=True)],
        "effects": _effects(tested, list(points), each, found[0]),
        **agreement,
        "circuit_agreement": tested.estimate(_per_pair(both_say)),
        "sites": [_described(reading) | _agreement(tested, seen, reading) for reading in found],
        "tests": [_check_prediction(agreement, found[0])],
    }


def _fitted(tested: CircuitUnderTest, nested: int) -> tuple[list[Reading], list[list[Reading]]]:
    """Readings of the circuit's nodes, the best first, and of random sets of other nodes of that one's site.

    A random set is read by the same rule: by its best node on train; none where no node separates anything. It has as
    many nodes as the circuit has at the site, drawn among those that are not constant.
    """
    nodes, train = answering_nodes(tested.circuit), tested.batches["train"]
    closes = (train.answers[:, 0] == nested).cpu()
    found = readings(nodes, watch(tested.model, train, nodes)[1], closes)
    if not found:
        return [], []
    key = found[0].key
    others = tested.complement.nodes[key]
    values = watch(tested.model, train, {key: others})[1][key]
    sets = disjoint_sets(
        varying(values), size=len(nodes[key]), n=tested.config.n_random, generator=tested.generator("prediction")
    )
    return found, [readings({key: others[some]}, {key: values[:, some]}, closes) for some in sets]


def _see(tested: CircuitUnderTest, batch: PairBatch, found: Sequence[Reading], nested: int) -> dict[str, Sides]:
    """``Seen`` of the prompts of one point."""
    nodes = {key: torch.tensor([r.index for r in found if r.key == key]) for key in {r.key for r in found}}
    answers, values = watch(tested.model, batch.to(tested.model.device), nodes)
    closes = (batch.answers[:, 0] == nested).cpu()
    order = closes.view(-1, 2).int().argsort(1)  # the flat list first

    def towards_nested(logits: Tensor) -> Tensor:
        return (logits[..., 0] - logits[..., 1]) * (2 * closes.float() - 1)

    draws = tested.ablator.answers(tested.circuit, Condition.CIRCUIT, batch)
    alone = towards_nested(calibrated(draws, tested.circuit.calibration)).sigmoid()
    columns = {f"{key}.{i}": values[key][:, at] for key in nodes for at, i in enumerate(nodes[key].tolist())}
    of_prompts = {"model": towards_nested(answers), "circuit": alone.mean(0), **columns}
    return {name: values.view(-1, 2).gather(1, order) for name, values in of_prompts.items()}


def _point(tested: CircuitUnderTest, point: Manipulation, at: Mapping[str, Sides], reading: Reading) -> dict[str, Any]:
    """Means and intervals over pairs, for flat and for nested lists; ``p`` is the probability of the nested answer."""
    sides = {
        side: {
            "model_p": tested.estimate(at["model"][:, i].sigmoid()),
            "circuit_p": tested.estimate(at["circuit"][:, i]),
            "node": tested.estimate(at[reading.name][:, i]),
        }
        for i, side in enumerate(SIDES)
    }
    says = {"model_accuracy": at["model"] > 0, "circuit_accuracy": at["circuit"] > 0.5}
    right = {name: tested.estimate(_per_pair(nested == NESTED)) for name, nested in says.items()}
    return {"comment": point.comment, "length": point.length, **sides, **right}


def _effects(
    tested: CircuitUnderTest, points: Sequence[Manipulation], each: Sequence[dict[str, Sides]], reading: Reading
) -> dict[str, Any]:
    """Changes by the manipulations, pair by pair: of the probability of the nested answer, and of the node's value.

    ``dilution``: the longest list against the shortest, no comment. Each other comment: against the plain one, over all
    lengths. ``node`` is in units of the distance between train's flat (0) and nested (1) lists.
    """
    values = {
        "model_p": torch.stack([at["model"].sigmoid() for at in each]),
        "node": torch.stack([reading.scaled(at[reading.name]) for at in each]),
    }

    def effect(more: list[int], less: list[int]) -> dict[str, Any]:
        changes = {name: value[more].mean(0) - value[less].mean(0) for name, value in values.items()}
        return {
            side: {name: tested.estimate(change[:, i]) for name, change in changes.items()}
            for i, side in enumerate(SIDES)
        }

    by_comment: dict[str, list[int]] = {}
    for i in sorted(range(len(points)), key=lambda i: points[i].length):
        by_comment.setdefault(points[i].comment, []).append(i)
    bare, plain = by_comment.pop(NO_COMMENT), by_comment.pop(PLAIN, [])
    strays = {comment: effect(some, plain) for comment, some in by_comment.items()} if plain else {}
    return {"dilution": effect(bare[-1:], bare[:1]), "strays": strays}


def _agreement(tested: CircuitUnderTest, seen: Seen, reading: Reading) -> dict[str, Any]:
    """How often the node says what the model says, over all prompts of all points, against what is known without it.

    ``base_rate``: agreement of the best of the guesses that need no circuit: that the model is right, or that it
    always gives one answer. ``point_rate``: that of its most frequent answer to each kind of list at each point, known
    only afterwards, which nothing that is blind to the single prompt can pass. ``gain``: the node's agreement minus
    ``base_rate``, over pairs. ``foreseen``: of the prompts that the model gets wrong, the fraction that the node does
    too; ``false_alarms``: of those that it gets right. ``correlation``: of the node's value with the model's logit
    difference; within each kind of list; and of both less the mean of each kind at each point.
    """
    logits, values = seen["model"], seen[reading.name]
    model, node = logits > 0, reading.says_nested(values)
    truth = NESTED.expand_as(model)
    guesses = {"right": model == truth, "nested": model, "flat": ~model}
    guess = max(guesses, key=lambda name: float(guesses[name].float().mean()))
    agree, base, wrong = _per_pair(model == node), _per_pair(guesses[guess]), model != truth
    return {
        "agreement": tested.estimate(agree),
        "base_rate": tested.estimate(base),
        "base_guess": guess,
        "point_rate": float(model.float().mean(0).sub(0.5).abs().add(0.5).mean()),
        "gain": tested.estimate(agree - base),
        "model_accuracy": tested.estimate(_per_pair(~wrong)),
        "foreseen": _rate(tested, node != truth, wrong),
        "false_alarms": _rate(tested, node != truth, ~wrong),
        "correlation": correlation(values.flatten(), logits.flatten()),
        "correlation_within": {
            side: correlation(values[..., i].flatten(), logits[..., i].flatten()) for i, side in enumerate(SIDES)
        },
        "correlation_at_points": correlation((values - values.mean(0)).flatten(), (logits - logits.mean(0)).flatten()),
    }


def _null(tested: CircuitUnderTest, seen: Seen, reading: Reading, sets: Sequence[Sequence[Reading]]) -> dict[str, Any]:
    """Agreement with the model of the ``n`` random sets of ``n_nodes``: ``median`` and ``max`` of those that separate
    anything on train (None: none does), and how many of them are ``as_good`` as the node.

    ``p``: chance of the node's rank, were the circuit's nodes at its site random ones too. Constant nodes and sets that
    separate nothing can only say one answer, which ``base_rate`` covers.
    """

    def agreement(one: Reading) -> float:
        return float(((seen["model"] > 0) == one.says_nested(seen[one.name])).double().mean())

    found = [agreement(one) for one in chain(*sets)]
    as_good = sum(other >= agreement(reading) for other in found)
    return {
        "n": len(sets),
        "n_nodes": len(answering_nodes(tested.circuit)[reading.key]),
        "median": median(found) if found else None,
        "max": max(found, default=None),
        "as_good": as_good,
        "p": (1 + as_good) / (1 + len(sets)),
    }


def _per_pair(hits: Tensor) -> Float[Tensor, " pair"]:
    return hits.float().flatten(1).mean(1)


def _rate(tested: CircuitUnderTest, hits: Tensor, among: Tensor) -> dict[str, Any] | None:
    """Fraction of hits among some of the prompts, with its interval over pairs, and ``n``, how many prompts these are.

    None where there are none; resamples without any are left out.
    """
    if not among.any():
        return None
    hit, had = (tested.resampled(_per_pair(part), "bootstrap") for part in (hits & among, among))
    ends = central((hit / had)[had > 0])
    return {"mean": float(hits[among].float().mean()), "interval": ends, "n": int(among.sum())}


def _described(reading: Reading) -> dict[str, Any]:
    return {
        "name": reading.name,
        "auc": reading.auc,
        "train_correlation": reading.correlation,
        "threshold": reading.threshold,
        "train_means": dict(zip(SIDES, reading.means, strict=True)),
    }


def _check_prediction(found: dict[str, Any], reading: Reading) -> Check:
    """Passed where the node surely tells more of the model's answers than the best guess without it, and more than
    any of the random sets does: p < 0.05 where there are 20 of them, ``null`` has it."""
    base = found["base_rate"]["mean"]
    if base == 1:
        why = f"nothing to predict: the model's answers are all {found['base_guess']}"
        return untested("prediction", why)
    low, null = found["gain"]["interval"][0], found["null"]
    says = (
        f"{reading.name} says what the unpruned model says on {found['agreement']['mean']:.0%} of the manipulated "
        f"prompts, {base:.0%} are had without it; {null['as_good']} of {null['n']} random sets of as many other nodes "
        "of its site do as well; value: the first difference's lower end (95 %)"
    )
    return check("prediction", low > 0 and not null["as_good"], low, 0.0, says)


def _untested(why: str) -> dict[str, Any]:
    return {"tests": [untested("prediction", why)]}
