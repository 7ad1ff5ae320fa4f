"""Which position of the pair's other prompt each position is aligned with: by hand, and as a slow loop says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.pairs import PairBatch, counterparts

LONGEST = 7
prompts = st.lists(st.integers(0, 2), min_size=1, max_size=LONGEST)


def batch_of(*sides: list[int]) -> PairBatch:
    return PairBatch.of(sides, [[1, 2], [2, 1]] * (len(sides) // 2), pad=0)


def by_loop(own: list[int], other: list[int], width: int) -> list[int]:
    """The definition, position by position."""
    shorter = min(len(own), len(other))
    parting = next(i for i in range(shorter) if own[i] != other[i] or i == shorter - 1)
    found = []
    for pos in range(width):
        from_end = len(other) - 1 - (len(own) - 1 - pos)
        if pos >= len(own):
            found.append(-1)
        elif pos < parting:
            found.append(pos)
        else:
            found.append(from_end if from_end >= parting else -1)
    return found


@pytest.mark.parametrize(
    ("one", "other", "of_one", "of_other"),
    [
        ([5, 6, 7, 8], [5, 6, 9, 8], [0, 1, 2, 3], [0, 1, 2, 3]),  # of one length
        ([5, 6, 7, 8], [5, 6, 1, 2, 7, 8], [0, 1, 4, 5, -1, -1], [0, 1, -1, -1, 2, 3]),  # the other has two more
        ([5, 9], [5, 7, 8], [0, 2, -1], [0, -1, 1]),  # they part at the last token of one
        ([4, 9, 9], [5, 9], [-1, 0, 1], [1, 2, -1]),  # and at the first of both
        ([5, 6], [5, 6, 6], [0, 2, -1], [0, -1, 1]),  # one begins with all of the other: the last ones are aligned
        ([5, 6], [5, 6], [0, 1], [0, 1]),
    ],
)
def test_positions_are_aligned_from_the_start_and_from_the_answer_backwards(one, other, of_one, of_other):
    assert counterparts(batch_of(one, other)).tolist() == [of_one, of_other]


def test_padding_is_aligned_with_nothing_though_it_may_equal_a_token():
    found = counterparts(batch_of([0, 5], [0, 6], [0, 0, 0, 5], [0, 0, 0, 0, 6]))
    assert found.tolist() == [[0, 1, -1, -1, -1], [0, 1, -1, -1, -1], [0, 1, 2, 4, -1], [0, 1, 2, -1, 3]]


@given(st.lists(st.tuples(prompts, prompts), min_size=1, max_size=3))
def test_every_pair_is_aligned_as_by_a_loop(pairs):
    batch = batch_of(*(side for pair in pairs for side in pair))
    width = batch.tokens.shape[1]
    wanted = [by_loop(*sides, width) for one, other in pairs for sides in ((one, other), (other, one))]
    assert counterparts(batch).tolist() == wanted


@given(prompts, prompts)
def test_two_positions_are_aligned_with_each_other_or_not_at_all(one, other):
    found = counterparts(batch_of(one, other))
    for row, positions in enumerate(found.tolist()):
        for pos, there in enumerate(positions):
            assert there == -1 or found[1 - row, there] == pos


@given(prompts, prompts)
def test_the_positions_that_decide_are_aligned(one, other):
    batch = batch_of(one, other)
    assert torch.equal(counterparts(batch)[torch.arange(2), batch.last], batch.last.flip(0))
