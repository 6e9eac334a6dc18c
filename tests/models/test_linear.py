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


def test_what_does_not_fit_the_memory_is_refused_with_the_figure_and_a_part_that_fits(monkeypatch):
    monkeypatch.setenv("RECSYS_LAB_MEMORY_GB", "0.0005")
    with pytest.raises(
        ValueError, match=r"ease needs about 0\.0 GB .* the 25 items .* of random.*items=\d+"
    ) as refused:
        EASE().fit(LOG)
    items = int(str(refused.value).rpartition("items=")[2])
    part = EASE(items=items).fit(LOG)
    assert len(part.items) == items < 25
    assert set(part.rank(LOG.histories(), 5).frame()["item_id"]) <= set(part.items)


def test_a_part_of_the_catalogue_holds_the_most_popular_items():
    part, users = EASE(items=10).fit(LOG), LOG.item_users()
    assert users[LOG.items.get_indexer(part.items)].min() >= np.sort(users)[-10]
    alone = EASE().fit(LOG.where(np.isin(LOG.events["item_id"], part.items)))
    np.testing.assert_array_equal(part.state["weights"], alone.state["weights"])
    assert part.fitted_on == LOG.fingerprint and (part.popular == users[LOG.items.get_indexer(part.items)]).all()
