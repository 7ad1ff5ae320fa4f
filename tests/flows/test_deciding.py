"""A deciding circuit is as strict as its model allows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from flows.prune import first_met
from pipeline.prune import Pruned, empty_row


def searches(*found: bool) -> tuple[list[Pruned], Iterator[Pruned], list[int]]:
    """Searches that find a circuit or none, and which of them were made."""
    made: list[int] = []
    all_of_them = [Pruned(empty_row(), cast(Any, object()) if one else None, []) for one in found]

    def run() -> Iterator[Pruned]:
        for number, one in enumerate(all_of_them):
            made.append(number)
            yield one

    return all_of_them, run(), made


def test_the_strictest_target_that_is_met_counts_and_no_looser_one_is_searched_for():
    found, run, made = searches(False, True, True)
    assert first_met(run) is found[1] and made == [0, 1]


def test_where_none_is_met_the_last_search_says_so():
    found, run, _ = searches(False, False)
    assert first_met(run) is found[1]
    assert first_met([]) is None
