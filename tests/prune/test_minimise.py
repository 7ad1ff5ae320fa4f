"""The removal path: its circuits, where it starts, and the losses that decide it."""

from __future__ import annotations

import threading

import pytest
import torch

from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.graph import Subgraph, dead_ends
from pipeline.data.pairs import PairBatch
from pipeline.prune.discretise import Ranking
from pipeline.prune.evaluator import Candidate, Evaluator, upper_bound
from pipeline.prune.limits import EDGE_K_COEFS
from pipeline.prune.minimise import Minimiser, RemovalPath, minimal
from pipeline.prune.problem import make_problem
from pipeline.prune.prune import smallest, start_of
from pipeline.prune.search import of_like_length, side_by_side


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def task(able, pairs, params):
    """A model that does the task, and the ranking of its units by attribution."""
    model, means = able
    config = params.prune.model_copy(update={"batch_pairs": 8})
    problem = make_problem(model, [AblationValues.at_means(means)], {"train": pairs, "validation": pairs}, config, 0)
    scores = -problem.masking.slopes(torch.ones(1, problem.masking.layout.n_units), pairs)[1][0]
    return problem, Ranking(problem.evaluator, problem.masking.layout, scores)


def of_few_edges(problem, ranking):
    """A circuit that a path can start from."""
    return smallest(
        learned.smallest(0.02) for learned in problem.edge_rankings(ranking.smallest(0.02), EDGE_K_COEFS[0])
    )


def test_a_path_loses_items_and_never_gains_any_and_gives_the_smallest_circuit_of_each_target(task):
    problem, ranking = task
    removal_path = RemovalPath(problem, of_few_edges(problem, ranking), 0.5)
    before, after = removal_path.circuits, removal_path.circuits[1:]
    assert len(after) > 3
    for b, a in zip(before, after, strict=False):
        assert set(b.list_nodes()) >= set(a.list_nodes()) and set(b.list_edges()) >= set(a.list_edges())
    losses = [removal_path.at(place).loss for place in range(len(before))]
    for target in (0.1, 0.3):
        found = removal_path.smallest(target)
        assert found.loss <= target < max(losses[losses.index(found.loss) + 1 :], default=1.0)


def test_an_item_that_costs_more_than_the_limit_stays(task):
    problem, ranking = task
    start = ranking.smallest(0.02)
    found = Minimiser(problem.evaluator, start, 10.0, False)
    before = found.circuit.loss
    needed = max(found.circuit.list_nodes(), key=lambda node: problem.evaluator(found.circuit.without([node])[0]).loss)
    assert not found.try_remove([needed], limit=1e-6) and needed in found.circuit
    assert found.try_remove([needed]) and needed not in found.circuit and found.circuit.loss > before


def test_extra_pairs_are_run_where_the_others_meet_the_target_and_have_to_meet_it_too(task, pairs):
    problem, ranking = task
    start = ranking.smallest(0.02)
    wrong = PairBatch(pairs.tokens, pairs.last, pairs.answers.flip(1))  # on which no circuit of the task does well
    evaluator = Evaluator(problem.masking.model, problem.masking.ablations, pairs, pairs, problem.config, extra=wrong)
    assert evaluator(start).extra_loss is None
    asked = evaluator(start, target=0.1)
    assert asked.validation_loss <= 0.1 < 1.0 < asked.extra_loss == asked.loss
    found = Minimiser(evaluator, start, 0.1, False)
    assert not any(found.try_remove([node]) for node in found.circuit.list_nodes()[:8])
    assert Ranking(evaluator, ranking.layout, ranking.scores).smallest(0.1) is None


def test_a_removal_is_refused_by_the_first_pairs_that_miss_the_target(task, pairs):
    """The same as by all pairs, without a run on the others."""
    problem, ranking = task
    start = ranking.smallest(0.02)
    evaluator = Evaluator(problem.masking.model, problem.masking.ablations, pairs, pairs, problem.config)
    whole = evaluator(start)
    for node in start.list_nodes()[:8]:
        less, halves = start.without([node])
        full = evaluator(less)
        for target in (full.loss / 2, 2 * full.loss):
            asked = evaluator.changed(whole, halves, less, target)
            assert (asked.loss > target) == (full.loss > target)
            assert len(asked.runs) == (1 if asked.loss > target else 2)


def test_what_few_pairs_make_up_is_not_trusted_to_stay_so_small_on_others():
    even, few = torch.full((1000,), 0.1), torch.zeros(1000)
    few[:50] = 2.0  # the same mean
    assert float(upper_bound(even[None])) == pytest.approx(0.1)
    assert float(upper_bound(few[None])) == pytest.approx(0.1 + 2.33 * few.std() * 0.002**0.5)
    drawn = [few[torch.randint(1000, (1000,), generator=seeded(seed))] for seed in range(2000)]
    pairs = list(zip(drawn[::2], drawn[1::2], strict=True))  # the same distribution, seen and new
    assert 1 <= sum(bool(new.mean() > upper_bound(seen[None])) for seen, new in pairs) <= 25
    assert sum(bool(new.mean() > seen.mean()) for seen, new in pairs) > 400  # a mean alone is no such promise


def test_a_circuit_whose_loss_might_be_much_larger_on_new_pairs_has_to_be_better(task, pairs):
    problem, ranking = task
    start = ranking.smallest(0.02)
    evaluator = Evaluator(problem.masking.model, problem.masking.ablations, pairs, pairs, problem.config, extra=pairs)
    asked = evaluator(start, target=0.1)
    fit = asked.losses[:, : pairs.n_pairs]
    extra = max(float(fit.mean()), float(upper_bound(torch.cat([asked.losses, fit], dim=1))))
    assert asked.extra_loss == pytest.approx(extra, abs=1e-5)
    changed, halves = start.without([start.list_nodes()[0]])
    again = evaluator.changed(asked, halves, changed, 10.0)  # from the traces of the run on the extra pairs
    assert again.extra_loss == pytest.approx(evaluator(changed, 10.0).extra_loss, abs=1e-5)


def test_what_is_left_is_minimal_and_the_certificate_tells_what_each_removal_would_cost(task):
    problem, ranking = task
    removal_path = RemovalPath(problem, of_few_edges(problem, ranking), 0.5)
    candidate, certificate = minimal(problem, removal_path.smallest(0.1), 0.1)
    assert certificate["loss"] == candidate.loss <= 0.1
    for key, indices in candidate.nodes.items():
        for i, loss in zip(indices.tolist(), certificate["nodes"][key], strict=True):
            assert loss == pytest.approx(first_above(0.1, problem, candidate, (key, i)), abs=1e-5) and loss > 0.1
    for key, ends in candidate.edges.items():
        for (s, t), loss in zip(ends.tolist(), certificate["edges"][key], strict=True):
            assert loss == pytest.approx(first_above(0.1, problem, candidate, (key, s, t)), abs=1e-5) and loss > 0.1


def first_above(target, problem, circuit, item):
    """The loss without an item on the first pairs on which it is above the target: those of the fit, or all."""
    less, evaluator = circuit.without([item])[0], problem.evaluator
    fit = Evaluator(evaluator.model, evaluator.ablations, evaluator.fit, evaluator.fit, evaluator.config)(less).loss
    return fit if fit > target else evaluator(less).loss


def test_dead_ends_are_nodes_that_nothing_reaches_or_that_reach_nothing():
    nodes = {"0.mlp_in": torch.tensor([1, 5]), "0.mlp_neuron": torch.tensor([2, 4]), "0.mlp_out": torch.tensor([3])}
    through = {"0.mlp_in->mlp_neuron": [[1, 2], [5, 4]], "0.mlp_neuron->mlp_out": [[2, 3]]}
    parts = Subgraph(nodes, {key: torch.tensor(value) for key, value in through.items()})
    assert dead_ends(parts) == {("0.mlp_neuron", 4), ("0.mlp_in", 5)}  # 4 writes nothing, and only it reads 5


def test_a_node_goes_with_its_edges_and_an_edge_alone():
    nodes = {"0.mlp_in": torch.tensor([1, 5]), "0.mlp_neuron": torch.tensor([2])}
    parts = Subgraph(nodes, {"0.mlp_in->mlp_neuron": torch.tensor([[1, 2], [5, 2]])})
    less, halves = parts.without([("0.mlp_in", 5)])
    assert less.list_nodes() == [("0.mlp_in", 1), ("0.mlp_neuron", 2)] and halves == {1}
    assert less.list_edges() == [("0.mlp_in->mlp_neuron", 1, 2)] and ("0.mlp_in", 5) not in less
    less, _ = parts.without([("0.mlp_in->mlp_neuron", 1, 2)])
    assert less.list_nodes() == parts.list_nodes() and less.list_edges() == [("0.mlp_in->mlp_neuron", 5, 2)]
    assert parts.without([("0.mlp_in", 7), ("0.mlp_in->mlp_neuron", 2, 1)])[1] == set()
    assert parts.without([("0.mlp_neuron", 2)])[0].edges == {}


def test_a_path_starts_at_the_strictest_target_that_needs_no_huge_circuit():
    def candidate(n):
        return Candidate({}, {"0.mlp_in->mlp_neuron": torch.zeros(n, 2)}, 0.0, 0.0, (1.0, 0.0), torch.zeros(1))

    sizes = {0.01: None, 0.03: candidate(500), 0.06: candidate(300), 0.15: candidate(100), 0.5: candidate(10)}
    assert start_of(sizes, 0.15).n_edges == start_of(sizes, 0.15, 200).n_edges == 300
    assert start_of(sizes, 0.15, 100).n_edges == 100
    with pytest.raises(ValueError, match="no circuit reaches a loss of 0.01"):
        start_of(sizes, 0.01)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_slopes_are_the_gradients_of_the_losses_on_any_number_of_threads(task, pairs, n):
    problem, _ = task
    masks = (torch.rand((n, problem.masking.layout.n_units), generator=torch.Generator().manual_seed(n)) < 0.7).float()
    leaf = masks.clone().requires_grad_(True)
    losses = problem.masking.losses(leaf, pairs, problem.masking.behind(problem.masking.draws[0], pairs))
    (slopes,) = torch.autograd.grad(losses.sum(), leaf)
    found, threads = [], torch.get_num_threads()
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            found.append(problem.masking.slopes(masks, pairs))
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)
    torch.testing.assert_close(found[0][0], losses.detach())
    torch.testing.assert_close(found[0][1], slopes, rtol=1e-4, atol=1e-6)


def test_passes_hold_every_pair_once_and_prompts_of_like_length_together(pairs):
    parts = of_like_length(pairs, 5)
    assert [part.n_pairs for part in parts] == [5, 5, 2]
    longest = [int(part.last.max()) for part in parts]
    assert longest == sorted(longest) and [part.tokens.shape[1] - 1 for part in parts] == longest
    rows = torch.cat([torch.nn.functional.pad(part.tokens, (0, 6 - part.tokens.shape[1])) for part in parts])
    assert sorted(rows[:, :4].tolist()) == sorted(pairs.tokens[:, :4].tolist())


def test_work_goes_on_threads_of_its_own_and_comes_back_in_order():
    threads = torch.get_num_threads()
    both = threading.Barrier(2, timeout=10)  # passes only if two pieces are at work at once

    def work(item):
        both.wait()
        return item, torch.get_num_threads(), torch.ones(64, 64).matmul(torch.ones(64, 64)).sum().item()

    try:
        torch.set_num_threads(2)
        assert side_by_side(work, [3, 1, 4, 2]) == [(item, 1, 64.0**3) for item in (3, 1, 4, 2)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
