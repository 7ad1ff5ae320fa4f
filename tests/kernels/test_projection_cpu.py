"""The projection's shorter ways keep what the long one keeps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.kernels.projection_cpu import keep_few, keep_largest, keep_largest_of


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dead", [0, 5])
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), budget=st.integers(100, 400))
def test_of_the_weights_of_a_set_those_stay_that_stay_of_the_matrix(axis, dead, seed, budget):
    matrix = np.round(np.random.default_rng(seed).standard_normal((24, 32)), 1).astype(np.float32)  # ties
    matrix[np.random.default_rng(seed + 1).random(matrix.shape) < 0.4] = 0
    matrix[:dead] *= 1e-3
    rows, columns = matrix.nonzero()
    few, lines = matrix[rows, columns], (rows, columns)[axis].astype(np.int32)
    keep_largest_of(few.view(np.int32), lines, matrix.shape[axis], budget, 3, 0)
    if np.count_nonzero(matrix) > budget:
        keep_largest(matrix.view(np.int32), budget, 3, axis == 1, 0)
    assert np.array_equal(few, matrix[rows, columns])


def weights(seed, dead):
    """A matrix with few large weights, ties for some seeds, rows and columns that are small and some that are zero."""
    matrix = (np.random.default_rng(seed).standard_normal((64, 128)) ** 3).astype(np.float32)
    matrix = np.round(matrix, 1) if seed % 3 == 0 else matrix
    matrix[:dead] *= 1e-4
    matrix[:, :dead] *= 1e-4
    matrix[: dead // 2 * (seed % 2)] = 0
    return matrix


@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("keep_alive", [0, 1, 4])
@settings(deadline=None, max_examples=60)
@given(st.integers(0, 9999), st.integers(300, 2000), st.integers(0, 20), st.floats(0.9, 1.1))
def test_one_pass_keeps_what_the_search_keeps_or_changes_nothing(by_column, keep_alive, seed, budget, dead, moved):
    expected, one_pass = weights(seed, dead), weights(seed, dead)
    limit = keep_largest(expected.view(np.int32), budget, keep_alive, by_column, 0)
    place = np.empty(6 * budget + 64, np.int64)
    guess = int((np.array([limit], np.int32).view(np.float32) * np.float32(moved)).view(np.int32)[0])
    _, n = keep_few(one_pass.view(np.int32), budget, keep_alive, by_column, guess, place)
    if n < 0:
        assert np.array_equal(one_pass, weights(seed, dead))
        return
    assert np.array_equal(one_pass.view(np.int32), expected.view(np.int32))
    assert set(np.flatnonzero(expected)) <= set(place[:n]) and (np.diff(place[:n]) > 0).all()
    assert n == budget


@pytest.mark.parametrize("keep_alive", [0, 4])
def test_in_training_s_case_one_pass_is_enough(keep_alive):
    matrix = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
    limit = keep_largest(matrix.copy().view(np.int32), 512, keep_alive, False, 0)
    assert keep_few(matrix.view(np.int32), 512, keep_alive, False, limit, np.empty(4 * 512, np.int64))[1] == 512
