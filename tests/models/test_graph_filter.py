"""Spectral filters of the graph of users and items."""

import numpy as np
import pytest
from scipy import sparse

from recsys_lab.models.graph_filter import converged_basis, degree_powers


@pytest.mark.parametrize("seed", range(4))
def test_singular_vectors_are_those_of_a_dense_decomposition(seed):
    """Of graphs in several parts, whose first value comes once for each part: every leading vector lies in what is found."""
    rng = np.random.default_rng(seed)
    parts = [sparse.random(n, m, 0.2, "csr", random_state=rng) for n, m in ((120, 60), (80, 90), (30, 20), (5, 4))]
    matrix = sparse.block_diag(parts).tocsr()
    matrix.data[:] = 1
    of_user, of_item = (np.asarray(matrix.sum(a)).ravel() for a in (1, 0))
    scaled = (
        matrix.multiply(degree_powers(of_user, 0.5)[:, None])
        .multiply(degree_powers(of_item, 0.5))
        .tocsr()
        .astype(float)
    )
    _, values, vectors = np.linalg.svd(scaled.toarray())
    for factors in (4, 20, 60):
        found = converged_basis(scaled, factors, seed=seed)
        assert np.abs(found.T @ found - np.eye(factors)).max() < 1e-8
        clear = values[:factors] ** 2 > values[factors] ** 2 + 0.02  # what lies at the edge may be either
        outside = vectors[:factors][clear] - (vectors[:factors][clear] @ found) @ found.T
        assert np.linalg.norm(outside, axis=1).max(initial=0) < 0.1
        assert np.sort(np.linalg.norm(scaled @ found, axis=0))[::-1] == pytest.approx(values[:factors], abs=0.002)
