"""The page of ``sparse-circuits show`` in a real browser: the circuit is drawn, a node shows one's own prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.artifacts import write_json
from pipeline.config import load_params
from pipeline.data.shards import token_dtype, write_stream
from pipeline.play.alone import explanation_of, page_alone
from tests.play.playing import TOKENIZER, make_circuit, make_model, make_session

CODE = "def f(<ab>, {c}):\n    return [<a>, {b}]\n"


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The page of the circuit ``closing`` with a prompt of one's own, as a file."""
    folder = tmp_path_factory.mktemp("show")
    model = make_model()
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


def test_a_node_of_the_page_shows_ones_own_prompt_and_the_network_is_asked_for_nothing(page, shown):
    page.goto(shown)
    page.wait_for("document.querySelectorAll('.cd-node').length === 16")
    page.click(".cp-nodes button")
    page.wait_for("document.querySelectorAll('.cn-prompt').length === 3")
    own = page.evaluate("[...document.querySelectorAll('.cn-prompt')].pop().innerText")
    assert "f(<q" in own and "your own prompt" in own
    assert page.errors == [] and page.requests == []
