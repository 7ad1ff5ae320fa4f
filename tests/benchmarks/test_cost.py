"""The cost model against what torch counts and holds for tiny models, and against what has to be so."""

from __future__ import annotations

import importlib
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.model import abstopk, transformer
from pipeline.model.attention import attend_fused
from pipeline.model.initial import new_model
from pipeline.pretrain.optimizer import SparseAdam
from pipeline.pretrain.projection import sparse_targets
from pipeline.pretrain.step import next_token_loss

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # benchmarks is no installed package
cost, counts = importlib.import_module("benchmarks.cost"), importlib.import_module("benchmarks.counts")

VOCAB, BATCH = 24, 4
SPARSE = {"afrac": 0.5, "block_density": 0.5, "embed_density": 0.5}
SHAPES = [{}, {"sink": True}, {"positions": True, "d_model": 32}, {"sink": True, "n_layer": 3, **SPARSE}]


@pytest.fixture
def job(tiny_config, params):
    """A tiny job in float32 without fused attention; keyword arguments change the model."""
    shared = params.pretrain.model_copy(update={"batch": BATCH})
    return lambda **changes: counts.Job(tiny_config(**changes), shared, VOCAB, low=4, fused_attention=False)


@pytest.fixture
def paper(monkeypatch):
    """The jobs of the paper profile on some number of devices of a machine."""
    monkeypatch.chdir(ROOT)
    return lambda machine, *options: cost.jobs(cost.arguments(["--machine", machine.name, *options]), machine)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """As anywhere but on a CPU: attention by plain products, which torch counts and whose tensors it holds; masks of a
    byte an entry."""

    def attend(q, k, v, sink, n_head, at, branch):
        return attend_fused(q.float(), k.float(), v.float(), sink, n_head, at, branch)

    monkeypatch.setattr(transformer, "attend", attend)
    monkeypatch.setattr(abstopk, "packed", lambda keep: keep)
    monkeypatch.setattr(abstopk, "masked", lambda x, keep: torch.where(keep.bool(), x, 0))
    with sdpa_kernel(SDPBackend.MATH):
        yield


def loss_of(job):
    model = new_model(job.config, job.vocab, seed=0, bigram=None)
    return model, next_token_loss(model, torch.randint(job.vocab, (BATCH, job.config.n_ctx + 1)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_flops_are_those_that_torch_counts(job, as_on_a_gpu, shape):
    one = job(**shape)
    with FlopCounterMode(display=False) as counter:
        loss_of(one)[1].backward()
    assert counter.get_total_flops() == sum(counts.flops_per_token(one).values()) * one.tokens


def test_a_fused_kernel_does_one_of_six_products_again(job):
    plain = job(sink=True)
    fused = replace(plain, fused_attention=True)
    flops = [counts.flops_per_token(one)["attention"] for one in (fused, plain)]
    assert flops[0] / flops[1] == 14 / 12


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_work_of_a_step_holds_the_flops_of_all_its_tokens(job, shape):
    one = job(**shape)
    work = counts.step(one)
    per_token = counts.flops_per_token(one)
    products = (per_token["matrices"] + per_token["unembedding"]) * one.tokens
    assert sum(part.matmul for part in work.values()) == pytest.approx(products, rel=1e-12)
    assert work["attention"].float32 == pytest.approx(per_token["attention"] * one.tokens, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parameters_gradients_and_moments_take_the_bytes_of_the_real_tensors(job, shape):
    one = job(**shape)
    model, loss = loss_of(one)
    loss.backward()
    parts, size = counts.memory(one), lambda tensors: sum(x.numel() * x.element_size() for x in tensors)
    assert parts["weights"] == size(model.parameters())
    assert parts["gradients"] == size(p.grad for p in model.parameters())
    optimizer = SparseAdam(model, one.config, one.shared, n_steps=10)
    optimizer.step(0)
    state = optimizer.adam.state.values()
    assert parts["moments"] == size(x for of in state for name, x in of.items() if name != "step")
    assert parts["(bigram's)"] == 4 * size([model.bigram_table])
    assert one.sparse == sum(target.parameter.numel() for target in sparse_targets(model, one.config))


def kept_bytes(one):
    """Bytes of all distinct tensors but parameters that autograd holds between forward and backward."""
    model = new_model(one.config, one.vocab, seed=0, bigram=None)
    ablated_to = {}  # the tensors themselves, so that no storage takes the place of another

    def keep(x):
        ablated_to[x.untyped_storage()._cdata] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        logits = model(torch.randint(one.vocab, (BATCH, one.config.n_ctx)))
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    assert logits.requires_grad
    return sum(x.untyped_storage().nbytes() for storage, x in ablated_to.items() if storage not in own)


@pytest.mark.parametrize("shape", [{}, {"sink": True, **SPARSE}], ids=str)
def test_kept_activations_are_the_bytes_that_a_layer_makes_autograd_hold(job, as_on_a_gpu, shape):
    one, two = (job(d_model=64, d_head=16, n_layer=n, **shape) for n in (1, 2))
    norms = 2 * 4 * one.tokens  # left out: each norm's statistic of a token
    assert kept_bytes(two) - kept_bytes(one) == counts.kept_by_layer(one) + norms


@pytest.mark.parametrize("name", ["H100", "H200"])
def test_more_devices_never_cost_more_hours(paper, name):
    machine = cost.SHEETS[name]
    hours = []
    for devices in ("1", "2", "4", "8"):
        rows = [cost.cost(name, one, machine) for name, one in paper(machine, "--devices", devices).items()]
        hours.append([row.hours for row in rows])
    assert all(more <= fewer for a, b in zip(hours, hours[1:], strict=False) for fewer, more in zip(a, b, strict=True))


def test_infinite_bandwidth_leaves_only_flop_time(paper):
    machine = replace(cost.SHEETS["H200"], bandwidth=math.inf, link=math.inf)
    one = paper(machine, "--devices", "8")["sparse_d2048"]
    row, flops = cost.cost("", one, machine), counts.flops_per_token(one)
    expected = (flops["matrices"] + flops["unembedding"]) * one.tokens / machine.matmul
    expected += flops["attention"] * one.tokens / machine.float32 + counts.search(one)[0].float32 / machine.float32
    assert row.step_seconds == pytest.approx(expected, rel=1e-12)


def test_without_any_arithmetic_only_bytes_take_time(job):
    machine = replace(cost.SHEETS["H200"], matmul=math.inf, float32=math.inf)
    row = cost.cost("", job(**SPARSE), machine)
    assert row.step_seconds == pytest.approx(sum(row.bytes_per_step.values()) / machine.bandwidth, rel=1e-12)
    assert row.validation_seconds == 0


def test_a_product_worked_out_by_hand(paper):
    """12 · 2048² · 8 weights, 6 FLOPs each: 2.416 GFLOP a token, times 131072 tokens, at 0.6 · 989 TFLOP/s: 534 ms."""
    machine = cost.SHEETS["H200"]
    row = cost.cost("", paper(machine)["sparse_d2048"], machine)
    assert row.flops_per_token["matrices"] == 2_415_919_104
    assert row.seconds["matrices"] == pytest.approx(2.415919104e9 * 131072 / 593.4e12, rel=1e-9)
    assert row.memory["weights"] == 4 * (8 * 12 * 2048**2 + 2 * 2048**2 + 8 * 9 * 2048 + 2048**2 + 17 * 2048 + 8 * 128)


def test_a_batch_is_cut_into_the_least_parts_that_fit(paper):
    machine = cost.SHEETS["H200"]
    one = paper(machine, "--accumulate", "1")["sparse_d2048"]
    fitting = cost.fitting(one, machine)
    assert counts.peak_memory(fitting) <= cost.USABLE_MEMORY * machine.memory
    fewer = fitting.shared.model_copy(update={"accumulate": fitting.shared.accumulate // 2})
    assert counts.peak_memory(replace(fitting, shared=fewer)) > cost.USABLE_MEMORY * machine.memory
    assert cost.cost("", one, replace(machine, memory=1e9)).accumulate == 0


def test_checkpointing_does_the_layers_products_again_and_spares_memory(paper):
    kept = paper(cost.SHEETS["H200"], "--accumulate", "1")["sparse_d2048"]
    again = paper(cost.SHEETS["H200"], "--accumulate", "1", "--checkpointing")["sparse_d2048"]
    assert counts.step(again)["matrices"].matmul == counts.step(kept)["matrices"].matmul * 4 / 3
    assert counts.peak_memory(again) < counts.peak_memory(kept) / 3


def test_the_command_gives_the_same_figures_as_json(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    given = ["--profile", "paper", "--matmul-tflops", "500", "--json"]
    assert cost.main(given) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["machine"]["matmul"] == 500e12
    assert {row["model"] for row in said["models"]} >= {"dense_d256", "sparse_d2048"}


@pytest.mark.parametrize("wrong", [["--check"], ["--devices", "0"], ["--machine", "abacus"]], ids=str)
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(SystemExit):
        cost.main(wrong)


def test_an_unknown_profile_is_one_line(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cost.main(["--profile", "papre"]) == 1
    assert "papre" in capsys.readouterr().out
