"""``sparse-circuits play`` in a real browser: the page of a circuit, answered by the server; and what it never does."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import uvicorn

from flows.cli_play import listening
from pipeline.play.changes import Act, PartChange
from pipeline.play.server import application
from pipeline.play.session import Session
from tests.browser.chromium import Page, wait_until
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


@pytest.fixture(scope="module")
def address(session: Session) -> Iterator[str]:
    """Where the session is served, by a thread."""
    with listening(0) as listener:
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(application(session, port), log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        wait_until(lambda: server.started, 30, "the server did not start")
        yield f"http://127.0.0.1:{port}/"
        server.should_exit = True
        thread.join(timeout=10)


@pytest.fixture
def play(page: Page, address: str) -> Iterator[Page]:
    """The page with its first reply; it must end without an error, and have asked its own server only."""
    page.goto(address)
    page.wait_for(READY)
    yield page
    assert page.errors == []
    assert page.requests and all(request.startswith(address) for request in page.requests)


def test_it_begins_with_a_prompt_of_the_task_and_what_is_typed_is_answered_as_the_session_answers(play, session):
    assert play.evaluate("document.querySelector('.ct textarea').value") == "<ab"
    assert play.evaluate("document.querySelectorAll('.ct-row.answer').length") == 4
    write(play, "f(<q")
    reply = session.run("f(<q", "closing", answers=[62, 125])
    assert bars(play, 0) == expected(reply, "model") and bars(play, 1) == expected(reply, "circuit")
    fills = play.evaluate("[...document.querySelectorAll('.cd-node .dot')].map(dot => dot.style.fill)")
    assert len(fills) == 16 and len(set(fills)) > 4


def test_changed_parts_change_the_answer_and_lie_in_the_address(play, session):
    write(play, "f(<q")
    click_node(play, "0.attn_out.7")
    act(play, EDGE, "swap")
    act(play, "0.attn_out.7", "off")
    play.wait_for("document.querySelectorAll('.ct-act.changed').length === 2")
    changes = [PartChange(EDGE, Act.SWAP), PartChange("0.attn_out.7", Act.OFF)]
    reply = session.run("f(<q", "closing", answers=[62, 125], changes=changes, other="{ab")
    assert bars(play, 1) == expected(reply, "circuit")
    assert play.evaluate("location.hash").startswith("#/circuit/tiny/closing/0.attn_out.7?text=f")
    reload(play, 2)
    assert bars(play, 1) == expected(reply, "circuit")


def test_in_the_whole_model_changes_move_its_answer(play, session):
    switch_off_in_the_whole_model(play, NODE)
    reply = session.run("<ab", "closing", [NODE], inside="model", answers=[62, 125])
    assert bars(play, 0) == expected(reply, "model")


def test_a_heads_attention_is_shown_and_what_each_node_does_to_the_answer(play, session):
    click_node(play, "0.attn_k.2")
    play.wait_for("document.querySelectorAll('.ct-choice').length === 3")
    look = session.run("<ab", "closing", head=[0, 0])["look"]
    titles = play.evaluate(
        "[...document.querySelectorAll('.ct-choice')[2].querySelectorAll('.cn-token')].map(e => e.title.split('  ')[1])"
    )
    assert [float(title) for title in titles] == pytest.approx(look, rel=6e-3)
    play.click(".ct-shown > details > summary")
    play.click("[data-focus=weigh]")
    play.wait_for("document.querySelectorAll('.ct-node .num').length === 32")


def test_only_the_last_of_what_is_typed_fast_is_shown(play, session):
    play.evaluate("document.querySelector('.ct textarea').select()")
    for text in "f(<q":
        play.type(text)
        play.evaluate("new Promise(done => setTimeout(done, 70))")
    play.wait_for("document.querySelectorAll('.ct-tokens')[0].children.length === 5")
    assert bars(play, 0) == expected(session.run("f(<q", answers=[62, 125]), "model")


def test_the_model_alone_has_a_page_with_its_answer_and_nothing_of_a_circuit(play, session):
    play.click(".shown nav a[href='#/model/tiny']")
    play.wait_for("document.querySelector('article.shown').id === '/model/tiny'")
    play.wait_for("document.querySelectorAll('.shown .ct-row').length >= 8")
    write_alone(play, "f(<q")
    assert bars(play, 0) == expected(session.run("f(<q"), "model")
    assert play.evaluate("document.querySelectorAll('.shown .ct-choice').length") == 1
    assert play.evaluate("location.hash").startswith("#/model/tiny?text=f")
    assert play.evaluate("document.querySelectorAll('.shown .ct-act, .shown .cd, .shown .ct-other').length") == 0
    play.click(".shown nav a[href='#/circuit/tiny/closing']")
    play.wait_for(f"document.querySelector('article.shown').id === '/circuit/tiny/closing' && {READY}")


def write_alone(page: Page, text: str) -> None:
    page.click(".shown .ct textarea")
    page.evaluate("document.querySelector('.shown .ct textarea').select()")
    page.type(text)
    page.wait_for(f"document.querySelector('.shown .ct-tokens').children.length === {len(text) + 1}")


def test_an_empty_text_and_one_too_long_are_said_plainly(play):
    play.evaluate("document.querySelector('.ct textarea').select()")
    play.key("Backspace")
    play.wait_for("document.querySelector('.ct [role=status]').textContent.includes('the text is empty')")
    play.type("x" * 40)
    play.wait_for("document.querySelector('.ct [role=status]').textContent.includes('the first 9 tokens are left out')")


def test_a_phone_needs_no_scrolling_sideways(play):
    for width in (360, 390, 768):
        play.viewport(width, 844, mobile=width < 600)
        assert play.evaluate("document.documentElement.scrollWidth") <= width
