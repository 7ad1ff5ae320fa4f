"""The report in a real browser: it opens, shows what is pointed at and clicked, and asks the network for nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.artifacts import Workspace
from pipeline.config import Params
from pipeline.model.transformer import Transformer
from pipeline.report.packed import unpack
from pipeline.report.page import build_circuit_page
from pipeline.report.write import write_report
from tests.browser.chromium import Page, wait_until
from tests.report.conftest import TEXTS, FakeTasks, write_model

TASKS = {"quotes": (0.05, 0.4), "lists": (0.1, 0.6), "for_while": (0.6, None), "with_as": (None, None)}
SHOWN = "document.querySelector('article.page.shown')?.id"
FRONTIER = "[data-chart=frontier][data-drawn]"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Transformer], params: Params) -> Path:
    """results/index.html of an invented study of one dense and two sparse models."""
    folder = tmp_path_factory.mktemp("study")
    invented = (("dense_a", "dense", 3.0, 0), ("sparse_a", "sparse", 3.2, 1), ("sparse_b", "sparse", 3.4, 2))
    models = {
        name: write_model(folder, tiny_model(seed=seed), name, kind, loss, TASKS) for name, kind, loss, seed in invented
    }
    write_report(
        Workspace(folder),
        models,
        task_set=FakeTasks(),
        texts=TEXTS,
        tokenizer=None,
        statistics={"bigram_loss_nats": 3.75},
        params=params,
        margin=0.03,
        provenance={"git": None},
        folder=folder / "results",
    )
    return folder / "results" / "index.html"


@pytest.fixture
def study(page: Page, report: Path) -> Page:
    """The study's page, open at its beginning."""
    page.goto(report)
    page.wait_for(f"{SHOWN} === '/'")
    return page


def mark(page: Page, name: str) -> tuple[float, float]:
    """Where a model's mark is in the frontier, in CSS pixels of the viewport."""
    page.centre("[data-chart=frontier]")
    page.wait_for(f"document.querySelector('{FRONTIER} path[aria-label={name}]')", 90)
    return page.centre(f"{FRONTIER} path[aria-label={name}]")


def see_everything(page: Page) -> None:
    """Unfolds what is folded, and scrolls through the page until all its charts are drawn."""
    page.evaluate("document.querySelectorAll('.shown details').forEach(fold => { fold.open = true; })")
    for name in page.evaluate("[...document.querySelectorAll('.shown [data-chart]')].map(e => e.dataset.chart)"):
        page.centre(f".shown [data-chart={name}]")
        page.wait_for(f"document.querySelector('.shown [data-chart={name}] svg')", 90)


def test_the_page_makes_no_error_and_asks_the_network_for_nothing(study: Page, report: Path) -> None:
    see_everything(study)
    for route in ("#/model/sparse_a", "#/circuit/sparse_a/quotes", "#/circuit/dense_a/for_while", "#/circuit/no/such"):
        study.goto(f"{report.as_uri()}{route}")
        study.wait_for(SHOWN)
    assert study.errors == [] and study.requests == []


def test_the_browser_itself_refuses_what_a_page_would_fetch(study: Page) -> None:
    refused = study.evaluate("fetch('http://127.0.0.1:4200/').then(() => 'fetched', error => error.name)")
    assert refused == "TypeError" and study.requests == []


def test_pointing_at_a_model_shows_its_configuration_and_a_click_opens_it(study: Page) -> None:
    place = mark(study, "sparse_a")
    study.mouse("mouseMoved", *place)
    study.wait_for(
        "[...document.querySelectorAll('.model-card:not([hidden])')].map(e => e.dataset.model) == 'sparse_a'"
    )
    study.click_at(*place)
    study.wait_for(f"{SHOWN} === '/model/sparse_a'")
    assert study.evaluate("document.title").startswith("sparse_a")
    study.evaluate("history.back()")
    study.wait_for(f"{SHOWN} === '/'")


def test_a_circuit_is_drawn_on_its_page_and_goes_when_it_is_left(study: Page, report: Path) -> None:
    study.goto(f"{report.as_uri()}#/circuit/sparse_a/quotes")
    study.wait_for("document.querySelector('.shown [data-mounted] svg')")
    study.goto(f"{report.as_uri()}#/")
    study.wait_for(f"{SHOWN} === '/' && !document.querySelector('[data-mounted]')")
    assert study.errors == []


def test_a_page_of_one_circuit_stands_alone(page: Page, report: Path, tmp_path: Path) -> None:
    text = report.read_text(encoding="utf-8")
    packed = re.search(r'id="bundle-sparse_a-quotes">(.*?)</script>', text, re.S)
    assert packed
    alone = tmp_path / "alone.html"
    alone.write_text(build_circuit_page(json.loads(unpack(packed[1])), title="quotes in sparse_a"), encoding="utf-8")
    page.goto(alone)
    page.wait_for("document.querySelector('.shown [data-mounted] svg')")
    assert page.evaluate("document.title") == "quotes in sparse_a"
    assert page.errors == [] and page.requests == []


def test_boxes_choose_the_kinds_of_model_in_the_frontier(study: Page) -> None:
    mark(study, "dense_a")
    names = f"[...document.querySelectorAll('{FRONTIER} text')].map(t => t.textContent).filter(t => t.includes('_'))"
    assert sorted(study.evaluate(names)) == ["dense_a", "sparse_a", "sparse_b"]
    study.click("input[data-kind=sparse]")
    study.wait_for(f"{names} == 'dense_a'")


def unfold_matrix(study: Page) -> None:
    study.click("details:has(> #matrix) > summary")
    study.wait_for("document.querySelector('details:has(> #matrix)').open")


def test_a_cell_of_the_matrix_opens_its_circuit_and_back_returns_to_the_place(study: Page) -> None:
    unfold_matrix(study)
    study.click("#matrix-table a[href='#/circuit/sparse_a/lists']")
    study.wait_for(f"{SHOWN} === '/circuit/sparse_a/lists'")
    assert study.evaluate("document.querySelector('.shown h1').textContent").startswith("lists")
    assert study.evaluate("scrollY") == 0
    study.evaluate("history.back()")
    study.wait_for(f"{SHOWN} === '/' && scrollY > 0")


def test_arrows_go_through_the_matrix_and_enter_opens_a_circuit(study: Page) -> None:
    unfold_matrix(study)
    study.evaluate("document.querySelector('#matrix-table a.cell').focus()")
    for key in ("ArrowRight", "ArrowDown", "ArrowUp", "ArrowDown"):
        study.key(key)
    focused = study.evaluate("document.activeElement.getAttribute('href')")
    assert focused == "#/circuit/sparse_a/lists"
    assert study.evaluate("document.querySelectorAll('#matrix-table a.cell[tabindex=\"0\"]').length") == 1
    study.key("Enter")
    study.wait_for(f"{SHOWN} === '/circuit/sparse_a/lists'")
    assert study.evaluate("document.activeElement.tagName") == "H1"


@pytest.mark.parametrize("route", ["#/", "#/model/sparse_a", "#/circuit/sparse_a/quotes"])
def test_no_page_is_wider_than_a_phone(page: Page, report: Path, route: str) -> None:
    page.viewport(390, 844, mobile=True)
    page.goto(f"{report.as_uri()}{route}")
    page.wait_for(SHOWN)
    see_everything(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390


FOLDED = "document.querySelectorAll('.shown details:not([open])').length"


def test_the_study_leads_with_circuits_then_the_frontier_and_folds_the_rest_below_three_screens(study: Page) -> None:
    study.viewport(1280, 800)
    mark(study, "sparse_a")
    seen = "[...document.querySelectorAll('.shown section')].filter(e => e.checkVisibility()).map(e => e.id)"
    assert study.evaluate(seen) == ["circuits", "frontier"]
    assert study.evaluate("document.querySelectorAll('.shown details[open]').length") == 0
    assert study.evaluate("document.querySelectorAll('.gallery > li').length") == 2
    study.evaluate(
        "(list => { while (list.children.length < 20) list.append(list.children[0].cloneNode(true)); })"
        "(document.querySelector('.gallery'))"
    )  # as many as the study has tasks
    fold = "document.querySelector('.shown details.fold').getBoundingClientRect().top + scrollY"
    assert 1200 < study.evaluate(fold) < 3 * 800


def test_a_click_anywhere_on_a_card_opens_its_circuit(study: Page) -> None:
    study.click(".gallery > li:nth-child(2) .thumb")
    study.wait_for(f"{SHOWN}?.endsWith('/lists')")
    study.wait_for("document.querySelector('.shown [data-mounted] svg')")


def test_the_tab_key_goes_from_the_sections_through_the_cards_in_their_order(study: Page) -> None:
    study.evaluate("document.querySelector('.shown nav a:last-child').focus()")
    reached = []
    for _ in range(2):
        study.key("Tab")
        reached.append(study.evaluate("document.activeElement.getAttribute('href').split('/').pop()"))
    assert reached == ["quotes", "lists"]
    study.key("Enter")
    study.wait_for(f"{SHOWN}?.endsWith('/lists')")


@pytest.mark.parametrize("dark", [False, True])
def test_a_cards_words_and_lines_stand_out_from_its_paper(study: Page, dark: bool) -> None:
    study.dark(dark)
    colours = study.evaluate(
        "['li', 'li h3 a', 'li dd', '.chip.yes', '.chip.no'].map(e => getComputedStyle(document.querySelector("
        "`.gallery ${e}`)).color).concat(['p', 'n', 'dot'].map(e => getComputedStyle(document.querySelector("
        "`.thumb .${e}`)).stroke))"
    )
    paper = study.evaluate("getComputedStyle(document.querySelector('.gallery > li')).backgroundColor")
    assert min(contrast(colour, paper) for colour in colours[:5]) > 4.5
    assert min(contrast(colour, paper) for colour in colours[5:]) > 2


def contrast(one: str, other: str) -> float:
    """The ratio of two colours' luminances, as WCAG counts it."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_on_a_phone_the_gallery_is_a_list(page: Page, report: Path) -> None:
    page.viewport(390, 844, mobile=True)
    page.goto(report)
    page.wait_for(SHOWN)
    lefts = page.evaluate("[...document.querySelectorAll('.gallery > li')].map(e => e.getBoundingClientRect().left)")
    assert len(lefts) == 2 and len(set(lefts)) == 1


def opened(page: Page, section: str) -> bool:
    """Whether a section's text can be read, its heading at the window's top (a short page ends before)."""
    place = f"document.getElementById('{section}').parentElement.getBoundingClientRect().top"
    fold = f"document.getElementById('{section}').checkVisibility()"
    end = "scrollY + innerHeight >= document.documentElement.scrollHeight - 1"
    return bool(page.evaluate(f"{fold} && ({end} || {place} >= 0 && {place} < 100)"))


@pytest.mark.parametrize("section", ["curves", "pruning", "glossary"])
@pytest.mark.parametrize("scripts", [True, False])
def test_a_link_into_a_folded_section_opens_it(page: Page, report: Path, section: str, scripts: bool) -> None:
    page.javascript(scripts)
    page.goto(f"{report.as_uri()}#{section}")
    wait_until(lambda: opened(page, section), 15, "the section stays folded")
    page.goto(f"{report.as_uri()}#refute")
    wait_until(lambda: opened(page, "refute"), 15, "the section stays folded")


def test_a_link_opens_a_fold_again_that_was_closed(study: Page) -> None:
    for _ in range(2):
        study.click(".shown nav a[href='#pruning']")
        wait_until(lambda: opened(study, "pruning"), 15, "the section stays folded")
        study.click("details:has(> #pruning) > summary")
        study.wait_for("!document.getElementById('pruning').checkVisibility()")


def test_on_paper_nothing_is_folded_and_every_chart_is_drawn(study: Page) -> None:
    mark(study, "sparse_a")
    folded = study.evaluate(FOLDED)
    study.evaluate("addEventListener('beforeprint', () => { window.foldedOnPaper = " + FOLDED + "; })")
    study.call("Page.printToPDF")
    assert folded > 7 and study.evaluate("window.foldedOnPaper") == 0
    study.wait_for("!document.querySelector('.shown [data-chart]:not([data-drawn])')")
    assert study.evaluate(FOLDED) == folded  # as it was


def test_everything_can_be_unfolded_at_once(study: Page) -> None:
    study.click("#unfold")
    assert study.evaluate(FOLDED) == 0


def test_charts_follow_the_colour_scheme(study: Page) -> None:
    mark(study, "sparse_a")
    colour = f"getComputedStyle(document.querySelector('{FRONTIER} text')).fill"
    light = study.evaluate(colour)
    study.dark(True)
    study.wait_for(f"document.querySelector('{FRONTIER} text') && {colour} !== '{light}'", 60)


def test_without_scripts_the_tables_still_read(page: Page, report: Path) -> None:
    page.javascript(False)
    page.goto(f"{report.as_uri()}#matrix")
    visible = "document.querySelector('#matrix-table').checkVisibility()"
    assert page.evaluate(visible)
    page.goto(f"{report.as_uri()}#/model/sparse_a")
    page.wait_for("document.getElementById('/model/sparse_a').textContent.includes('needs scripts')")
    assert page.evaluate("document.getElementById('/model/sparse_a').getClientRects().length > 0")
    assert not page.evaluate(visible)


def test_the_page_is_painted_within_a_second(study: Page) -> None:
    painted = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    study.wait_for(painted)
    assert 0 < study.evaluate(painted) < 1000


def test_the_page_is_ready_before_two_seconds_of_work(page: Page, report: Path) -> None:
    """Processor seconds of the page's main thread until it can be read; other programs do not count."""
    page.call("Performance.setTimeDomain", timeDomain="threadTicks")
    page.call("Performance.enable")
    before = busy(page)
    page.goto(report)
    assert 0 < busy(page) - before < 2


def busy(page: Page) -> float:
    return {entry["name"]: entry["value"] for entry in page.call("Performance.getMetrics")["metrics"]}["TaskDuration"]
