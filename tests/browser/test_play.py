"""The page of ``sparse-circuits play`` in a real browser: typing, choosing, switching off; and what it never does."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import uvicorn

from flows.cli_play import listening
from pipeline.play.server import application
from pipeline.play.session import Session
from tests.browser.chromium import Page, wait_until

LAST = "[...document.querySelectorAll('#tokens .tok')].pop()"


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
    page.wait_for("document.querySelectorAll('#model .bar').length && document.querySelectorAll('#nodes li').length")
    yield page
    assert page.errors == []
    assert page.requests and all(request.startswith(address) for request in page.requests)


def write(page: Page, text: str) -> None:
    """Types a text in place of the one there, and waits for the reply to it."""
    page.click("#text")
    page.evaluate("document.getElementById('text').select()")
    page.type(text)
    page.wait_for(f"document.querySelectorAll('#tokens .tok').length === {len(text) + 1}")


def shown(page: Page, selector: str) -> str:
    return page.evaluate(f"document.querySelector({selector!r}).innerText")


def test_it_begins_with_a_prompt_of_the_task_and_marks_its_answers(play):
    assert play.evaluate("document.getElementById('text').value") == "<ab"
    assert play.evaluate("document.querySelectorAll('#model .bar.answer').length") == 2
    assert "✓ >" in shown(play, "#circuit") and "calibrated" in shown(play, "#circuit")
    play.click("[data-pair='0'][data-side='1']")
    play.wait_for("document.getElementById('model').innerText.includes('✓ }')")
    assert play.evaluate("document.getElementById('text').value") == "{ab"


def test_what_is_typed_is_answered_as_the_session_answers(play, session):
    write(play, "f(<q")
    id_, text, p = session.run("f(<q")["model"]["tokens"][0]
    first = "document.querySelector('#model .bar')"
    play.wait_for(f"{first}.querySelector('code').title === {text!r}")
    width = play.evaluate(f"parseFloat({first}.querySelector('.track b').style.width)")
    assert width == pytest.approx(100 * p, rel=1e-3)


def test_a_node_that_is_switched_off_changes_the_circuits_choice_and_back(play, session):
    text, node = "f(<q", "1.mlp_out.7"
    write(play, text)
    before = shown(play, "#circuit")
    play.click(f"[data-switch='{node}']")
    play.wait_for("document.querySelectorAll('#circuit .bar.two-bars').length")
    assert "1 node off in the circuit" in shown(play, "#offline")
    assert play.evaluate("document.querySelectorAll('#model .bar.two-bars').length") == 0
    _, _, _, now = session.run(text, "closing", [node])["circuit"]["tokens"][0]
    width = play.evaluate("parseFloat(document.querySelector('#circuit .bar .track b.now').style.width)")
    assert width == pytest.approx(100 * now, rel=1e-3)
    play.click("#allon")
    play.wait_for("!document.querySelectorAll('#circuit .bar.two-bars').length")
    assert shown(play, "#circuit") == before


def test_switches_act_in_the_whole_model_where_that_is_chosen(play):
    play.click("[data-switch='0.attn_out.7']")
    play.click("input[value=model]")
    play.wait_for("document.querySelectorAll('#model .bar.two-bars').length")
    assert play.evaluate("document.querySelectorAll('#circuit .bar.two-bars').length") == 0
    assert "off in the whole model" in shown(play, "#offline")


def test_a_chosen_node_colours_the_code_and_lists_its_edges_with_switches(play, session):
    write(play, "f(<q")
    play.click("#nodes [data-node='1.mlp_neuron.11']")
    play.wait_for("document.querySelectorAll('#tokens .tok.p, #tokens .tok.n').length === 5")
    values = session.run("f(<q", "closing", node="1.mlp_neuron.11")["series"]["now"]
    assert play.evaluate(f"{LAST}.classList.contains('{'n' if values[-1] < 0 else 'p'}')")
    strength = play.evaluate(f"+{LAST}.style.getPropertyValue('--h')")
    assert strength == pytest.approx(abs(values[-1]) / max(map(abs, values)), rel=1e-3)
    assert play.evaluate("document.querySelectorAll('#edges li').length") == 4
    play.click("[data-switch='1.mlp_in.4->1.mlp_neuron.11']")
    play.wait_for("document.querySelectorAll('#circuit .bar.two-bars').length")
    assert "1 edge off" in shown(play, "#offline")


def test_the_drawing_shows_the_values_and_a_node_chosen_in_it_is_chosen(play, session):
    write(play, "f(<q")
    assert play.evaluate("document.querySelectorAll('#drawing .cd-node').length") == 16
    play.evaluate("document.querySelector('#drawing .cd-node').dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    play.wait_for("document.querySelector('#nodes li.chosen')")
    first = "document.querySelector('#nodes li.chosen [data-node]').dataset.node"
    name = session.describe("closing")["drawing"]
    assert play.evaluate(first) == f"{name['sites'][name['nodes']['site'][0]]}.{name['nodes']['index'][0]}"
    fills = play.evaluate("[...document.querySelectorAll('#drawing .dot')].map(dot => dot.style.fill)")
    assert all("color-mix" in fill or "var(--paper)" in fill for fill in fills) and len(set(fills)) > 4


def test_a_clicked_token_and_arrow_keys_move_the_place_that_is_looked_at(play, session):
    write(play, "f(<q")
    play.click("#tokens .tok[data-at='2']")
    play.wait_for("document.querySelector('.tok[data-at=\"2\"]').getAttribute('aria-selected') === 'true'")
    play.key("ArrowRight")
    play.wait_for("document.querySelector('.tok[data-at=\"3\"]').getAttribute('aria-selected') === 'true'")
    best = session.run("f(<q", at=3)["model"]["tokens"][0][1]
    play.wait_for(f"document.querySelector('#model .bar code').title === {best!r}")
    assert play.evaluate("document.activeElement.dataset.at") == "3"


def test_effects_are_shown_when_they_are_asked_for(play, session):
    write(play, "f(<q")
    play.evaluate(
        "(e => { e.value = 'effect'; e.dispatchEvent(new Event('change', {bubbles: true})); })"
        "(document.getElementById('order'))"
    )
    play.wait_for("document.querySelectorAll('#nodes .effect').length === 16")
    circuit = session.describe("closing")
    effects = session.run("f(<q", "closing", answers=circuit["answers"], effects=True)["effects"]["of"]
    first = max(zip(map(abs, effects), circuit["nodes"], strict=True))[1]
    assert play.evaluate("document.querySelector('#nodes [data-node]').dataset.node") == first


def test_an_empty_text_and_one_too_long_are_said_plainly(play):
    play.click("#text")
    play.evaluate("document.getElementById('text').select()")
    play.key("Backspace")
    play.wait_for("document.getElementById('said').innerText.includes('the text is empty')")
    write_long = "x" * 40
    play.type(write_long)
    play.wait_for("document.getElementById('said').innerText.includes('the first 9 are left out')")


def test_with_no_circuit_only_the_model_is_shown(play):
    play.evaluate(
        "(e => { e.value = ''; e.dispatchEvent(new Event('change', {bubbles: true})); })"
        "(document.getElementById('which'))"
    )
    play.wait_for("document.getElementById('parts').hidden && document.getElementById('circuit').hidden")
    assert play.evaluate("document.querySelectorAll('#model .bar').length") >= 8


def test_a_phone_needs_no_scrolling_sideways(play):
    for width in (360, 390, 768):
        play.viewport(width, 844, mobile=width < 600)
        assert play.evaluate("document.documentElement.scrollWidth") <= width
