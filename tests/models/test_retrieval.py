"""Candidates from an index of vectors: the same lists as scoring everything, but for what the index does not find."""

import numpy as np
import pytest

from recsys_lab import topk
from recsys_lab.histories import Histories
from recsys_lab.models import base, retrieval
from recsys_lab.models.als import ALS
from recsys_lab.models.popularity import Popularity
from recsys_lab.numerics import exact_product, to_fixed_point

pytest.importorskip("faiss")


@pytest.fixture
def large(monkeypatch):
    """Every catalogue counts as large."""
    monkeypatch.setattr(retrieval, "EXACT_UP_TO", 10)
    monkeypatch.setattr(topk, "EXACT_UP_TO", 10)


@pytest.fixture(scope="module")
def fitted(shop_split):
    return ALS(factors=16, iterations=5).fit(shop_split.train)


@pytest.mark.parametrize("repeat_weight", [0.0, 1.0])
@pytest.mark.parametrize("exclude", ["none", "seen"])
def test_lists_are_those_of_the_whole_catalogue(fitted, shop_split, exclude, repeat_weight, large, monkeypatch):
    asking = shop_split.known("test").histories()
    model = fitted.with_repeats(repeat_weight)
    model.near = {}
    few = model.rank(asking, 10, exclude)
    monkeypatch.setattr(retrieval, "EXACT_UP_TO", 10**9)
    model.near = {}
    every = model.rank(asking, 10, exclude)
    warm = np.diff(asking.indptr) > 0
    # with repeats a score is relative to the lowest candidate instead of the lowest item, which may swap near neighbours
    assert retrieval.mean_overlap(few.codes[warm], every.codes[warm]) > (0.99 if not repeat_weight else 0.9)
    np.testing.assert_array_equal(few.codes[~warm], every.codes[~warm])


def test_a_list_does_not_depend_on_its_batch(fitted, shop_split, large):
    asking = shop_split.known("test").histories()
    together = fitted.rank(asking, 10, "none")
    for row in (0, 7, 19):
        alone = fitted.rank(asking.take(slice(row, row + 1)), 10, "none")
        np.testing.assert_array_equal(alone.codes[0], together.codes[row])
        np.testing.assert_array_equal(alone.scores[0], together.scores[row])


def test_allowed_items_are_all_scored(fitted, shop_split, large):
    asking = shop_split.known("test").histories().take(slice(0, 20))
    rare = fitted.items[fitted.popularity_order[-15:]]
    listed = fitted.rank(asking, 10, "none", items=rare)
    assert set(listed.frame()["item_id"]) <= set(rare) and (listed.codes >= 0).all()


def test_candidates_have_the_scores_that_they_have(large):
    rng = np.random.default_rng(3)
    vectors = to_fixed_point(rng.normal(size=(2000, 8))).astype(np.float32)
    queries, bias = rng.normal(size=(5, 8)).astype(np.float32), rng.normal(size=2000)
    wide = [np.append(a, b[:, None], axis=1) for a, b in ((vectors, bias), (queries, np.ones(5)))]
    index, facts = retrieval.build_index(*wide)
    asking = Histories.from_lists([[i, i + 1] for i in range(5)])
    got = retrieval.retrieved_scores(index, queries, vectors, bias, asking)
    exact = exact_product(queries, vectors, bias)
    for row in range(5):
        part = got[row]
        gaps = exact[row, part.indices] - part.data
        above = part.data > 0
        assert np.ptp(gaps[above]) < 1e-4  # one constant less for all
        assert {row, row + 1} <= set(part.indices)
    assert facts["recall"] >= retrieval.ENOUGH


def test_popular_lists_with_repeats_are_those_of_all_items(shop_split, large, monkeypatch):
    asking = shop_split.known("test").histories()
    model = Popularity(repeat_weight=0.3).fit(shop_split.train)
    few = model.rank(asking, 20, "none")
    monkeypatch.setattr(topk, "EXACT_UP_TO", 10**9)
    every = model.rank(asking, 20, "none")
    np.testing.assert_array_equal(few.codes, every.codes)


def test_equal_histories_are_scored_once(shop_split, monkeypatch):
    model = ALS(factors=8, iterations=2).fit(shop_split.train)
    one = shop_split.known("test").histories().take(slice(0, 10))
    many = one.take(np.tile(np.arange(10), 50))
    asked = []
    score = base.Scoring.score
    monkeypatch.setattr(base.Scoring, "score", lambda self, h, *a: asked.append(len(h)) or score(self, h, *a))
    lists = model.rank(many, 5, "none")
    assert sum(asked) <= 10
    np.testing.assert_array_equal(lists.codes, np.tile(model.rank(one, 5, "none").codes, (50, 1)))
