"""Gradients of a backward set: the dense product at its places, the same for any number of threads."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.kernels.backward_set import PART, add_gradients
from pipeline.kernels.sparse import CsrRows, Nonzeros


def random_rows(n, width, density, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator) * (torch.rand(n, width, generator=generator) < density)


def places_in(n_out, n_in, density, seed):
    """Random places of a matrix [out, in], none in some rows, and what has been added up there: nothing."""
    rows = Nonzeros.of(random_rows(n_out, n_in, density, seed)).rows
    return CsrRows(rows.start, rows.column, np.zeros_like(rows.value))


def at_places(matrix, places):
    rows = np.repeat(np.arange(len(places.start) - 1), np.diff(places.start))
    return matrix[rows, places.column]


# Sums of at most a thousand products of numbers of order 1: rounding stays far below 1e-3.
@settings(deadline=None, max_examples=25)
@given(st.integers(1, 2 * PART + 70), st.sampled_from([64, 192]), st.sampled_from([0.01, 0.3]), st.integers(0, 999))
def test_gradients_are_those_of_the_dense_product_for_any_number_of_tokens(n, n_in, density, seed):
    g, x = random_rows(n, 128, 0.25, seed), random_rows(n, n_in, 0.5, seed + 1)
    places = places_in(128, n_in, density, 2)
    for times in (1, 2):
        sums = add_gradients(g, x, places)
        torch.testing.assert_close(sums, g.sum(0), rtol=0, atol=1e-3)
        expected = times * at_places(g.t() @ x, places)
        torch.testing.assert_close(torch.from_numpy(places.value), expected, rtol=0, atol=1e-3)


def test_bfloat16_is_widened_and_summed_in_float32():
    g, x = random_rows(700, 128, 0.25, 0).bfloat16(), random_rows(700, 64, 0.5, 1).bfloat16()
    narrow, wide = places_in(128, 64, 0.1, 2), places_in(128, 64, 0.1, 2)
    add_gradients(g, x, narrow)
    add_gradients(g.float(), x.float(), wide)
    assert np.array_equal(narrow.value, wide.value) and narrow.value.any()


def test_the_number_of_threads_does_not_change_a_bit():
    g, x, results = random_rows(3 * PART + 5, 128, 0.25, 0), random_rows(3 * PART + 5, 64, 1.0, 1), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        places = places_in(128, 64, 0.1, 2)
        add_gradients(g, x, places)
        results.append(places.value)
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])
