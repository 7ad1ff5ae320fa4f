"""Counterfactual and flip: against slow loops, on planted circuits, and on circuits that only cancellation keeps up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.ablation import Ablation
from pipeline.circuit import Circuit
from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.conditions import Ablator, Condition
from pipeline.circuit.interventions import SOURCES
from pipeline.circuit.masked import Masked
from pipeline.data.pairs import PairBatch, answer_logits, counterparts
from pipeline.model.means import node_means
from pipeline.model.record import record
from pipeline.planted import Algorithm, plant
from pipeline.sites import site_key, split_site_key
from pipeline.validate.circuit_under_test import UNCALIBRATED
from pipeline.validate.complement import complement
from pipeline.validate.decides import (
    NAMES,
    decides,
)
from tests.validate.test_mechanism import edges_between

BOTH_WAYS = (Condition.CIRCUIT, Condition.ABLATED_NODES, Condition.ABLATED_EDGES)


def outcomes(found):
    return {test["name"]: test["passed"] for test in found["tests"]}


def others_values(model, batch, means):
    """Site key → the values on the pair's other prompt, position by position; means where none is aligned."""
    values, aligned, found = record(model, batch.tokens)[1], counterparts(batch).tolist(), {}
    for key, recorded in values.items():
        found[key] = means[key].expand_as(recorded).clone()
        for row, positions in enumerate(aligned):
            for pos, there in enumerate(positions):
                if there >= 0:
                    found[key][row, pos] = recorded[row ^ 1, there]
    return found


def answers(model, circuit, condition, batch):
    others = AblationValues.of(Ablation.COUNTERFACTUAL, circuit.means)
    return Ablator(model, others).answers(circuit, condition, batch)[0]


@pytest.mark.parametrize("changes", [{"sink": True}, {"sink": False}, {"afrac": 0.5}])
def test_the_circuit_against_all_else_is_that_of_a_slow_loop(tiny_model, changes):
    """Edge by edge: a target reads its bias, its live edges' sources, and of cut ones the other prompt's value."""
    model, generator = tiny_model(**changes), torch.Generator().manual_seed(3)
    tokens = torch.randint(0, 24, (4, 9), generator=generator)
    tokens[1::2, :3] = tokens[::2, :3]
    batch = PairBatch(tokens, torch.tensor([8, 6, 8, 8]), torch.randint(0, 24, (4, 2), generator=generator))
    means = node_means(model, [tokens])
    kept = {key: torch.randperm(len(m), generator=generator)[:6].sort().values for key, m in means.items()}
    circuit = Circuit(kept, {key: pairs[::2] for key, pairs in edges_between(kept).items()}, means, means)
    definition = Masked(model, kept, circuit.edges, means).cuts
    values, live = others_values(model, batch, means), {}

    def intervene(key, x):
        live[key] = values[key].index_copy(-1, kept[key], x[..., kept[key]])
        return live[key]

    def cut(matrix, keep):
        layer, _, name = matrix.partition(".")
        block = model.transformer["h"][int(layer)]

        def product(linear, x, attention_mass):
            source = values[site_key(int(layer), SOURCES[name])]
            if name == "attn.c_proj":
                source = block.attn.mix(live[f"{layer}.attn_q"], live[f"{layer}.attn_k"], source)[0]
            out = linear.bias.expand(*x.shape[:-1], -1).clone()
            for target, row in enumerate(keep.tolist()):
                for at, is_live in enumerate(row):
                    out[..., target] += linear.weight[target, at] * (x if is_live else source)[..., at]
            return out

        return product

    cuts = {key: cut(key, one.keep) for key, one in definition.items()}
    slow = answer_logits(model(tokens, intervene=intervene, cuts=cuts)[torch.arange(4), batch.last], batch)
    torch.testing.assert_close(answers(model, circuit, Condition.CIRCUIT, batch), slow, rtol=1e-4, atol=1e-4)


def test_the_whole_model_decides_and_an_empty_circuit_says_the_other_prompts_answer(quote, claim_of, circuit_of):
    every = {key: torch.arange(len(mean)) for key, mean in quote.means.items()}
    whole, batch = circuit_of(quote, every, edges_between(every)), quote.batch("test", 8)
    own = answer_logits(quote.model(batch.tokens, at=batch.last), batch)
    others = own.unflatten(0, (-1, 2)).flip(1, 2).flatten(0, 1)  # of the pair's other prompt, in this prompt's order
    for circuit, wanted in ((whole, [own, others, others]), (claim_of(quote).nothing, [others, own, own])):
        found = [answers(quote.model, circuit, condition, batch) for condition in BOTH_WAYS]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_edges_of_a_circuit_carry_the_other_prompts_values_and_no_others_do(quote, claim_of):
    """All edges that the circuit lacks, so swapped, are the circuit against all else, but for the nodes."""
    batch, every = quote.batch("test", 4), {key: torch.arange(len(mean)) for key, mean in quote.means.items()}
    circuit, rest = claim_of(quote).circuit, {}
    for key, pairs in edges_between(every).items():
        own = {tuple(pair) for pair in circuit.edges.get(key, torch.zeros(0, 2)).tolist()}
        rest[key] = torch.tensor([pair for pair in pairs.tolist() if tuple(pair) not in own])
    one = answers(quote.model, replace(circuit, edges=rest), Condition.ABLATED_EDGES, batch)
    other = answers(quote.model, replace(circuit, nodes=every), Condition.CIRCUIT, batch)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_planted_circuit_decides_both_ways(algorithm, claim_of):
    found = decides(claim_of(plant(algorithm, d_model=64, seed=0)))
    assert set(outcomes(found).values()) == {True}
    flip = found["flip"]
    assert found["counterfactual"]["accuracy"]["mean"] == flip["accuracy"]["mean"] == flip["edges"]["mean"] == 1
    assert flip["random"]["high"] < 0.1


def cancelling(planted, apart=True):
    """The quote's model with a second path, three times as strong as the planted one, that is not the circuit's.

    Two more channels of the stream are the path's alone: a quote's kind is embedded in one, the answers are read from
    the other. A value channel of the planted head brings the kind, above a level, from the one to the other; one more
    brings the level, with the opposite sign. At their means the two cancel. Not ``apart``: it reads the same channels
    as the planted path.
    """
    model, tokens, key = planted.model, planted.tokens, next(k for k in planted.nodes if k.endswith("attn_v"))
    layer, width, level = split_site_key(key)[0], len(planted.means[key]), 10.0
    block, value = model.transformer["h"][layer], int(planted.nodes[key])
    start = value // model.config.d_head * model.config.d_head
    kind, constant = [i for i in range(start, start + model.config.d_head) if i != value][:2]
    taken = torch.cat([nodes for site, nodes in planted.nodes.items() if site.endswith(("in", "out"))])
    read, write = [i for i in range(model.config.d_model) if i not in taken][:2]
    model.transformer["wte"].weight[:, [read, write]] = 0
    for name, token in tokens.items():
        model.transformer["wte"].weight[token, read] = {"double": 2.0, "single": -2.0}.get(name.split()[0], 0.0)
    for part in (part for each in model.transformer["h"] for part in (each.attn.c_proj, each.mlp.c_proj)):
        part.weight[[read, write]] = 0
    rows = 2 * width + torch.tensor([kind, constant])
    block.attn.c_attn.weight[rows], block.attn.c_attn.bias[rows] = 0, level
    block.attn.c_attn.weight[rows[0], read] = 1.0
    if not apart:
        block.attn.c_attn.weight[rows[0]] = block.attn.c_attn.weight[2 * width + value].clone()
    block.attn.c_proj.weight[:, [kind, constant]] = 0
    block.attn.c_proj.weight[write, [kind, constant]] = torch.tensor([4.5, -4.5])
    model.lm_head.weight[:, read] = 0
    model.lm_head.weight[:, write] = model.lm_head.weight[:, int(planted.nodes[f"{layer}.attn_out"])]
    return replace(planted, means=node_means(model, [planted.corpus(4096)]))


def test_a_circuit_that_is_sufficient_by_cancellation_only_does_not_decide(quote, claim_of):
    tested = claim_of(cancelling(quote))
    whole = tested.losses(tested.of_model, UNCALIBRATED).mean()
    assert float(whole) < 0.01 and outcomes(complement(tested))["sufficient_mean"]
    found = decides(tested)
    assert set(outcomes(found).values()) == {False}
    assert found["counterfactual"]["accuracy"]["mean"] == found["flip"]["accuracy"]["mean"] == 0


def test_what_else_reads_the_circuits_nodes_follows_them_and_not_its_edges(quote, claim_of):
    found = outcomes(decides(claim_of(cancelling(quote, apart=False))))
    assert found["flip_accuracy"] and not found["flip_edges_accuracy"] and not found["counterfactual_accuracy"]


def test_a_circuit_without_a_node_is_not_tested(quote, claim_of, circuit_of):
    found = decides(claim_of(quote, circuit_of(quote, {}, {})))
    assert outcomes(found) == dict.fromkeys(NAMES)


def test_the_share_of_right_answers_is_that_of_the_calibrated_circuit(claim_of, quote):
    """A shift so large that the same side's answer is always chosen."""
    tested = claim_of(quote)
    one_sided = replace(tested, circuit=replace(tested.circuit, calibration=(1.0, 1e3)))
    assert decides(tested)["counterfactual"]["accuracy"]["mean"] == 1
    assert decides(one_sided)["counterfactual"]["accuracy"]["mean"] == 0.5
