"""Folders of the sizes that are published, with random weights: they fit into a machine's memory, and take so long."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from pipeline.ablation import Ablation
from pipeline.circuit import Circuit
from pipeline.circuit.ablation_values import AblationValues
from pipeline.circuit.compact import Compact, Frozen
from pipeline.circuit.graph import induced_edges
from pipeline.circuit.interventions import node_masks
from pipeline.circuit.node_masks import NodeMasks
from pipeline.data.pairs import PairBatch
from pipeline.formats import import_model, read_foreign
from pipeline.model.scoring import answers_of
from tests.formats.conftest import random_tensors, write_released

pytestmark = pytest.mark.slow
YOLO2 = {
    "block_size": 256, "vocab_size": 2048, "n_layer": 8, "n_head": 128, "d_model": 2048, "rms_norm": True,
    "tied_unembed": False, "enable_bigram_table": True, "sink": True, "afrac": 0.25,
    "afrac_loctypes": "attn_in,attn_q,attn_k,attn_v,attn_out,mlp_in,mlp_neuron,mlp_out",
}  # fmt: skip
GPT2 = {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50257}
DENSITY = 0.01


@contextmanager
def timed(what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what}: {time.perf_counter() - start:.1f} s, {peak:.1f} GiB at most so far")


def pairs_of(n: int, vocab_size: int, length: int = 32) -> PairBatch:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (n, 1, length), generator=generator).repeat(1, 2, 1)
    tokens[:, 1, 5] = (tokens[:, 1, 5] + 1) % vocab_size
    answers = torch.tensor([[[1, 2], [2, 1]]]).repeat(n, 1, 1)
    return PairBatch(tokens.flatten(0, 1), torch.full((2 * n,), length - 1), answers.flatten(0, 1))


def mask_step(model, values, pairs: PairBatch) -> None:
    """One forward and backward pass of a mask search over all nodes."""
    masks = {key: torch.ones(n).requires_grad_() for key, n in model.widths().items()}
    answers = answers_of(model, pairs, **NodeMasks(model, values)(masks))
    (answers[:, 1] - answers[:, 0]).mean().backward()
    assert all(mask.grad is not None for mask in masks.values())


def hundred_nodes(model, values, pairs: PairBatch) -> None:
    """A circuit of a hundred nodes, run by the compact executor."""
    kept = {key: torch.arange(100 // len(values) + 1) for key in values}
    edges = induced_edges(model, node_masks(kept, values))
    logits = Compact(Frozen(model, values), kept, edges)(pairs.tokens, at=pairs.last)
    assert logits.isfinite().all()


def test_a_model_of_csp_yolo2s_shape_imports_and_runs_inside_12_gib(tmp_path):
    with timed("made and written"):
        tensors = random_tensors(YOLO2)
        for name, tensor in tensors.items():
            if ".c_" in name and name.endswith("weight"):
                tensor.mul_(torch.rand_like(tensor) < DENSITY)
        write_released(tmp_path / "yolo2", YOLO2, tensors)
        assert sum(t.numel() for name, t in tensors.items() if "bias" not in name) > 400e6
        del tensors
    with timed("imported"):
        import_model(tmp_path / "yolo2", tmp_path / "ours")
    with timed("read"):
        model = read_foreign(tmp_path / "yolo2").model
    with timed("256 tokens"), torch.no_grad():
        assert model(torch.zeros(1, 256, dtype=torch.long)).isfinite().all()
    values = AblationValues.at_zero({key: torch.zeros(n) for key, n in model.widths().items()}).first
    with timed("a mask step on 16 pairs"):
        mask_step(model, values, pairs_of(16, 2048))
    with timed("a circuit of 100 nodes on 16 pairs"):
        hundred_nodes(model, values, pairs_of(16, 2048))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss <= 12 * 2**20


@pytest.mark.timeout(3600)
def test_a_model_of_gpt2_smalls_shape_is_pruned_inside_8_gib(tmp_path):
    """All phases of pruning, on pairs whose right answer is the one that the random model prefers; its circuit is
    nearly the whole model, and is saved and read back."""
    transformers = pytest.importorskip("transformers", reason="the extra `hf` is not installed")
    from pipeline.config import load_params
    from pipeline.prune.prune import prune_task

    torch.manual_seed(0)
    random = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2))
    random.transformer.ln_f.weight.data.mul_(8)  # so that it prefers an answer clearly
    random.save_pretrained(tmp_path / "gpt2")
    del random  # the library's own copy is not what is measured
    assert json.loads((tmp_path / "gpt2/config.json").read_text())["n_embd"] == 768
    with timed("read"):
        model = read_foreign(tmp_path / "gpt2").model
    pairs = preferred(model, pairs_of(16, 50257, length=16))
    means = {key: torch.zeros(n) for key, n in model.widths().items()}
    config = load_params("params.yaml").prune
    few = {"steps": 20, "centres": config.centres[:1], "budget": 0, "baselines": [], "deciding": None}
    config = config.model_copy(update=few | {"target_loss": 0.5, "curve_losses": [0.5]})
    with timed("pruned"):
        found = prune_task(
            model=model, means=means, ablations=(AblationValues.of(Ablation.ZERO, means),),
            batches=dict.fromkeys(("train", "validation", "test"), pairs), config=config, seed=0, about={},
        )  # fmt: skip
    assert found.row["unpruned_validation_loss"] <= 0.5
    n_edges, circuit = found.row["n_edges"], found.circuit
    with timed(f"a circuit of {n_edges} edges saved and read"):
        circuit.save(tmp_path / "circuit")
        del found, circuit
        assert Circuit.load(tmp_path / "circuit").n_edges == n_edges
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss <= 8 * 2**20


def preferred(model, pairs: PairBatch, n: int = 1000) -> PairBatch:
    """The same prompts with two answers a pair of which the model prefers clearly the one on side a, the other on b:
    the best of the ``n`` tokens each that it has more of on one side."""
    with torch.no_grad():
        logits = model(pairs.tokens, at=pairs.last)
    answers = []
    for a, b in zip(logits[0::2], logits[1::2], strict=True):
        first, second = (a - b).topk(n).indices, (b - a).topk(n).indices
        margins = torch.minimum(a[first][:, None] - a[second], b[second] - b[first][:, None])
        row, column = divmod(int(margins.argmax()), n)
        answers.append([[first[row], second[column]], [second[column], first[row]]])
    return PairBatch(pairs.tokens, pairs.last, torch.tensor(answers).flatten(0, 1))
