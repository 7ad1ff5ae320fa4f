"""The Python face (docs/python.md) on the model and the circuits that the repository ships."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import pipeline
from pipeline import Circuit, load_model, load_task
from pipeline.artifacts import ArtifactError
from pipeline.circuit import WrongModelError
from pipeline.circuit.interventions import edge_cuts
from pipeline.data.tasks import TaskError
from pipeline.model.record import record
from pipeline.sites import split_edge_name, split_node_name

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "example/models/sparse_d1024"
CIRCUIT = ROOT / "example/circuits/sparse_d1024/bracket_counting"
TEXT = "rows = [[1, 2"


@pytest.fixture(scope="module")
def model():
    return load_model(MODEL)


@pytest.fixture(scope="module")
def circuit():
    return Circuit.load(CIRCUIT)


def parts(circuit):
    return {key: ends.tolist() for key, ends in [*circuit.nodes.items(), *circuit.edges.items()]}


def test_every_name_of_the_face_is_there():
    assert all(hasattr(pipeline, name) for name in pipeline.__all__)
    with pytest.raises(AttributeError, match="no attribute 'loadmodel'"):
        getattr(pipeline, "loadmodel")  # noqa: B009


def test_what_is_loaded_is_shown_in_one_line(model, circuit):
    assert repr(model) == "LoadedModel(sparse_d1024: 2 layers of width 1024, 1024 tokens)"
    assert repr(load_task(model, "var_if")).startswith("LoadedTask(sparse_d1024: ")
    assert repr(circuit) == "Circuit(bracket_counting in sparse_d1024: 28 nodes, 29 edges)"


def test_a_circuit_answers_a_loaded_model_as_the_model_in_it(model, circuit):
    batch = load_task(model, "bracket_counting").batch("test").take(torch.arange(4))
    assert torch.equal(circuit.answers(model, batch), circuit.answers(model.model, batch))


def test_a_str_is_as_good_as_a_path(model, circuit):
    by_str = load_model(str(MODEL), str(ROOT / "example/data/tokens"))
    assert by_str.model.checkpoint == model.model.checkpoint and by_str.name == model.name
    assert parts(Circuit.load(str(CIRCUIT))) == parts(circuit)
    batches = [load_task(str(MODEL), "var_if").batch("test"), load_task(model, Path("var_if")).batch("test")]
    assert torch.equal(batches[0].tokens, batches[1].tokens)
    logits, _ = circuit.run_with_cache(str(MODEL), TEXT)
    assert torch.equal(logits, circuit.run_with_cache(model, TEXT)[0])


def test_a_run_gives_the_models_logits_and_the_values_that_record_sees(model):
    tokens = torch.tensor([[model.tokenizer.eot, *model.tokenizer.encode(TEXT)]])
    expected, values = record(model.model, tokens)
    for given in (TEXT, [TEXT], tokens):
        logits, cache = model.run_with_cache(given, "*.mlp_*")
        assert torch.equal(logits, expected)
        assert list(cache) == [f"{layer}.mlp_{site}" for layer in range(2) for site in ("in", "neuron", "out")]
        assert all(torch.equal(cache[key], values[key]) for key in cache)


def test_the_residual_stream_has_names_and_is_what_the_sites_add_up_to(model):
    _, cache = model.run_with_cache(TEXT)
    added = cache["0.resid_pre"] + cache["0.attn_out"]
    assert torch.allclose(cache["0.resid_mid"], added, atol=1e-6)
    assert torch.allclose(cache["1.resid_pre"], added + cache["0.mlp_out"], atol=1e-6)
    assert torch.allclose(cache["final_resid"], cache["1.resid_mid"] + cache["1.mlp_out"], atol=1e-6)
    _, some = model.run_with_cache(TEXT, ["*.resid_mid", "final_resid"])
    assert list(some) == ["0.resid_mid", "1.resid_mid", "final_resid"]


def test_under_a_circuit_the_run_is_the_circuits(model, circuit):
    logits, cache = circuit.run_with_cache(model, TEXT, "0.attn_in")
    assert torch.equal(logits, circuit(model)(model.to_tokens(TEXT)))
    assert torch.equal(logits, model.run_with_cache(TEXT, circuit=circuit)[0])
    ablated = torch.ones(cache["0.attn_in"].shape[-1], dtype=torch.bool)
    ablated[circuit.nodes["0.attn_in"]] = False
    assert torch.equal(cache["0.attn_in"][0, 0, ablated], circuit.means["0.attn_in"][ablated])


def test_an_intervention_changes_what_comes_after_it_also_in_the_residual_stream_of_a_circuit(model, circuit):
    def none(name, value):
        return torch.zeros_like(value) if name == "1.resid_pre" else value

    plain, _ = circuit.run_with_cache(model, TEXT)
    logits, cache = circuit.run_with_cache(model, TEXT, intervene=none)
    assert not logits.allclose(plain) and not cache["1.resid_pre"].any()
    assert torch.equal(cache["1.resid_mid"], cache["1.attn_out"])


def test_cuts_are_those_of_the_forward_pass(model, circuit):
    key, source, target = split_edge_name(circuit.edge_names[0])
    cuts = edge_cuts(model.model, {key: torch.tensor([[source, target]])}, circuit.means, keep=False)
    logits, _ = model.run_with_cache(TEXT, cuts=cuts)
    assert torch.equal(logits, model.model(model.to_tokens(TEXT), cuts=cuts))
    assert not logits.allclose(model.run_with_cache(TEXT)[0])


def test_greedy_text_is_the_likeliest_token_again_and_again(model, circuit):
    for changes in ({}, {"circuit": circuit}):
        text = model.generate(TEXT, max_new_tokens=4, temperature=0.0, **changes)
        tokens = model.to_tokens(TEXT)
        for _ in range(4):
            logits, _ = model.run_with_cache(tokens, "final_resid", **changes)
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
        assert text == model.tokenizer.decode(tokens[0, 1:].tolist())


def test_drawn_text_follows_from_the_seed(model):
    once, again, other = (model.generate(TEXT, 12, seed=seed) for seed in (1, 1, 2))
    assert once == again != other and once.startswith(TEXT)
    assert model.generate(TEXT, 12, temperature=1e-3, seed=3) == model.generate(TEXT, 12, temperature=0.0)


def test_a_text_grows_to_the_models_context_and_no_further(model):
    short = "x = 1\n"
    longest = len(model.to_tokens(short)[0]) + 3
    small = replace(model, model=load_model(MODEL).model)
    small.model.config = small.model.config.model_copy(update={"n_ctx": longest})
    assert len(small.to_tokens(small.generate(short, 50, temperature=0.0))[0]) <= longest


def test_an_edge_that_was_taken_out_is_put_back(model, circuit):
    edge = circuit.edge_names[0]
    less = circuit.without(edge)
    assert (less.n_edges, less.n_nodes) == (circuit.n_edges - 1, circuit.n_nodes)
    assert less.certificate is None and less.calibration == circuit.calibration
    assert parts(less.with_edge(edge, model=model)) == parts(circuit)


def test_a_node_goes_with_its_edges_and_comes_with_them(circuit):
    node = circuit.edge_names[0].split("->")[0]
    gone = [edge for edge in circuit.edge_names if node in edge.split("->")]
    less = circuit.without(node)
    assert set(circuit.node_names) - set(less.node_names) == {node}
    assert set(circuit.edge_names) - set(less.edge_names) == set(gone)
    assert parts(less.with_edge(*gone)) == parts(circuit)


def test_a_graph_has_the_circuits_nodes_and_edges(circuit):
    graph = circuit.to_networkx()
    assert sorted(graph.nodes) == sorted(circuit.node_names)
    assert sorted("->".join(ends) for ends in graph.edges) == sorted(circuit.edge_names)
    name = circuit.node_names[0]
    assert f"{graph.nodes[name]['layer']}.{graph.nodes[name]['site']}" == split_node_name(name)[0]


def test_a_circuit_draws_itself_with_the_model_beside_it(model, circuit, tmp_path):
    for suffix, head in ((".svg", b"<svg"), (".png", b"\x89PNG"), (".pdf", b"%PDF")):
        circuit.draw(str(tmp_path / f"figure{suffix}"))
        assert (tmp_path / f"figure{suffix}").read_bytes().startswith(head)
    svg = pipeline.draw(str(CIRCUIT), model, tmp_path / "other.svg")
    assert svg == (tmp_path / "figure.svg").read_text(encoding="utf-8") == circuit.draw()._repr_svg_()
    assert svg.count("<circle") >= circuit.n_nodes and f"{circuit.n_edges} edges" in svg
    less = circuit.without(circuit.edge_names[0])
    assert less.draw() == replace(less, folder=None).draw(model=model) != svg


@pytest.mark.parametrize("folder", [Path("/"), Path("/found"), Path("/found/task"), Path("/a/found/task")])
def test_a_circuit_with_no_model_beside_it_is_a_line_however_near_the_root_it_lies(circuit, folder):
    with pytest.raises(ArtifactError, match="there is no .*/models/sparse_.*; name the model"):
        replace(circuit, folder=folder).draw()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda model, circuit: model.run_with_cache(TEXT, "*.mlp_neurons"), "'*.mlp_neurons' fits no name; allowed: "),
        (lambda model, circuit: model.run_with_cache(""), "is no text; allowed: code"),
        (lambda model, circuit: model.run_with_cache([1, 2]), "[1, 2] is no text"),
        (lambda model, circuit: model.run_with_cache([]), "is no text; allowed: code"),
        (lambda model, circuit: model.generate(""), "is no text; allowed: code"),
        (lambda model, circuit: model.run_with_cache(["x", "x = 1"]), "run them one by one"),
        (lambda model, circuit: model.run_with_cache(torch.tensor([[0, 9999]])), "token 9999 is outside"),
        (lambda model, circuit: model.run_with_cache(torch.tensor([[0, -1]])), "token -1 is outside"),
        (lambda model, circuit: model.run_with_cache(torch.tensor([0, 1])), "allowed: ids [prompt, pos]"),
        (lambda model, circuit: model.run_with_cache(torch.ones(1, 2)), "allowed: ids [prompt, pos]"),
        (lambda model, circuit: model.run_with_cache("x = 1\n" * 200), "allowed: at most n_ctx, 128"),
        (lambda model, circuit: model.generate("x = 1\n" * 200), "allowed: at most n_ctx, 128"),
        (lambda model, circuit: model.generate(TEXT, temperature=-1), "temperature -1; allowed: 0 and above"),
        (lambda model, circuit: circuit.without("0.attn_in.1"), "not in the circuit: 0.attn_in.1"),
        (lambda model, circuit: circuit.without("0.attn_in"), "not in the circuit: 0.attn_in"),
        (lambda model, circuit: circuit.with_edge("0.attn_in.1"), "'0.attn_in.1' joins no two sites of a layer"),
        (lambda model, circuit: circuit.with_edge("0.attn_in.1->1.attn_q.1"), "joins no two sites of a layer"),
        (lambda model, circuit: circuit.with_edge("0.attn_q.1->0.attn_k.1"), "joins no two sites of a layer"),
        (
            lambda model, circuit: circuit.with_edge("0.attn_in.9999->0.attn_q.1"),
            "0.attn_in.9999 is no node of the model",
        ),
        (lambda model, circuit: circuit.with_edge("7.attn_in.0->7.attn_q.1"), "7.attn_in.0 is no node of the model"),
        (lambda model, circuit: circuit.draw("figure.gif"), "allowed: .svg, .png, .pdf"),
    ],
)
def test_a_mistake_is_answered_in_one_line(model, circuit, wrong, said):
    with pytest.raises(ValueError) as refused:
        wrong(model, circuit)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_an_edge_of_weight_zero_is_none(model, circuit):
    used = {tuple(pair) for pair in model.model.transformer["h"][0].attn.c_attn.weight[:256].nonzero().tolist()}
    target, source = next((t, s) for t in range(8) for s in range(8) if (t, s) not in used)
    with pytest.raises(ValueError, match="its weight is zero"):
        circuit.with_edge(f"0.attn_in.{source}->0.attn_q.{target}", model=model.model)


def test_an_unknown_task_and_a_missing_model_are_answered_in_one_line(model, circuit, tmp_path):
    with pytest.raises(TaskError, match="unknown task 'bracket_count'; did you mean 'bracket_counting'"):
        load_task(model, "bracket_count")
    with pytest.raises(ArtifactError, match="no such folder; allowed: the folder of a checkpoint"):
        load_model(str(tmp_path / "none"))
    with pytest.raises(ArtifactError, match=r"circuit\.json"):
        Circuit.load(str(tmp_path))
    with pytest.raises(ArtifactError, match="was not loaded from a folder; name its model"):
        replace(circuit, folder=None).draw()


def test_a_circuit_of_another_checkpoint_is_refused(model, circuit):
    other = replace(circuit, about=dict(circuit.about) | {"model_hash": "0123"})
    for run in (lambda: other.run_with_cache(model, TEXT), lambda: other.draw(model=model)):
        with pytest.raises(WrongModelError, match="belongs to checkpoint 0123"):
            run()
