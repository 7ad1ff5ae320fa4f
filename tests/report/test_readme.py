"""The README quotes the study: by a command, not by hand."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from flows.readme import PAGES
from pipeline.report.readme import filled

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def summary():
    return json.loads((ROOT / "results" / "summary.json").read_text(encoding="utf-8"))


def page(name: str = "docs/results.md") -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_of_a_page_is_that_of_the_committed_summary(summary, params, name):
    assert filled(page(name), summary, params.prune.most_scale) == page(name)


def test_the_readme_is_one_screen():
    assert len(page("README.md").splitlines()) <= 80


@pytest.mark.parametrize(
    "change",
    [
        lambda summary: summary["frontier"]["paper_count"]["0.15"].update(ratio=99.0),
        lambda summary: summary["validation"]["by_test"][0].update(name="gone") or summary["models"].pop(),
        lambda summary: summary["models"][0]["tasks"]["for_while"].update(circuit_loss=9.0),
    ],
)
def test_another_summary_makes_another_readme(summary, params, change):
    other = copy.deepcopy(summary)
    change(other)
    assert filled(page(), other, params.prune.most_scale) != page()


def test_a_readme_without_blocks_is_refused(summary):
    with pytest.raises(ValueError, match="no block"):
        filled("# nothing", summary, 3.0)


def test_a_summary_with_every_way_to_count_has_its_ratios_in_both_pages(summary, params):
    """The paper's count first; a target that a way has no pairs for is a dash."""
    other = copy.deepcopy(summary)
    for way, ratio in (("paper_count", 12.0), ("minimised", 5.0), ("deciding", 20.0)):
        row = {"ratio": ratio, "interval": [ratio - 1, ratio + 1], "n_pairs": 9, "n_bracketed": 8}
        other["frontier"][way] = {"0.15": row | {"widest": row | {"ratio": 2 * ratio}}}
    other["frontier"]["paper_count"]["0.5"] = other["frontier"]["paper_count"]["0.15"]
    other["validation"]["deciding"] = {"circuits": {"sparse": {"n_circuits": 40, "n_at_least": [40] * 5 + [25, 3]}}}
    readme, results = (filled(page(name), other, params.prune.most_scale) for name in PAGES)
    assert "| 0.15 | 12.0 (11.0 to 13.0) | 5.0 (4.0 to 6.0) | 20.0 (19.0 to 21.0) |" in readme
    assert "| 0.5 | 12.0 (11.0 to 13.0) | – | – |" in readme
    assert "Of 40 such circuits of sparse models 25 support at least five" in readme
    assert (
        "| about 16 | 12.0 (95 % interval 11.0 to 13.0, 9 pairs of model and task); the widest model alone 24.0 |"
        in results
    )
    assert len(readme.splitlines()) <= 80
