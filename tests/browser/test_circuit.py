"""The page of a circuit in a real browser: its picture moves, and shows of a node what the bundle says of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.model.transformer import Transformer
from pipeline.report.page import build_circuit_page
from tests.browser.chromium import Page, wait_until
from tests.browser.circuits import NAMES, in_task, invented

SOON = "new Promise(go => requestAnimationFrame(() => requestAnimationFrame(go)))"
TOLD = "document.querySelector('.cd-tip:not([hidden])')?.textContent ?? ''"


@pytest.fixture(scope="module")
def bundle(tiny_model: Callable[..., Transformer]) -> dict[str, Any]:
    return invented(tiny_model(sink=True))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, bundle: dict[str, Any]) -> Path:
    """A folder with the circuit's page, and the same without an explanation."""
    folder = tmp_path_factory.mktemp("circuit")
    (folder / "explained.html").write_text(build_circuit_page(bundle, title="t"), encoding="utf-8")
    bare = bundle | {"explanation": None, "certificate": None}
    (folder / "bare.html").write_text(build_circuit_page(bare, title="t"), encoding="utf-8")
    nodes = [None, *bundle["explanation"]["nodes"][1:]]  # as of a circuit too large to be explained whole
    part = bundle | {"explanation": bundle["explanation"] | {"nodes": nodes}, "certificate": None}
    (folder / "part.html").write_text(build_circuit_page(part, title="t"), encoding="utf-8")
    return folder


@pytest.fixture
def circuit(page: Page, files: Path) -> Iterator[Page]:
    """The circuit's page, open; it must end without an error or a request."""
    page.goto(files / "explained.html")
    page.wait_for("document.querySelector('.cd-node')")
    page.evaluate(SOON)
    yield page
    assert page.errors == [] and page.requests == []


def text(page: Page, selector: str) -> str:
    return page.evaluate(f"document.querySelector({selector!r}).innerText")


def each(page: Page, selector: str, what: str = "e.innerText.trim()") -> list[Any]:
    """An expression's value for every match ``e`` of a selector."""
    return page.evaluate(f"[...document.querySelectorAll({selector!r})].map(e => {what})")


def node(name: str) -> str:
    return f".cd-node[data-name='{name}'] .reach"


def place(page: Page, name: str = NAMES[0]) -> tuple[float, float]:
    """Where a node is within the drawing, in CSS pixels."""
    page.evaluate(SOON)
    dot, host = (
        each(page, selector, "(r => [r.x, r.y])(e.getBoundingClientRect())")[0] for selector in (node(name), ".cd")
    )
    return dot[0] - host[0], dot[1] - host[1]


def scale(page: Page) -> float:
    """How far apart the first and the last node are: in proportion to the zoom."""
    return math.dist(place(page), place(page, NAMES[-1]))


def zoomed(page: Page, wanted: float) -> None:
    """Waits until the picture is zoomed to a ``scale``: wheel events take their own time."""
    wait_until(lambda: scale(page) == pytest.approx(wanted, rel=1e-3), 10, f"scale {scale(page)}, not {wanted}")


def test_every_node_is_drawn_once_and_its_edges_are_on_the_canvas(circuit):
    assert each(circuit, ".cd-node", "e.dataset.name") == NAMES
    assert each(circuit, ".cd-edges", "e.getContext('2d').getImageData(0, 0, e.width, e.height).data.some(x => x)") == [
        True
    ]


def test_without_a_choice_the_panel_lists_the_nodes_most_needed_first(circuit):
    rows = each(circuit, ".cp-nodes tbody tr", "e.innerText.split('\\n')[0]")
    assert sorted(rows) == sorted(NAMES) and rows[0] in ("0.attn_in.5", "0.attn_k.6")
    assert text(circuit, ".cp-nodes thead").strip().split("\t") == ["node", "rise in loss"]
    rises = dict(zip(rows, each(circuit, ".cp-nodes tbody td.num", "e.textContent"), strict=True))
    assert (rises["0.attn_k.6"], rises["0.attn_out.5"]) == ("+0.35", "+0.25")  # 0.6 and 0.5 less the circuit's 0.25
    assert not each(circuit, ".cp-nodes tr.hardly", "e.innerText")  # none is below a tenth of the largest
    circuit.click(".cp-nodes tbody tr:first-child button")
    assert circuit.evaluate("document.querySelector('.cn').dataset.node") == rows[0]


def test_a_click_on_a_node_fills_the_panel_with_what_the_bundle_says(circuit):
    circuit.click(node("0.attn_k.6"))
    panel = text(circuit, ".cp-panel")
    assert "Head 0.1, key channel 2" in panel and "0.attn_k.6" in panel
    in_its_task = in_task("0.attn_k.6")["text"].replace("`", "")
    assert panel.index(in_its_task) < panel.index("high at <0.attn_k.6>") and "0.875" in panel
    losses = [line.split()[-2:] for line in each(circuit, ".cn-effect tbody tr")]
    assert losses == [["0.25", "0.6"], ["0.0625", "0.75"]]
    assert circuit.evaluate("document.querySelector('.cd-node.pinned').dataset.name") == "0.attn_k.6"


def test_the_label_in_the_task_is_first_everywhere_and_a_weak_one_looks_and_says_so(circuit):
    for name in NAMES[:2]:
        label = in_task(name)
        circuit.click(node(name))
        first = text(circuit, ".cn-label")
        assert label["text"].replace("`", "") in first and label["role"] in first
        assert ("weak" in first) == label["weak"]
        assert circuit.evaluate("document.querySelector('.cn-label').matches('.weak')") == label["weak"]
        circuit.click(".cp-close")
    listed = each(circuit, ".cp-nodes .cs-label", "e.innerText")
    assert sorted(line.startswith("weak: ") for line in listed) == sorted(in_task(name)["weak"] for name in NAMES)


def test_values_over_prompts_are_the_circuits_then_the_models_and_blue_above_orange_below(circuit):
    circuit.click(node("0.attn_in.2"))
    first = "e.querySelector('.cn-token').title.split('  ')[1]"
    assert each(circuit, ".cn-prompt", first) == ["1", "−1"]
    colours = each(circuit, ".cn-prompt", "e.querySelector('.cn-token').style.background")
    assert "--positive" in colours[0] and "--negative" in colours[1]
    circuit.click(".cn-prompts [aria-label='Values in'] button:nth-child(2)")
    assert each(circuit, ".cn-prompt", first) == ["1", "1"]
    assert "✓" in text(circuit, ".cn-answer") and "4.5" in text(circuit, ".cn-answer")


def test_code_is_text_and_never_markup(circuit):
    circuit.click(node("0.attn_in.2"))
    assert "<i>g</i>" in text(circuit, ".cn-prompts")
    assert circuit.evaluate("document.querySelectorAll('.cn-code i, .cn-answer b b, .cn-label i').length") == 0


def test_the_histogram_and_the_contexts_are_the_nodes(circuit):
    circuit.click(node("0.attn_in.2"))
    titles = each(circuit, ".cn-histogram rect title", "e.textContent")
    assert [title.split(": ")[1] for title in titles] == ["5 tokens", "0 tokens", "40 tokens"]
    assert text(circuit, ".cn-context .num") == "8.5"
    assert circuit.evaluate("document.querySelector('.cn-token.at').textContent") == " f"
    circuit.click("[aria-label=Contexts] button:nth-child(2)")
    assert text(circuit, ".cn-context .num") == "−4.5"


def test_edges_in_and_out_have_their_weights_and_lead_to_the_other_node(circuit, bundle):
    circuit.click(node("0.attn_v.7"))
    weights = bundle["drawing"]["edges"]["weight"]
    shown = each(circuit, ".cn-edges tbody tr", "[+e.dataset.edge, ...e.innerText.trim().split(/\\s+/)]")
    assert [name for _, name, *_ in shown] == ["0.attn_in.2", "0.attn_out.5"]
    assert [float(weight.replace("−", "-")) for _, _, weight, _ in shown] == [weights[e] for e, *_ in shown]
    circuit.click(f".cn-edges tr[data-edge='{shown[1][0]}'] button")
    assert circuit.evaluate("document.querySelector('.cn').dataset.node") == "0.attn_out.5"


def test_pointing_at_a_node_or_an_edge_names_it(circuit, bundle):
    circuit.hover(node("0.mlp_neuron.9"))
    assert "layer 0, neuron 9" in circuit.evaluate(TOLD)
    assert circuit.evaluate("document.querySelectorAll('.cd-node:not(.faint)').length") == 3  # it, and two neighbours
    middle = "(r => [r.x + r.width / 2, r.y + r.height / 2])(e.getBoundingClientRect())"
    (x, y), (to_x, to_y) = (each(circuit, node(name), middle)[0] for name in ("0.mlp_in.5", "0.mlp_neuron.9"))
    circuit.mouse("mouseMoved", (x + to_x) / 2, (y + to_y) / 2)
    e = bundle["drawing"]["edges"]["source"].index(NAMES.index("0.mlp_in.5"))
    told = circuit.evaluate(TOLD)
    assert "0.mlp_in.5 → 0.mlp_neuron.9" in told
    assert float(told.split()[-1].replace("−", "-")) == bundle["drawing"]["edges"]["weight"][e]


def test_the_picture_is_dragged_by_the_mouse_and_moved_by_arrow_keys(circuit):
    before = place(circuit)
    circuit.drag(".cd", 60, 25)
    dragged = place(circuit)
    assert (dragged[0] - before[0], dragged[1] - before[1]) == pytest.approx((60, 25))
    assert circuit.evaluate("document.querySelector('.cd-node.pinned')") is None
    circuit.evaluate("document.querySelector('.cd').focus()")
    circuit.key("ArrowLeft")
    moved = place(circuit)
    assert (moved[0] - dragged[0], moved[1] - dragged[1]) == pytest.approx((60, 0))


def test_keys_buttons_and_the_wheel_zoom_and_fit_shows_all_again(circuit):
    circuit.click(".cd-buttons button:nth-child(3)")
    whole = scale(circuit)
    circuit.click(".cd-buttons button:nth-child(1)")
    zoomed(circuit, 1.4 * whole)
    circuit.evaluate("document.querySelector('.cd').focus()")
    circuit.key("-")
    zoomed(circuit, 1.4 * 0.8 * whole)
    circuit.wheel(".cd", -200)
    wait_until(lambda: scale(circuit) > 1.3 * whole, 10, "the wheel did not zoom")
    circuit.evaluate("document.querySelector('.cd').focus()")
    circuit.key("0")
    zoomed(circuit, whole)


def test_the_wheel_scrolls_the_page_until_the_drawing_has_the_focus(circuit):
    before = scale(circuit)
    circuit.evaluate("document.activeElement.blur()")
    circuit.wheel(".cd", 200)
    assert scale(circuit) == pytest.approx(before)


def test_two_fingers_zoom(circuit):
    circuit.viewport(390, 844, mobile=True)
    circuit.evaluate(SOON)
    before = scale(circuit)
    x, y = circuit.centre(".cd")
    finger = lambda dx: [{"x": x - dx, "y": y, "id": 0}, {"x": x + dx, "y": y, "id": 1}]  # noqa: E731
    circuit.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=finger(30))
    for dx in (45, 60):
        circuit.call("Input.dispatchTouchEvent", type="touchMove", touchPoints=finger(dx))
    circuit.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    assert scale(circuit) == pytest.approx(2 * before, rel=0.1)


def test_tab_goes_through_the_nodes_in_forward_order_and_enter_chooses(circuit):
    circuit.evaluate("document.querySelector('.cd').focus()")
    focused = []
    for _ in NAMES:
        circuit.key("Tab")
        focused.append(circuit.evaluate("document.activeElement.dataset.name"))
    assert focused == NAMES
    circuit.key("Enter")
    assert circuit.evaluate("document.querySelector('.cn').dataset.node") == NAMES[-1]
    circuit.key("Escape")
    assert circuit.evaluate("document.querySelector('.cd-node.pinned')") is None


def test_attention_cells_are_read_by_pointer_and_by_keys(circuit):
    maps = each(circuit, ".ca-map", "e.querySelectorAll('rect').length")
    assert maps == [6, 6]  # the whole model and the circuit, three causal rows
    circuit.hover(".ca-map rect[data-q='1'][data-k='0']")
    told = text(circuit, ".ca-told")
    assert "␣f (token 1) looks at def (token 0) with 0.5" in told and "the sink takes 0.25" in told
    circuit.evaluate("document.querySelector('.ca-map').focus()")
    circuit.key("ArrowDown")
    assert "(token 2) looks at def (token 0) with 0.25" in text(circuit, ".ca-told")


def test_the_row_that_gives_the_answer_is_outlined_and_no_row_is_cut_off(circuit):
    labels = each(circuit, ".ca-map text.answer", "e.textContent")
    assert len(labels) == 2 and all(label.endswith(" → answer") for label in labels)
    ends = "[e.getBoundingClientRect().top, e.getBoundingClientRect().bottom]"
    for [top, bottom], [above, below] in zip(
        each(circuit, ".ca-map rect[data-q='2'][data-k='0']", ends), each(circuit, ".ca-answer", ends), strict=True
    ):
        assert above < top < bottom < below
    assert (
        each(circuit, ".ca-scroll", "[e.scrollHeight > e.clientHeight, getComputedStyle(e).maxHeight]")
        == [[False, "none"]] * 2
    )


def test_stepping_through_a_pair_goes_from_the_prompts_over_the_rows_to_the_logits(circuit, bundle):
    rows = bundle["drawing"]["rows"]
    circuit.click(".cs-bar button.main")
    assert each(circuit, ".differs", "e.textContent") == [" f", " <i>g</i>"]
    for layer, label, y in rows:
        circuit.click(".cs-bar button.main")
        assert text(circuit, ".cs-name").endswith(f"layer {layer}, {label}")
        lit = each(circuit, ".cd-node.now", "Number(e.dataset.n)")
        assert lit == [n for n, at in enumerate(bundle["drawing"]["nodes"]["y"]) if at == y]
    numbers = each(circuit, ".cs-values tbody .num", "e.innerText")
    assert numbers == ["10", "−10", "20"]  # the last node, at the token where the prompts differ most
    circuit.click(".cs-bar button.main")
    assert "4.5" in text(circuit, ".cs-values") and "−1.5" in text(circuit, ".cs-values")
    assert circuit.evaluate("document.querySelector('.cs-bar button.main').disabled")


def test_without_an_explanation_the_page_says_so_and_draws(page, files):
    page.goto(files / "bare.html")
    page.wait_for("document.querySelector('.cd-node')")
    assert "no explanation" in text(page, ".cp-panel")
    page.click(node("0.attn_v.7"))
    assert "value channel 3" in text(page, ".cp-panel")
    assert page.errors == [] and page.requests == []


def test_a_node_that_is_not_explained_is_drawn_and_described_by_its_edges(page, files):
    page.goto(files / "part.html")
    page.wait_for("document.querySelector('.cd-node')")
    page.click("[data-n='0']")
    assert "Edges" in text(page, ".cp-panel") and "hypothesis" not in text(page, ".cp-panel")
    for _ in range(3):
        page.click(".cs-bar button.main")
    assert page.errors == [] and page.requests == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_the_panel_below_and_nothing_sticks_out(circuit, dark):
    circuit.dark(dark)
    circuit.viewport(390, 844, mobile=True)
    circuit.click(node("0.attn_out.5"))
    assert circuit.evaluate("document.documentElement.scrollWidth") == 390
    sides = each(circuit, ".cp-stage, .cp-panel", "[e.getBoundingClientRect().top, e.getBoundingClientRect().bottom]")
    assert sides[1][0] >= sides[0][1]
