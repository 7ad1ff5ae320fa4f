"""The page of ``sparse-circuits show`` in a real browser: the circuit is drawn, a node shows one's own prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.artifacts import write_json
from pipeline.config import load_params
from pipeline.data.shards import token_dtype, write_stream
from pipeline.model.initial import new_model
from pipeline.play.alone import explanation_of, page_alone
from pipeline.shape import ModelShape
from tests.play.playing import TOKENIZER, make_circuit, make_model, make_session
from tests.randomised import randomised

CODE = "def f(<ab>, {c}):\n    return [<a>, {b}]\n"


def page_of(model, folder):
    """The page of a model's circuit ``closing`` with a prompt of one's own, as a file."""
    session = replace(make_session(model, make_circuit(model)), folder=folder)
    documents = [TOKENIZER.encode(CODE * n) for n in range(1, 9)]
    n_tokens, _ = write_stream(folder / "validation.bin", documents, TOKENIZER.eot, TOKENIZER.vocab_size)
    dtype = token_dtype(TOKENIZER.vocab_size).__name__
    stats = {"dtype": dtype, "n_tokens": {"validation": n_tokens}, "tokenizer_hash": TOKENIZER.hash}
    write_json(folder / "stats.json", stats)
    config = load_params("params.yaml").explain.model_copy(update={"tokens": 512})
    html, _ = page_alone(session, "closing", explanation_of(session, "closing", config, seed=0), texts=["f(<q"])
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    return page_of(make_model(), tmp_path_factory.mktemp("show"))


def test_a_node_of_the_page_shows_ones_own_prompt_and_the_network_is_asked_for_nothing(page, shown):
    page.goto(shown)
    page.wait_for("document.querySelectorAll('.cd-node').length === 16")
    page.click(".cp-nodes button")
    page.wait_for("document.querySelectorAll('.cn-prompt').length === 3")
    own = page.evaluate("[...document.querySelectorAll('.cn-prompt')].pop().innerText")
    assert "f(<q" in own and "your own prompt" in own
    assert page.errors == [] and page.requests == []


def test_the_page_of_a_model_with_options_that_it_does_not_compute_is_drawn_and_says_so(page, tmp_path):
    options = {"norm": "layer", "activation": "gelu_new", "residual_relu": True, "d_pos": 5}
    shape = ModelShape.model_validate({"n_layer": 2, "d_model": 16, "d_head": 4, "n_ctx": 32, "sink": True} | options)
    page.goto(page_of(randomised(new_model(shape, vocab_size=257, seed=0, bigram=None), 1), tmp_path))
    page.wait_for("document.querySelectorAll('.cd-node').length === 16")
    said = page.evaluate("document.querySelector('#drawing').innerText")
    assert "The page does not compute norm, activation, residual_relu, d_pos, which this model has" in said
    assert "sparse-circuits play models/tiny" in said
    page.click(".cp-nodes button")
    page.wait_for("document.querySelectorAll('.cn-prompt').length === 3")
    assert not page.evaluate("document.querySelectorAll('.ct textarea').length")
    assert page.errors == [] and page.requests == []
