"""What lies between two seeds of one architecture, worked out by hand, in the summary and on the frontier."""

from __future__ import annotations

import pytest

from pipeline.report.figures import figures
from pipeline.report.inputs import read_record
from pipeline.report.page import PageParts, build_page
from pipeline.report.seed_spread import seed_spread
from pipeline.report.summary import summarise
from pipeline.rows import Summary
from tests.report.conftest import MakeModel
from tests.report.test_frontier import DENSE, entry, run
from tests.report.test_summary import TARGET, TASKS

FIRST = entry("s", "sparse", 3.2, {"quotes": 20, "lists": 40, "with_as": None})
PAIR = [["s", "again"]]


def test_the_ratio_is_that_of_geometric_means_over_the_tasks_that_both_solve() -> None:
    again = entry("again", "sparse", 3.15, {"quotes": 5, "lists": 40, "with_as": 7})
    (found,) = seed_spread([FIRST, again], PAIR, 0.15)
    assert found["models"] == ["s", "again"] and found["loss_difference"] == pytest.approx(0.05)
    assert found["edges_ratio"] == pytest.approx(dict.fromkeys(("paper_count", "minimised", "deciding"), 2))
    assert found["n_tasks"] == {"paper_count": 2, "minimised": 2, "deciding": 2}


def test_tasks_that_differ_in_opposite_ways_cancel_as_they_do_in_a_mean() -> None:
    again = entry("again", "sparse", 3.2, {"quotes": 40, "lists": 20})
    (found,) = seed_spread([FIRST, again], PAIR, 0.15)
    assert found["edges_ratio"]["minimised"] == pytest.approx(1) and found["loss_difference"] == 0


def test_without_a_shared_task_there_is_no_ratio_and_without_seeds_no_entry() -> None:
    again = entry("again", "sparse", 3.2, {"quotes": None})
    (found,) = seed_spread([FIRST, again], PAIR, 0.15)
    assert set(found["edges_ratio"].values()) == {None} and set(found["n_tasks"].values()) == {0}
    assert seed_spread([FIRST, again], [], 0.15) == []


def test_a_second_seed_counts_as_a_further_model() -> None:
    again = entry("again", "sparse", 3.3, {"quotes": 20, "lists": 40})
    one, two = (run([*DENSE, *models])["paper_count"]["0.15"]["n_pairs"] for models in ([FIRST], [FIRST, again]))
    assert two == 2 * one


@pytest.fixture
def summary(make_model: MakeModel) -> Summary:
    """One dense and two sparse models, which are two seeds of one architecture."""
    losses = {"d": ("dense", 3.0), "s": ("sparse", 3.1), "again": ("sparse", 3.2)}
    records = [read_record(*make_model(name, *at, TASKS, seed=seed)) for seed, (name, at) in enumerate(losses.items())]
    settings = {"curve_losses": [0.15], "seed": 0, "n_bootstrap": 100, "bigram_loss": None}
    made = {"seconds": {"total": 5400.0}}
    return summarise(records, target=TARGET, provenance=made, architectures=PAIR, **settings)


def test_the_frontier_joins_two_seeds_and_says_so(summary: Summary) -> None:
    assert [found["models"] for found in summary["frontier"]["seed_spread"]] == PAIR
    joined = figures(summary, {}, {})["frontier"]
    assert joined.count(">2 seeds<") == 1
    summary["frontier"]["seed_spread"] = []
    assert "seeds<" not in figures(summary, {}, {})["frontier"]


def test_the_page_has_the_spread_and_the_seconds_of_one_go(summary: Summary) -> None:
    nothing = dict.fromkeys(
        (
            "prediction",
            "histories",
            "bundles",
            "thumbnails",
            "gists",
            "engines",
            "explained",
            "examples",
            "decides",
            "statistics",
        ),
        {},
    )
    page = build_page(summary, PageParts(**nothing, predicts=None))
    assert 'data-at="/frontier/seed_spread/0"' in page and "s, again" in page
    assert "was made in one go, in <data" in page and "5,400" in page
    summary["provenance"]["seconds"]["total"] = None
    assert "was not made in one go" in build_page(summary, PageParts(**nothing, predicts=None))
