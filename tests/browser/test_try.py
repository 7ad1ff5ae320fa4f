"""Prompts of one's own on a circuit's page in a real browser: what is typed is run there, and lies in the address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.artifacts import Workspace
from pipeline.circuit import Circuit
from pipeline.config import Params
from pipeline.model.checkpoint import save_means
from pipeline.play.alone import page_alone
from pipeline.play.changes import Act, PartChange
from pipeline.play.session import Session
from pipeline.report.bundle import token_texts
from pipeline.report.write import write_report
from tests.browser.chromium import Page
from tests.browser.trying import (
    EDGE,
    NODE,
    READY,
    act,
    bars,
    click_node,
    expected,
    reload,
    switch_off_in_the_whole_model,
    write,
)
from tests.play.playing import TOKENIZER, make_session
from tests.report.conftest import FakeTasks, write_model


@pytest.fixture(scope="module")
def shown(session: Session, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The circuit's page, without an explanation of its nodes."""
    path = tmp_path_factory.mktemp("try") / "page.html"
    path.write_text(page_alone(session, "closing", None)[0], encoding="utf-8")
    return path


@pytest.fixture
def trying(page: Page, shown: Path) -> Iterator[Page]:
    """The page with a prompt of the task in its field; it must end without an error, and ask nobody."""
    page.goto(shown)
    page.wait_for("document.querySelector('.ct textarea')")
    page.click(".ct textarea")
    page.wait_for(READY)
    yield page
    assert page.errors == [] and page.requests == []


def test_a_prompt_of_the_task_is_taken_and_what_is_typed_is_answered_as_python_answers(trying, session):
    assert trying.evaluate("document.querySelector('.ct textarea').value") == "<ab"
    write(trying, "f(<q")
    reply = session.run("f(<q", "closing", answers=[62, 125])
    assert bars(trying, 0) == expected(reply, "model") and bars(trying, 1) == expected(reply, "circuit")
    fills = trying.evaluate("[...document.querySelectorAll('.cd-node .dot')].map(dot => dot.style.fill)")
    assert len(fills) == 16 and len(set(fills)) > 4


def test_a_changed_node_and_edge_change_the_answer_and_lie_in_the_address(trying, session):
    write(trying, "f(<q")
    click_node(trying, "0.attn_out.7")
    act(trying, EDGE, "swap")
    act(trying, "0.attn_out.7", "scale")
    trying.wait_for("document.querySelectorAll('.ct-act.changed').length === 2")
    changes = [PartChange(EDGE, Act.SWAP), PartChange("0.attn_out.7", Act.SCALE, -1.0)]
    reply = session.run("f(<q", "closing", answers=[62, 125], changes=changes, other="{ab")
    assert bars(trying, 1) == expected(reply, "circuit")
    assert reply["circuit"]["first"][0] != reply["circuit"]["first"][1]
    address = trying.evaluate("location.hash")
    assert address.startswith("#/circuit/tiny/closing/0.attn_out.7?text=f")
    reload(trying, 2)
    assert bars(trying, 1) == expected(reply, "circuit") and trying.evaluate("location.hash") == address
    trying.click(".ct h4 button")
    trying.wait_for("!document.querySelectorAll('.ct-act.changed').length")
    assert bars(trying, 1) == expected(session.run("f(<q", "closing", answers=[62, 125]), "circuit")


def test_in_the_whole_model_changes_move_its_answer(trying, session):
    switch_off_in_the_whole_model(trying, NODE)
    reply = session.run("<ab", "closing", [NODE], inside="model", answers=[62, 125])
    assert bars(trying, 0) == expected(reply, "model")


def test_a_token_is_chosen_by_keyboard_and_a_heads_attention_is_shown(trying, session):
    click_node(trying, "0.attn_k.2")
    trying.wait_for("document.querySelectorAll('.ct-choice').length === 3")
    trying.evaluate("document.querySelector(\"[data-focus='token 1']\").focus()")
    trying.key("Enter")
    trying.wait_for("document.querySelector(\"[data-focus='token 1']\").getAttribute('aria-pressed') === 'true'")
    assert trying.evaluate("document.activeElement.dataset.focus") == "token 1"
    assert bars(trying, 0) == expected(session.run("<ab", at=1, answers=[62, 125]), "model")
    assert trying.evaluate("document.querySelectorAll('.ct-choice')[2].querySelectorAll('.cn-token').length") == 2
    for key, place in (("ArrowRight", 2), ("Home", 0), ("ArrowLeft", 0), ("End", 3)):
        trying.key(key)
        marked = f"document.querySelector(\"[data-focus='token {place}']\")"
        trying.wait_for(f"{marked}.getAttribute('aria-pressed') === 'true' && document.activeElement === {marked}")
    assert trying.evaluate("document.querySelectorAll('.ct-tokens button[tabindex=\"0\"]').length") == 1


def test_all_nodes_are_listed_and_what_each_does_to_the_answer_where_that_is_asked(trying, session):
    trying.click(".ct-shown > details > summary")
    rows = "[...document.querySelectorAll('.ct-node')].map(row => [...row.children].map(e => e.textContent))"
    assert trying.evaluate(f"{rows}.length") == 16
    trying.click("[data-focus=weigh]")
    trying.wait_for(f"{rows}[0].length === 3")
    effects = session.run("<ab", "closing", answers=[62, 125], effects=True)["effects"]["of"]
    names = session.circuit("closing").node_names
    order = sorted(zip(map(abs, effects), names, strict=True), key=lambda row: -row[0])
    assert trying.evaluate(rows)[0][0] == order[0][1]
    assert trying.evaluate("document.querySelector('.ct-shown > details').open")
    trying.click(".ct-node button")
    trying.wait_for(f"location.hash.includes('{order[0][1]}')")


def test_an_empty_prompt_is_said_and_a_phone_needs_no_scrolling_sideways(trying):
    trying.evaluate("document.querySelector('.ct textarea').select()")
    trying.key("Backspace")
    trying.wait_for("document.querySelector('.ct [role=status]').textContent.includes('the text is empty')")
    trying.viewport(360, 800, mobile=True)
    assert trying.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.fixture(scope="module")
def index(session: Session, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A study of one model under two names: only of the sparse one has the page the weights."""
    study = Workspace(tmp_path_factory.mktemp("index"))
    for name, kind in (("sparse_t", "sparse"), ("dense_t", "dense")):
        write_model(study.root, session.model, name, kind, 3.0, {"quotes": (0.05, 0.4)})
        save_means(dict(session.means), study.model(name))
    write_report(
        study, ["sparse_t", "dense_t"],
        task_set=FakeTasks(), texts=token_texts(TOKENIZER), tokenizer=TOKENIZER, statistics={"bigram_loss_nats": 3.75},
        params=params, margin=0.03, provenance={"git": None}, folder=study.results,
    )  # fmt: skip
    return study


def test_the_studys_page_runs_its_sparse_models_on_the_page_of_any_of_their_circuits(page, index, session):
    circuit = Circuit.load(index.circuits("sparse_t") / "quotes")
    alone = make_session(session.model, circuit)
    page.goto(f"{(index.results / 'index.html').as_uri()}#/circuit/sparse_t/quotes?text=f%28%3Cq&in=model&at=2")
    page.wait_for(READY, 60)
    reply = alone.run("f(<q", "closing", at=2, answers=[1, 2])
    assert bars(page, 0) == expected(reply, "model") and bars(page, 1) == expected(reply, "circuit")
    assert page.evaluate("location.hash") == "#/circuit/sparse_t/quotes?text=f%28%3Cq&in=model&at=2"
    page.goto(f"{(index.results / 'index.html').as_uri()}#/circuit/dense_t/quotes")
    page.wait_for("document.querySelector('.cp')?.textContent.includes('sparse-circuits play models/dense_t')", 60)
    assert page.errors == [] and page.requests == []
