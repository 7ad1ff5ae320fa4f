"""The whole report from artifacts on disk: complete, self-contained, repeatable, true to its summary."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.artifacts import Workspace, read_json
from pipeline.config import Params
from pipeline.report.packed import AROUND, within_budget
from pipeline.report.page import PageParts, circuits_that_fit
from pipeline.report.templating import code, count, nats
from pipeline.report.write import write_report
from tests.report.conftest import TEXTS, Place
from tests.report.numbers_of import read, unpacked, wrong

TASKS = {"quotes": (0.05, 0.4), "lists": (0.1, 0.6), "for_while": (0.6, None), "with_as": (None, None)}
Write = Callable[..., dict[str, Any]]
Written = tuple[dict[str, Any], str]


@pytest.fixture
def write(params: Params, task_source: Any, tmp_path: Path) -> Write:
    """Writes the report of the given models into ``tmp_path / folder`` and returns the summary."""

    def run(models: dict[str, Place], folder: str = "results") -> dict[str, Any]:
        return write_report(
            Workspace(tmp_path),
            models,
            task_set=task_source,
            texts=TEXTS,
            tokenizer=None,
            statistics={"bigram_loss_nats": 3.75},
            params=params,
            margin=0.03,
            provenance={"git": None, "machine": {"cpu": "a < b", "cores": 2}, "seconds": {"pretrain": 60.5}},
            folder=tmp_path / folder,
        )

    return run


@pytest.fixture
def models(make_model: Callable[..., Place]) -> dict[str, Place]:
    return {
        "dense_a": make_model("dense_a", "dense", 3.0, TASKS),
        "sparse_a": make_model("sparse_a", "sparse", 3.1, TASKS, seed=1),
    }


@pytest.fixture
def written(write: Write, models: dict[str, Place], tmp_path: Path) -> Written:
    """The summary of the report and its page's text."""
    summary = write(models)
    return summary, (tmp_path / "results" / "index.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """What a page refers to, its ids, and tags left open."""

    VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.stack: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag, f"</{tag}> closes another element, line {self.getpos()[0]}"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under ``folder``: relative path → bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def plain(text: str) -> str:
    """The page without the marks that say where numbers come from."""
    return re.sub(r"</?data[^>]*>", "", text)


def shown(task: dict[str, Any]) -> str:
    """What the matrix says of a task."""
    if not task["expressible"]:
        return "not expressible"
    return count(task["n_edges"]) if task["solved"] else f"not solvedloss {nats(task['unpruned_loss'])}"


def test_the_page_needs_nothing_but_itself(write: Write, models: dict[str, Place], tmp_path: Path) -> None:
    write(models)
    text = (tmp_path / "results" / "index.html").read_text(encoding="utf-8")
    page = Page(unpacked(text))
    assert page.stack == []
    assert [reference for reference in page.references if not reference.startswith(("#", "data:"))] == []
    assert not re.search(r"@import|url\((?!#)", text) and "default-src 'none'" in text
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {"http://www.w3.org/2000/svg"}  # a name, not an address
    inner = {reference[1:] for reference in page.references if reference.startswith("#") and reference != "#drawing"}
    assert inner <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_equal_artifacts_give_equal_bytes(write: Write, models: dict[str, Place], tmp_path: Path) -> None:
    write(models, "one")
    write(models, "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_every_file_of_the_report_is_there(write: Write, models: dict[str, Place], tmp_path: Path) -> None:
    summary = write(models)
    files = set(contents(tmp_path / "results"))
    assert files >= {"summary.json", "metrics.json", "index.html", "frontier.svg", "curves.svg", "training.svg",
                     "frontier.csv", "curves.csv", "necessity.svg", "prediction.svg"}  # fmt: skip
    drawn = {name for name in files if name.startswith("circuits/")}
    assert {Path(name).stem for name in drawn} == {"quotes", "lists"}  # the smallest circuit of each solved task
    assert read_json(tmp_path / "results" / "summary.json") == summary


def test_every_number_of_the_page_is_the_summarys(write: Write, models: dict[str, Place], tmp_path: Path) -> None:
    summary = write(models)
    page = read((tmp_path / "results" / "index.html").read_text(encoding="utf-8"))
    assert wrong(summary, page.shown) == []
    assert page.loose == []  # no digits in any table's cell without a path
    paths = {one.path for one in page.shown}
    for model in summary["models"]:
        at = f"/models/{model['name']}"
        assert paths >= {f"{at}/val_loss_nats", f"{at}/geomean_edges"}
        for field in ("n_edges", "circuit_loss", "nodes_only_loss", "ablated_nodes_loss", "random_edges_loss_median"):
            assert f"{at}/tasks/quotes/{field}" in paths
        assert f"{at}/tasks/quotes/validation/complement/tests/sufficient_zero/value" in paths
        assert f"{at}/tasks/quotes/validation/published/parts/copying_head/weight" in paths


@pytest.mark.parametrize(("true", "false"), [('value="3.1">', 'value="3.2">'), (">3.100</data>", ">3.200</data>")])
def test_a_number_that_is_not_the_summarys_is_found(written: Written, true: str, false: str) -> None:
    summary, text = written
    assert true in text
    assert len(wrong(summary, read(text.replace(true, false, 1)).shown)) == 1


def test_a_number_without_a_source_is_found() -> None:
    assert read("<table><tr><td><b>12</b></td><td>none</td></tr></table>").loose == ["12"]


def test_the_matrix_says_of_every_task_what_the_summary_says(written: Written) -> None:
    summary, text = written
    table = text[text.index('id="matrix-table"') : text.index('<section id="curves">')]
    rows = dict(re.findall(r'<tr><th scope="row" id="\w+">(\w+)</th>(.*?)</tr>', table, re.S))
    for task in TASKS:
        for model in summary["models"]:
            assert shown(model["tasks"][task]) in re.sub(r"<.*?>", "", rows[task])
    assert "3.750" in text  # the bigram table's loss


def test_the_page_begins_with_a_card_for_each_task_that_a_sparse_model_solves(written: Written) -> None:
    summary, text = written
    begun = text[text.index('<section id="circuits">') : text.index('<section id="frontier">')]
    cards = re.findall(r"<li data-at.*?</li>", begun, re.S)
    tasks = summary["models"][1]["tasks"]
    assert len(cards) == 2
    for card, task in zip(cards, ("quotes", "lists"), strict=True):
        dense = summary["frontier"]["per_model"][0]["tasks"][task]["dense_edges"]
        assert f'<a href="#/circuit/sparse_a/{task}">' in card and '<svg class="thumb"' in card
        numbers = re.findall(r"<dd.*?</dd>", card)
        read = [re.sub(r"<.*?>", "", number) for number in numbers]
        assert read == [count(tasks[task]["n_edges"]), count(dense), nats(tasks[task]["circuit_loss"])]
        assert card.count('class="chip ') == 6
    assert "for_while</a> not solved (0.600 nats on validation pairs)" in plain(begun)
    assert "with_as</a> not expressible" in begun


def test_the_page_says_what_minimisation_and_the_learned_ranking_gain(written: Written) -> None:
    summary, text = written
    section = plain(text[text.index('<section id="pruning">') : text.index('<section id="necessity">')])
    tables = section.partition("<details>")[0]
    row = r'<tr[^>]*><th scope="row">(?:<a[^>]*>)?([\w ]+)(?:</a>)?</th>(.*?)</tr>'
    rows = {name: re.findall(r"<td[^>]*>(.*?)</td>", cells) for name, cells in re.findall(row, tables, re.S)}
    for model in summary["models"]:
        before, after = count(model["geomean_edges_discretised"]), count(model["geomean_edges"])
        assert rows[model["name"]] == ["2", before, after, "3.00", "2 of 2"]
    assert rows["random"][0] == "4" and rows["random"][3].startswith("10.0") and rows["random"][4:] == ["4 of 4", "0"]
    assert rows["integrated gradients"] == ["0", "–", "–", "–", "–", "4"]
    assert "can go. Minimisation alone makes circuits 3.00 times smaller" in section
    entry = plain(unpacked(text)).partition('id="/circuit/sparse_a/quotes"')[2]
    losses, k_coef = "uncalibrated</th><td>0.330", summary["models"][1]["tasks"]["quotes"]["hyperparameters"]["k_coef"]
    for said in ("calibration scale</dt><dd>1.75", f"Best of 2 trials: k_coef {k_coef:g}", losses):
        assert said in entry


def test_prompts_and_machine_names_are_escaped(write: Write, models: dict[str, Place], tmp_path: Path) -> None:
    write(models)
    text = unpacked((tmp_path / "results" / "index.html").read_text(encoding="utf-8"))
    assert "red &amp; &lt;blue&gt;" in text and "<blue>" not in text and "a &lt; b" in text


def test_a_study_without_solved_tasks_still_has_a_report(
    write: Write, make_model: Callable[..., Place], tmp_path: Path
) -> None:
    unsolved = {"for_while": (0.6, None), "with_as": (None, None)}
    summary = write({"s": make_model("s", "sparse", 3.1, unsolved)})
    assert summary["frontier"]["ratio_dense_to_sparse_edges_at_matched_loss"] is None
    text = (tmp_path / "results" / "index.html").read_text(encoding="utf-8")
    assert "nothing to compare" in text and "no model solves a task" in text
    assert wrong(summary, read(text).shown) == []
    assert read_json(tmp_path / "results" / "metrics.json")["ratio_dense_to_sparse_edges"] is None


def test_models_without_validation_have_no_verdict(write: Write, models: dict[str, Place], tmp_path: Path) -> None:
    Workspace(tmp_path).validations("dense_a").unlink()
    summary = write(models)
    text = (tmp_path / "results" / "index.html").read_text(encoding="utf-8")
    assert [model["tasks"]["quotes"]["verdict"]["by"] for model in summary["models"]] == [None, "validate"]
    assert "None of these circuits was validated." in unpacked(text) and "not validated" in unpacked(text)
    Workspace(tmp_path).validations("sparse_a").unlink()
    write(models, "again")
    svg = (tmp_path / "again" / "necessity.svg").read_text(encoding="utf-8")
    assert "no circuit was validated" in svg


def test_one_dense_model_alone_has_no_ratio(write: Write, make_model: Callable[..., Place]) -> None:
    summary = write({"d": make_model("d", "dense", 3.1, TASKS)})
    assert summary["frontier"]["ratio_dense_to_sparse_edges_at_matched_loss"] is None
    assert summary["frontier"]["pareto"] == {"sparse": [], "dense": ["d"]}


def test_tables_hold_the_summarys_numbers(write: Write, models: dict[str, Place], tmp_path: Path) -> None:
    summary = write(models)
    text = (tmp_path / "results" / "frontier.csv").read_text(encoding="utf-8")
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(text))}
    metrics = read_json(tmp_path / "results" / "metrics.json")
    for model in summary["models"]:
        assert float(rows[model["name"]]["geomean_edges"]) == model["geomean_edges"]
        assert metrics["models"][model["name"]]["n_solved"] == model["n_solved"] == 2
    assert metrics["ratio_discretised_to_minimised_edges"] == pytest.approx(3)
    expected = {"attribution": pytest.approx(2), "integrated_gradients": None, "random": pytest.approx(10)}
    assert metrics["ratio_baseline_to_learned_edges"] == expected
    assert (metrics["n_within_test_margin"], metrics["n_tested"]) == (4, 4)
    assert metrics["n_circuits_of_five_claims"] == {"sparse": 1, "dense": 1}
    curves = list(csv.DictReader(io.StringIO((tmp_path / "results" / "curves.csv").read_text(encoding="utf-8"))))
    assert len(curves) == 2 * 2 * 4  # models, circuits, target losses


def test_plots_carry_no_date_and_follow_the_pages_colour(
    write: Write, models: dict[str, Place], tmp_path: Path
) -> None:
    write(models)
    for name in ("frontier", "curves", "training", "necessity"):
        svg = (tmp_path / "results" / f"{name}.svg").read_text(encoding="utf-8")
        assert "<dc:date>" not in svg and "currentColor" in svg and "#010203" not in svg


def test_the_curves_say_how_many_tasks_a_mean_is_over(write: Write, models: dict[str, Place], tmp_path: Path) -> None:
    summary = write(models)
    svg = (tmp_path / "results" / "curves.svg").read_text(encoding="utf-8")
    reached = [point for point in summary["curve_means"]["points"] if point["tasks"]]
    assert [point["target_loss"] for point in reached] == [0.5, 0.25, 0.15, 0.06]  # what the fixture's circuits reach
    assert svg.count(">2 tasks<") == len(reached) + len(summary["frontier"]["by_target_loss"][:4])
    assert "the same tasks in all models" in svg and "at matched pretraining loss" in svg


def test_a_budget_keeps_the_smallest_drawings() -> None:
    drawings = {("m", "a"): "x" * 50, ("m", "b"): "x" * 10, ("m", "c"): "x" * 30}
    assert set(within_budget(drawings, 45 + 2 * AROUND)) == {("m", "b"), ("m", "c")}


def test_circuits_of_sparse_models_stand_before_those_of_dense_ones_and_each_with_what_they_share() -> None:
    sizes = {("dense", "a"): 10, ("dense", "b"): 90, ("large_dense", "a"): 50, ("sparse", "a"): 80, ("sparse", "b"): 70}
    bundles = {key: "x" * size for key, size in sizes.items()}
    parts = cast(PageParts, SimpleNamespace(bundles=bundles, explained=dict.fromkeys(("dense", "sparse"), "y" * 20)))
    kinds = {"large_dense": "dense", "dense": "dense", "sparse": "sparse"}
    every, whole = 300 + 40 + 7 * AROUND, {"dense", "sparse"}
    assert circuits_that_fit(parts, kinds, every) == (parts.explained, bundles)
    explained, found = circuits_that_fit(parts, kinds, every - 1)
    assert set(explained) == whole and set(bundles) - set(found) == {("dense", "b")}
    explained, found = circuits_that_fit(parts, kinds, 170 + 3 * AROUND)
    assert set(explained) == {"sparse"} and {model for model, _ in found} == {"sparse"}
    assert circuits_that_fit(parts, kinds, 0) == ({}, {})


def test_what_the_page_has_no_room_for_is_named(
    write: Write, models: dict[str, Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(models, "whole")
    whole = (tmp_path / "whole" / "index.html").read_text(encoding="utf-8")
    bundles = re.findall(r'id="bundle-(\w+)-(\w+)">(.*?)</script>', whole, re.S)
    assert len(bundles) == 4 and "Left out" not in whole
    most = len(whole.encode()) - 1
    monkeypatch.setattr("pipeline.report.page.MOST_BYTES", most)
    write(models, "small")
    small = (tmp_path / "small" / "index.html").read_text(encoding="utf-8")
    dense = [bundle for bundle in bundles if bundle[0].startswith("dense")]
    model, task, _ = max(dense, key=lambda bundle: len(bundle[2]))
    assert len(small.encode()) <= most and f'id="bundle-{model}-{task}"' not in small
    assert f'<a href="#/circuit/{model}/{task}">{task} in {model}</a>' in small[small.index("Left out") :]


def test_backticks_become_code_and_everything_else_is_escaped() -> None:
    assert code('`x < ""` & <b>') == "<code>x &lt; &#34;&#34;</code> &amp; &lt;b&gt;"


def test_a_sentence_above_each_table_says_what_to_see_in_it(
    write: Write, models: dict[str, Place], tmp_path: Path
) -> None:
    write(models)
    text = unpacked((tmp_path / "results" / "index.html").read_text(encoding="utf-8"))
    above = re.split(r"</table>|</h[123]>|</summary>", text)
    tables = [part for part in above if "<table" in part]
    assert len(tables) > 20
    assert [part[part.index("<table") :][:99] for part in tables if "<p>" not in part.partition("<table")[0]] == []
