"""AbsTopK's choice of a few live nodes among all of a site, by ranks that are known before, against a whole sort."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.kernels.compact_cpu import FEW, compete, compete_rows
from pipeline.model.abstopk import abs_topk


def drawn(n_rows, width, n_live, levels, seed):
    """A background, live nodes and their values; of ``levels`` different magnitudes, so that many are equal."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: (rng.integers(-levels, levels + 1, shape) / levels).astype(np.float32)  # noqa: E731
    nodes = np.sort(rng.choice(width, n_live, replace=False))
    return draw(n_rows, width), nodes, draw(n_rows, n_live)


def near(background, k):
    """As the docstring of ``compete_rows`` says, by a whole sort."""
    ranked = -np.sort(-np.abs(background), axis=1)
    whole = np.pad(ranked, ((0, 0), (FEW, 2 * FEW)), constant_values=-1)
    whole[:, :FEW] = np.inf
    return np.ascontiguousarray(whole[:, k : k + 2 * FEW])


def chosen(background, nodes, values, k):
    site = background.copy()
    site[:, nodes] = values
    return abs_topk(torch.from_numpy(site), k).numpy()[:, nodes]


@pytest.mark.parametrize("levels", [1, 7, 10**6])
@pytest.mark.parametrize(("width", "k"), [(200, 50), (200, 199), (200, 1), (40, 10), (70, 69)])
@pytest.mark.parametrize("n_live", [1, 2, 9, 33, FEW, 150])
@pytest.mark.parametrize("known", [True, False])
def test_live_nodes_are_kept_as_by_a_sort_of_the_whole_site(levels, width, k, n_live, known):
    for seed in range(3):
        background, nodes, values = drawn(20, width, min(n_live, width), levels, seed)
        expected, found = chosen(background, nodes, values, k), values.copy()
        ranks = near(background, k) if known and len(nodes) <= FEW else np.empty((0, 0), "f4")
        compete_rows(0, 20, found, nodes, background, ranks, k)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("levels", [1, 7, 10**6])
@pytest.mark.parametrize(("width", "k"), [(200, 50), (200, 199), (200, 1), (40, 10)])
@pytest.mark.parametrize("n_live", [1, 2, 9, 33, FEW, 150])
def test_so_are_they_among_constant_competitors(levels, width, k, n_live):
    for seed in range(3):
        background, nodes, values = drawn(20, width, min(n_live, width), levels, seed)
        site = background[0].copy()
        site[nodes] = 0
        others = np.setdiff1d(np.arange(width), nodes)
        order = np.argsort(np.abs(site[others]), kind="stable")
        expected, found = chosen(np.repeat(site[None], 20, 0), nodes, values, k), values.copy()
        compete(0, 20, found, nodes, (np.abs(site[others])[order], others[order], site), k)
        np.testing.assert_array_equal(found, expected)
