"""EASE and the inverse that it needs."""

from itertools import pairwise

import numpy as np
import pytest
from helpers import LOG, dense
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab.histories import Histories
from recsys_lab.models.graph_filter import GFCF, GraphFilter
from recsys_lab.models.linear import EASE, ease_weights, invert_in_place
from recsys_lab.models.spectral import SpectralFilter


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
    assert part.part_size == items < 25 and part.items.equals(LOG.items)


@pytest.mark.parametrize("kind", [EASE, GFCF, GraphFilter, SpectralFilter])
def test_a_part_of_the_catalogue_holds_the_most_popular_items(kind):
    part, users = kind(items=10).fit(LOG), LOG.item_users()
    taken = part.state["part"]
    assert len(taken) == 10 and users[taken].min() >= np.sort(users)[-10]
    alone = kind().fit(LOG.where(np.isin(LOG.events["item_id"], LOG.items[taken])))
    assert alone.items.equals(LOG.items[taken]) and (part.part_popular == alone.popular).all()
    for name in ("weights", "basis"):
        if name in alone.state:
            np.testing.assert_array_equal(part.state[name], alone.state[name])
    assert part.fitted_on == LOG.fingerprint and (part.popular == users).all()


@pytest.mark.parametrize("kind", [EASE, GFCF, GraphFilter, SpectralFilter])
@pytest.mark.parametrize("repeat_weight", [0.0, 1.0])
def test_lists_of_a_part_are_those_of_the_part_alone_and_repeat_items_outside_of_it(kind, repeat_weight, tmp_path):
    part = kind(items=10, repeat_weight=repeat_weight).fit(LOG)
    inside = LOG.items[part.state["part"]]
    alone = kind(repeat_weight=repeat_weight).fit(LOG.where(np.isin(LOG.events["item_id"], inside)))
    asked = LOG.histories()
    within = [bool(set(asked.items[a:b]) <= set(inside)) for a, b in pairwise(asked.indptr)]
    both = part.rank(asked, 5, exclude="none").frame(), alone.rank(asked, 5, exclude="none").frame()
    known = set(asked.user_ids[within])
    one, other = (frame[frame["user_id"].isin(known)]["item_id"].tolist() for frame in both)
    assert known and one == other
    outside = np.setdiff1d(LOG.items, inside)[:1]
    someone = Histories.from_lists([[inside[0], outside[0]]])
    listed = part.rank(someone, 3, exclude="none").frame()["item_id"].tolist()
    assert (outside[0] in listed) == bool(repeat_weight)
    allowed = part.rank(someone, 3, exclude="none", items=[inside[3], outside[0]]).frame()["item_id"].tolist()
    assert set(allowed) == {inside[3], outside[0]}
    part.save(tmp_path / "part")
    again = kind.load(tmp_path / "part").rank(asked, 5, exclude="none")
    np.testing.assert_array_equal(again.codes, part.rank(asked, 5, exclude="none").codes)
    assert part.explain(someone, inside[3]).parts
