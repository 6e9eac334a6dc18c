"""EASE and the inverse that it needs."""

import numpy as np
import pytest
from helpers import LOG, dense
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab.models.linear import EASE, ease_weights, invert_in_place


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 40), block=st.integers(1, 50))
def test_the_inverse_in_place_is_the_inverse(seed, n, block):
    root = np.random.default_rng(seed).normal(size=(n + 5, n)).astype(np.float32)
    gram = root.T @ root + 2 * np.eye(n, dtype=np.float32)
    upper_is_not_read = np.tril(gram) + np.triu(np.full((n, n), np.float32(np.nan)), 1)
    found = invert_in_place(upper_is_not_read, block)
    np.testing.assert_allclose(found, np.linalg.inv(gram.astype(float)), atol=2e-5)
    assert (found == found.T).all()


def test_ease_is_the_closed_form():
    met = dense(LOG)
    inverse = np.linalg.inv(met.T @ met + 20.0 * np.eye(met.shape[1]))
    wanted = -inverse / np.diag(inverse)
    np.fill_diagonal(wanted, 0)
    np.testing.assert_allclose(ease_weights(LOG.matrix().matrix, 20.0), wanted, atol=1e-5)


def test_ease_refuses_what_does_not_fit_with_the_figure():
    with pytest.raises(ValueError, match=r"ease needs 0\.0 GB for the 25 items of random and may take memory_gb=0"):
        EASE(memory_gb=0.0).fit(LOG)
