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
        lambda summary: summary["frontier"].update(ratio_dense_to_sparse_edges_at_matched_loss=16.0),
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
