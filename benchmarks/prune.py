"""What pruning costs: a mask step, eight candidates at once, the compact executor. Ratios, measured side by side.

``python -m benchmarks.prune``. Models have random weights of the given density (1: dense, without AbsTopK); the time of
a step does not depend on what they have learnt.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.interleave import interleave, ratio, show
from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.compact import Compact, Frozen
from pipeline.circuit.graph import induced_edges
from pipeline.circuit.masked import Masked
from pipeline.config import ModelConfig
from pipeline.data.pairs import PairBatch, answer_logits, prompt_losses
from pipeline.model.device import prepare_cpu
from pipeline.model.initial import new_model
from pipeline.model.record import record
from pipeline.model.transformer import Transformer
from pipeline.prune.masks import Heaviside
from pipeline.prune.search import NodeMasking

VOCAB = 1024
AT_ONCE = 8


@dataclass(frozen=True)
class PruneProblem:
    """A random frozen model, random pairs, and what its nodes are held at."""

    model: Transformer
    batch: PairBatch
    masking: NodeMasking

    @classmethod
    def of(cls, d_model: int, n_layer: int, density: float, n_pairs: int, length: int) -> PruneProblem:
        generator = torch.Generator().manual_seed(0)
        model = random_model(d_model, n_layer, density, generator)
        tokens = torch.randint(VOCAB, (2 * n_pairs, length), generator=generator)
        answers = torch.randint(VOCAB, (n_pairs, 2), generator=generator)
        answers = torch.stack([answers, answers.flip(1)], dim=1).flatten(0, 1)
        batch = PairBatch(tokens, torch.full((2 * n_pairs,), length - 1), answers)
        means = {key: value.mean((0, 1)) for key, value in record(model, tokens[:8])[1].items()}
        return cls(model, batch, NodeMasking.of(model, [AblationValues.at_means(means)], tie_qk=False))

    def plain(self, n: int = 1) -> None:
        """Forward and backward of ``n`` unmasked batches, the gradients of weights left out: the model is frozen."""
        leaf = self.model.transformer["wte"].weight.requires_grad_(True)
        batch = self.batch.take(torch.arange(self.batch.n_pairs).repeat(n))
        logits = self.model(batch.tokens, at=batch.last)
        torch.autograd.grad(prompt_losses(answer_logits(logits, batch)).mean(), leaf)
        leaf.requires_grad_(False)

    def with_weights(self) -> None:
        """The same, the gradients of all weights taken too, as in training."""
        parameters = [p.requires_grad_(True) for p in self.model.parameters()]
        logits = self.model(self.batch.tokens, at=self.batch.last)
        torch.autograd.grad(prompt_losses(answer_logits(logits, self.batch)).mean(), parameters)
        self.model.requires_grad_(False)

    def masked(self, n: int, kept: float) -> Callable[[], None]:
        """A step of ``n`` candidates, each of which keeps a fraction of the nodes of its own."""
        generator = torch.Generator().manual_seed(1)
        shape = (n, self.masking.layout.n_units)
        tau = torch.where(torch.rand(shape, generator=generator) < kept, 0.1, -0.1)

        def step() -> None:
            leaf = tau.clone().requires_grad_(True)
            mask: Tensor = Heaviside.apply(leaf, torch.ones(n, 1))
            _, slope = self.masking.slopes(mask, self.batch)
            torch.autograd.grad(mask, leaf, slope + 1e-3)

        return step


def random_model(d_model: int, n_layer: int, density: float, generator: torch.Generator) -> Transformer:
    """A frozen model whose block matrices have that density; AbsTopK keeps a quarter unless it is 1."""
    config = ModelConfig(
        n_layer=n_layer,
        d_model=d_model,
        d_head=16,
        n_ctx=128,
        afrac=1.0 if density == 1 else 0.25,
        block_density=density,
        embed_density=density,
        sink=True,
        positions=True,
        lr=0.01,
        tokens=1,
    )
    model = new_model(config, VOCAB, 0, None)
    for name, p in model.requires_grad_(False).named_parameters():
        if ".h." in name and p.ndim == 2 and density < 1:
            p.mul_((torch.rand(p.shape, generator=generator) < density) / density**0.5)
    return model.freeze()


def executor(problem: PruneProblem, n_nodes: int) -> dict[str, Callable[[], object]]:
    """The masked model and the compact executor of a random circuit with all edges between its nodes."""
    layout = problem.masking.layout
    mask = torch.zeros(layout.n_units)
    mask[torch.randperm(layout.n_units, generator=torch.Generator().manual_seed(2))[:n_nodes]] = 1
    nodes, edges = layout.nodes(mask), induced_edges(problem.model, layout.by_site(mask))
    ablated_to = problem.masking.ablations[0].first
    masked, compact = (
        Masked(problem.model, nodes, edges, ablated_to),
        Compact(Frozen(problem.model, ablated_to), nodes, edges),
    )
    tokens, at = problem.batch.tokens, problem.batch.last
    torch.testing.assert_close(compact(tokens, at=at), masked(tokens, at=at), rtol=1e-4, atol=1e-4)
    return {"masked model": lambda: masked(tokens, at=at), "compact": lambda: compact(tokens, at=at)}


def steps(density: float, kept: float, n_pairs: int, arguments: argparse.Namespace) -> dict[str, float | str]:
    """One row of the table of mask steps."""
    problem = PruneProblem.of(256, 2, density, n_pairs, arguments.length)
    seconds = interleave(
        {
            "plain": problem.plain,
            "eight plain": lambda: problem.plain(AT_ONCE),
            "with weights": problem.with_weights,
            "one": problem.masked(1, kept),
            "eight": problem.masked(AT_ONCE, kept),
        },
        arguments.rounds,
    )
    return {
        "density": density,
        "kept": kept,
        "pairs": n_pairs,
        "mask step ÷ plain": ratio(seconds, "one", "plain"),
        "mask step ÷ plain with weights": ratio(seconds, "one", "with weights"),
        f"{AT_ONCE} at once ÷ one": ratio(seconds, "eight", "one"),
        f"{AT_ONCE} at once ÷ plain": ratio(seconds, "eight", "plain"),
        f"{AT_ONCE} plain batches ÷ plain": ratio(seconds, "eight plain", "plain"),
        "ms of one": 1000 * sorted(seconds["one"])[len(seconds["one"]) // 2],
    }


def executors(density: float, arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Rows of the table of executors: circuits of growing size."""
    problem = PruneProblem.of(1024, 2, density, arguments.pairs, arguments.length)
    rows = []
    for n_nodes in (30, 100, 300, 1000):
        seconds = interleave(executor(problem, n_nodes), arguments.rounds)
        faster = ratio(seconds, "masked model", "compact")
        rows.append({"density": density, "nodes": n_nodes, "masked model ÷ compact": faster})
    return rows


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--length", type=int, default=40, help="tokens of a prompt; the study's have 5 to 70")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    prepare_cpu(arguments.threads)
    title = f"mask steps: d_model 256, 2 layers, pairs of {arguments.length} tokens"
    rows = [steps(density, kept, arguments.pairs, arguments) for density in (1.0, 1 / 16) for kept in (1.0, 0.3, 0.03)]
    rows += [steps(1 / 16, 0.3, n_pairs, arguments) for n_pairs in (1, 2, 4, 16)]
    show(f"{title}, {arguments.threads} threads", rows, arguments.json)
    found = [row for density in (1.0, 1 / 16) for row in executors(density, arguments)]
    show("executors: d_model 1024, 2 layers, the same pairs", found, arguments.json)


if __name__ == "__main__":
    main()
