"""No task prompt's tail is overlooked, and one that is left stops the stage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.contamination import ContaminationError, TailIndex, check_clean

SHORT = st.text("ab (", min_size=1, max_size=4).filter(str.strip)


@given(tails=st.lists(SHORT, max_size=6), text=st.text("ab (", max_size=30))
def test_a_tail_is_found_exactly_where_plain_search_finds_one(tails: list[str], text: str) -> None:
    found = TailIndex(tails).find(text)
    assert (found is None) == (not any(tail in text for tail in tails))
    assert found is None or (found in tails and found in text)


def test_equal_tails_count_once() -> None:
    assert TailIndex(["for x", "for x", "while x"]).n_tails == 2


def test_an_empty_tail_is_refused() -> None:
    with pytest.raises(ValueError, match="tail_chars"):
        TailIndex(["for x", " \n"])


def test_training_text_with_a_tail_is_refused_with_the_tail_named() -> None:
    index = TailIndex(["    while wagon"])
    assert check_clean(["while wagon:\n"], index) == 0
    with pytest.raises(ContaminationError, match="'    while wagon'"):
        check_clean(["x = 1\n", "def f():\n    while wagon:\n"], index)
