"""A function of a graph's spectrum, against the decomposition of a dense matrix."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from recsys_lab.datasets import Dataset
from recsys_lab.histories import Histories
from recsys_lab.models.graph_filter import smooth_basis, transition_matrices
from recsys_lab.models.spectral import SpectralFilter, chebyshev_filter, corrections, leading_values, plateau


def graph(seed: int) -> sparse.csr_matrix:
    """Users who met one item or more of two unconnected groups, and each item met by someone."""
    rng = np.random.default_rng(seed)
    parts = [(rng.random(shape) < 0.3) | np.eye(*shape, dtype=bool) for shape in ((50, 18), (30, 9))]
    return sparse.block_diag([sparse.csr_matrix(p.astype(np.float32)) for p in parts]).tocsr()


def dense(matrix: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Degrees of the items, and the eigenvalues and eigenvectors of one step, the greatest first."""
    met = matrix.toarray().astype(float)
    users, items = np.maximum(met.sum(1), 1), met.sum(0)
    scaled = met / np.sqrt(users)[:, None] / np.sqrt(items)
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    return items, values[::-1], vectors[:, ::-1]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.floats(0.2, 12))
def test_a_plateau_rises_from_0_to_1_and_is_symmetric_about_a_half(values, flatness):
    values = np.sort(values)
    found = plateau(values, flatness)
    assert (np.diff(found) >= -1e-12).all() and found.min() >= 0 and found.max() <= 1
    np.testing.assert_allclose(plateau(1 - values, flatness), 1 - found, atol=1e-9)
    assert plateau([0.0, 0.5, 1.0], flatness).tolist() == [0, 0.5, 1]


@given(st.floats(0.3, 8), st.floats(0, 1), st.lists(st.floats(0.01, 1), min_size=1, max_size=20))
def test_a_corrected_step_is_the_function_on_the_leading_waves_and_joins_it_below(flatness, weight, values):
    values = np.asarray(values)
    least = values.min()
    slope = plateau(least, flatness) / least
    whole = slope * (corrections(values, flatness, weight) + values)
    np.testing.assert_allclose(whole, plateau(values, flatness) + weight, rtol=1e-9, atol=1e-9)
    assert corrections(np.array([least]), flatness, 0.0) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("flatness", "weight", "exponent"), [(1.0, 0.3, 0.35), (2.0, 0.0, 0.0), (5.0, 0.4, 0.5)])
def test_with_all_waves_the_filter_is_its_function_of_the_spectrum(seed, flatness, weight, exponent):
    matrix = graph(seed)
    items, values, vectors = dense(matrix)
    log = Dataset.from_matrix(matrix)
    asked = Histories.from_lists([[0, 4], [20, 21, 22], [3]])
    model = SpectralFilter(factors=27, flatness=flatness, lowpass_weight=weight, degree_exponent=exponent).fit(log)
    kernel = vectors @ np.diag(plateau(values, flatness) + weight) @ vectors.T
    wanted = asked.matrix(27).toarray() * items**-exponent @ kernel * items**exponent
    found = model.score(asked)
    np.testing.assert_allclose(found / np.abs(found).max(), wanted / np.abs(wanted).max(), atol=2e-4)
    assert (
        not found[0, 18:].any() and not found[1, :18].any()
    )  # nothing crosses from one part of the graph to the other


@pytest.mark.parametrize("factors", [2, 6, 10, 15])
def test_below_the_leading_waves_one_step_is_what_it_is(factors):
    matrix = graph(5)
    _, values, vectors = dense(matrix)
    wanted = np.where(
        np.arange(27) < factors, plateau(values, 2.0), plateau(values[factors - 1], 2.0) / values[factors - 1] * values
    )
    kernel = vectors @ np.diag(wanted) @ vectors.T
    settings = {"flatness": 2.0, "lowpass_weight": 0.0, "degree_exponent": 0.0}
    found = (
        SpectralFilter(factors=factors, **settings)
        .fit(Dataset.from_matrix(matrix))
        .score(Histories.from_lists([[i] for i in range(27)]))
    )
    assert values[factors - 1] - values[factors] > 0.01  # so that it is clear which waves lead
    np.testing.assert_allclose(found / found.max(), kernel / kernel.max(), atol=5e-3)


def test_leading_values_are_those_of_the_dense_matrix():
    matrix = graph(1)
    _, values, _ = dense(matrix)
    found = leading_values(matrix, smooth_basis(matrix, 0.5, 0.5, 27))
    np.testing.assert_allclose(np.sort(found)[::-1], values, atol=1e-5)


@pytest.mark.parametrize("order", [1, 3, 8])
def test_an_interpolation_is_exact_for_polynomials_of_its_order(order):
    """Flatness 1 and 3 are polynomials of degree 1 and 3; the interpolated function is what is applied for every other."""
    matrix = graph(2)
    _, values, vectors = dense(matrix)
    steps = transition_matrices(matrix, 1.0, 0.5, 0.5)
    for flatness in (1.0, 3.0, 7.5):
        curve = np.polynomial.chebyshev.Chebyshev.interpolate(lambda x, f=flatness: plateau((1 - x) / 2, f), order)
        applied = vectors @ np.diag(curve(1 - 2 * values)) @ vectors.T
        np.testing.assert_allclose(chebyshev_filter(np.eye(27), *steps, flatness, order), applied, atol=1e-6)
        if flatness <= order and flatness != 7.5:
            np.testing.assert_allclose(curve(1 - 2 * values), plateau(values, flatness), atol=1e-9)


@pytest.mark.parametrize("order", [0, 8])
def test_what_each_item_met_contributes_adds_up_to_the_score(order):
    log = Dataset.from_matrix(graph(3))
    model = SpectralFilter(factors=10, order=order).fit(log)
    history = Histories.from_lists([[1, 5, 20]])
    met, parts = model._contributions(history, np.arange(27))
    assert sorted(met) == [1, 5, 20]
    np.testing.assert_allclose(parts.sum(0), model.score(history)[0], rtol=1e-4, atol=1e-6)


def test_the_leading_values_do_not_depend_on_the_blocks_in_which_they_are_added_up():
    """All users at once took gigabytes on a log of millions of them, whatever the model had been allowed."""
    matrix = graph(4)
    basis = smooth_basis(matrix, 0.5, 0.5, 12)
    whole, blocks = leading_values(matrix, basis), leading_values(matrix, basis, 60)
    assert np.abs(whole - blocks).max() <= 2.0**-20 and whole[0] > 0.9
