"""Counterfactual values and means over a task: by a slow loop, in the masked model, and in the compact executor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.ablation import Ablation
from pipeline.circuit import Circuit
from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.background import background, task_means
from pipeline.circuit.compact_rows import CompactRows, FrozenRows
from pipeline.circuit.conditions import Ablator, Condition, changes
from pipeline.circuit.graph import Subgraph, induced_edges
from pipeline.config import load_params
from pipeline.data.pairs import PairBatch, answer_logits, prompt_losses
from pipeline.model.record import record
from pipeline.model.scoring import answers_of
from pipeline.prune.edge_search import EdgeMasking
from pipeline.prune.evaluator import Evaluator
from pipeline.prune.masks import EdgeLayout
from pipeline.prune.search import NodeMasking

VARYING = [Ablation.COUNTERFACTUAL, Ablation.TASK_MEAN]
# Three pairs: of one length; where one side has two tokens more after the parting; that begin like those of another.
PROMPTS = [
    [3, 4, 5, 9], [3, 4, 6, 9],
    [3, 4, 5, 9], [3, 4, 7, 8, 5, 9],
    [3, 4, 5, 5, 6, 9], [3, 4, 5, 5, 7, 9],
]  # fmt: skip
ALIGNED = [[0, 1, 2, 3]] * 2 + [[0, 1, 4, 5], [0, 1, None, None, 2, 3]] + [[0, 1, 2, 3, 4, 5]] * 2  # by hand


@pytest.fixture
def batch():
    return PairBatch.of(PROMPTS, [[1, 2], [2, 1]] * 3)


@pytest.fixture(params=[(True, 1.0), (False, 1.0), (True, 0.25)], ids=["sink", "plain", "topk"])
def case(request, tiny_model):
    """A model, means that are not its own, and a circuit of random nodes and edges."""
    sink, afrac = request.param
    model = tiny_model(sink=sink, afrac=afrac).freeze()
    generator = torch.Generator().manual_seed(0)
    means = {key: torch.randn(width, generator=generator) for key, width in model.widths().items()}
    masks = {key: (torch.rand(width, generator=generator) < 0.4).float() for key, width in model.widths().items()}
    some = {
        key: pairs[torch.rand(len(pairs), generator=generator) < 0.6]
        for key, pairs in induced_edges(model, masks).items()
    }
    nodes = {key: mask.nonzero().flatten() for key, mask in masks.items() if mask.any()}
    return model, means, Subgraph(nodes, {key: pairs for key, pairs in some.items() if len(pairs)})


def values_of(kind, model, means, batch):
    return task_means(model, batch, means) if kind is Ablation.TASK_MEAN else AblationValues.of(kind, means)


def alone(model, prompt):
    """Site key → values [pos, width] of one prompt in a run of its own."""
    return {key: value[0] for key, value in record(model, torch.tensor([prompt]))[1].items()}


def test_counterfactual_values_are_those_of_the_other_prompt_where_it_is_aligned_else_the_mean(case, batch):
    model, means, _ = case
    behind = background(model, AblationValues.of(Ablation.COUNTERFACTUAL, means), batch, packed=False)
    width = batch.tokens.shape[1]
    for i, places in enumerate(ALIGNED):
        other = alone(model, PROMPTS[i ^ 1])
        for key, values in behind.values.items():
            for position, there in enumerate(places):
                wanted = means[key] if there is None else other[key][there]
                torch.testing.assert_close(values.view(-1, width, values.shape[1])[i, position], wanted)


def test_means_over_a_task_are_taken_where_prompts_are_aligned(case, batch):
    model, means, _ = case
    values = task_means(model, batch, means).first["0.mlp_neuron"]
    runs = [alone(model, prompt)["0.mlp_neuron"] for prompt in PROMPTS]
    torch.testing.assert_close(values[0], means["0.mlp_neuron"])
    torch.testing.assert_close(values[1], torch.stack([run[0] for run in runs]).mean(0))  # the first token of all
    torch.testing.assert_close(values[2], torch.stack([run[-1] for run in runs]).mean(0))  # the last of all
    torch.testing.assert_close(values[5], torch.stack([runs[4][2], runs[5][2]]).mean(0))  # of the one that parts later


@pytest.mark.parametrize("kind", VARYING)
def test_by_its_nodes_alone_a_circuit_gives_what_the_masked_model_gives(case, batch, kind):
    model, means, parts = case
    circuit = Circuit(parts.nodes, parts.edges, means, means, (values_of(kind, model, means, batch),))
    wanted = answer_logits(circuit(model)(batch.tokens, at=batch.last), batch)
    torch.testing.assert_close(circuit.answers(model, batch), wanted, rtol=1e-4, atol=1e-5)
    found = Ablator(model, circuit.ablation_values).answers(circuit, Condition.CIRCUIT, batch)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", VARYING)
@pytest.mark.parametrize("condition", [each for each in Condition if each is not Condition.CIRCUIT])
def test_packed_and_padded_runs_are_equal_under_every_condition(case, batch, kind, condition):
    model, means, parts = case
    values = values_of(kind, model, means, batch)
    padded = answers_of(model, batch, **changes(parts, condition, background(model, values, batch, packed=False)))
    found = Ablator(model, values).answers(parts, condition, batch)[0]
    torch.testing.assert_close(found, padded, rtol=1e-4, atol=1e-5)


def test_a_cut_edge_carries_the_other_prompts_value(tiny_model, batch):
    model = tiny_model(sink=True, afrac=1.0).freeze()
    means = {key: torch.zeros(width) for key, width in model.widths().items()}
    behind = background(model, AblationValues.of(Ablation.COUNTERFACTUAL, means), batch, packed=False)
    edge = {"1.mlp_in->mlp_neuron": torch.tensor([[2, 3]])}
    run = changes(Subgraph({}, edge), Condition.ABLATED_EDGES, behind)
    neuron = record(model, batch.tokens, run["intervene"], run["cuts"])[1]["1.mlp_neuron"][:, :, 3]
    plain = record(model, batch.tokens)[1]["1.mlp_in"]
    weight = model.transformer["h"][1].mlp.c_fc.weight[3]
    other = behind.values["1.mlp_in"].view(*batch.tokens.shape, -1)[:, :, 2]
    part = model.transformer["h"][1].mlp.c_fc
    wanted = torch.nn.functional.gelu(part(plain)[:, :, 3] + weight[2] * (other - plain[:, :, 2]))
    torch.testing.assert_close(neuron, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", VARYING)
def test_a_changed_half_layer_goes_on_from_the_run_before(case, batch, kind):
    model, means, parts = case
    frozen = FrozenRows(background(model, values_of(kind, model, means, batch), batch))
    before = CompactRows(frozen, parts.nodes, parts.edges)
    trace = before.new_trace()
    before.answers(frozen.prompts, batch.answers, trace)
    item = next(node for node in parts.list_nodes() if node[0] == "1.mlp_neuron")
    less, halves = parts.without([item])
    changed = before.with_halves(halves, less.nodes, less.edges)
    again = changed.answers(frozen.prompts, batch.answers, trace.prefix(min(halves)), min(halves))
    torch.testing.assert_close(again, frozen.answers(less.nodes, less.edges, batch.answers))


@pytest.mark.parametrize("kind", VARYING)
def test_slopes_of_masks_are_differences_of_losses(case, batch, kind):
    model, means, parts = case
    values = values_of(kind, model, means, batch)
    masking = EdgeMasking(model, (values,), EdgeLayout(parts))
    ones = torch.ones(1, parts.n_edges)
    loss, slope = masking.slopes(ones, batch)
    compact = prompt_losses(Circuit(parts.nodes, parts.edges, means, means, (values,)).answers(model, batch)).mean()
    assert float(loss) == pytest.approx(float(compact), abs=1e-5)
    largest = int(slope.abs().argmax())
    moved = ones.clone()
    moved[0, largest] -= 1e-2
    assert float(loss - masking.slopes(moved, batch)[0]) == pytest.approx(1e-2 * float(slope[0, largest]), rel=0.1)
    nodes = NodeMasking.of(model, [values], tie_qk=False)
    everything, _ = nodes.slopes(torch.ones(1, nodes.layout.n_units), batch)
    assert float(everything) == pytest.approx(float(prompt_losses(answers_of(model, batch)).mean()), abs=1e-5)


def test_under_several_ablations_the_worst_counts(case, batch):
    model, means, parts = case
    kinds = [Ablation.MEAN, Ablation.COUNTERFACTUAL]
    config = load_params("params.yaml").prune.model_copy(update={"calibration_steps": 0})
    each = [Evaluator(model, [AblationValues.of(kind, means)], batch, batch, config)(parts) for kind in kinds]
    both = Evaluator(model, [AblationValues.of(kind, means) for kind in kinds], batch, batch, config)
    found = both(parts)
    assert found.loss == pytest.approx(max(one.loss for one in each)) and len(found.losses) == 2
    pairs, weights = both.all_pairs(found.candidate)
    worst = max(range(2), key=lambda i: each[i].loss)
    assert weights[worst].sum() == pytest.approx(1) and not weights[1 - worst].any() and pairs.n_pairs == 6


def test_a_circuit_keeps_all_its_ablations_on_disk(case, batch, tmp_path):
    model, means, parts = case
    values = (AblationValues.at_means(means), AblationValues.of(Ablation.COUNTERFACTUAL, means))
    scores = {key: value.clone() for key, value in means.items()}
    circuit = Circuit(parts.nodes, parts.edges, means, scores, (*values, task_means(model, batch, means)))
    circuit.save(tmp_path / "c")
    again = Circuit.load(tmp_path / "c")
    assert [one.kind for one in again.ablations] == [one.kind for one in circuit.ablations]
    for i in range(3):
        one, two = (replace(it, ablations=it.ablations[i:]) for it in (circuit, again))
        torch.testing.assert_close(one.answers(model, batch), two.answers(model, batch))


def test_one_prompt_has_no_counterfactual(case, batch):
    model, means, parts = case
    circuit = Circuit(parts.nodes, parts.edges, means, means, (AblationValues.of(Ablation.COUNTERFACTUAL, means),))
    with pytest.raises(ValueError, match="1 prompts; counterfactual ablation needs both sides of each pair"):
        circuit(model)(batch.tokens[:1])
    with pytest.raises(ValueError, match="use circuit.answers"):
        circuit.compact(model)


def test_losses_of_pairs_do_not_depend_on_the_batch(case, batch):
    model, means, parts = case
    circuit = Circuit(parts.nodes, parts.edges, means, means, (AblationValues.of(Ablation.COUNTERFACTUAL, means),))
    each = [circuit.answers(model, batch.take(torch.tensor([i]))) for i in range(3)]
    torch.testing.assert_close(torch.cat(each), circuit.answers(model, batch), rtol=1e-4, atol=1e-5)
