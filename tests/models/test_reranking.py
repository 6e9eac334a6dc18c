"""Re-ranked lists: greedy orders by the definition, the base without weight, pools, requests that bound what may be listed."""

import numpy as np
import pytest
from helpers import random_log
from hypothesis import given
from hypothesis import strategies as st

from recsys_lab import metrics
from recsys_lab.models.base import load_model, model_class
from recsys_lab.models.reranking import MIXED, Reranked, calibrated_order, mmr_order


def by_definition(relevance, cost, weight):
    """A greedy order, one candidate at a time; `cost(chosen, candidate)` is what is weighed against relevance."""
    order = []
    while len(order) < len(relevance):
        left = [i for i in range(len(relevance)) if i not in order]
        gains = [(1 - weight) * relevance[i] - weight * cost(order, i) for i in left]
        order.append(left[int(np.argmax(np.round(gains, 8)))])
    return order


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_orders_are_those_of_the_definitions(seed, weight):
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(2, 9)), 3
    relevance = np.sort(np.round(rng.random(n), 3))[::-1]
    category = rng.integers(-1, m, n)
    own = rng.dirichlet(np.ones(m)) * (rng.random(m) < 0.8)
    own = own / own.sum() if own.sum() else own

    def alike(chosen, i):
        return float(any(category[j] == category[i] >= 0 for j in chosen))

    def divergence(chosen, i):
        counts = np.bincount([category[j] for j in [*chosen, i] if category[j] >= 0], minlength=m) / (len(chosen) + 1)
        mixed = (1 - MIXED) * counts + MIXED * own
        return sum(p * np.log(p / q) for p, q in zip(own, mixed, strict=True) if p > 0)

    assert mmr_order(relevance[None], category[None], weight)[0].tolist() == by_definition(relevance, alike, weight)
    slot = np.where(category >= 0, category, m)[None]
    found = calibrated_order(relevance[None], slot, own[None], weight)[0]
    wanted = by_definition(relevance, divergence, weight)
    if found.tolist() != wanted:  # only where two candidates are equally good but for rounding

        def worth(order):
            return sum((1 - weight) * relevance[i] - weight * divergence(order[:t], i) for t, i in enumerate(order))

        assert worth(found.tolist()) == pytest.approx(worth(wanted), abs=1e-6)


@pytest.mark.parametrize("method", ["mmr", "calibrated"])
@pytest.mark.parametrize("base", ["item_knn", "popularity", "session_walk", "als"])
def test_without_weight_a_list_is_the_base_s(base, method, shop_split):
    known = shop_split.known("test")
    one = model_class(base)().fit(known)
    other = Reranked(base=base, method=method, weight=0.0, pool=30).fit(known)
    asked = known.histories().take(slice(0, 80))
    allowed = known.items[::3]
    for exclude in ("none", "seen", "purchased"):
        for items in (None, allowed):
            assert np.array_equal(
                one.rank(asked, 10, exclude, items=items).codes, other.rank(asked, 10, exclude, items=items).codes
            )


def test_what_may_not_be_listed_is_no_candidate(shop_split):
    known = shop_split.known("test")
    model = Reranked(base="item_knn", weight=0.8, pool=12).fit(known)
    asked = known.histories().take(slice(0, 60))
    allowed = known.items[::2]
    lists = model.rank(asked, 10, "seen", items=allowed)
    for row, codes in enumerate(lists.codes):
        seen = asked.items[asked.indptr[row] : asked.indptr[row + 1]]
        assert np.isin(lists.items[codes], allowed).all() and not np.isin(lists.items[codes], seen).any()


def test_calibration_brings_lists_nearer_to_the_visitor(shop_split):
    known = shop_split.known("test")
    asked = known.histories()
    asked = asked.take(np.flatnonzero(np.diff(asked.indptr) >= 5)).encode(known.items)
    category = np.unique(known.item_property("categoryid").reindex(known.items), return_inverse=True)[1]
    shape = (len(asked), category.max() + 1)
    own = metrics.category_shares(asked.rows, category[asked.items], shape)
    whole = known.histories().take(np.flatnonzero(np.diff(known.histories().indptr) >= 5))
    far = []
    for weight in (0.0, 0.5, 0.9):
        codes = Reranked(base="als", weight=weight).fit(known).rank(whole, 10, "none").codes
        rows = np.repeat(np.arange(len(codes)), 10)
        far.append(metrics.miscalibration(own, metrics.category_shares(rows, category[codes].ravel(), shape)).mean())
    assert far[0] > far[1] > far[2]


def test_it_is_saved_with_its_base(tmp_path, shop_split):
    known = shop_split.known("test")
    model = Reranked(base="item_knn", settings={"n_neighbors": 7}, method="mmr").fit(known)
    back = load_model(model.save(tmp_path / "m"))
    asked = known.histories().take(slice(0, 40))
    assert np.array_equal(back.rank(asked, 10, "none").codes, model.rank(asked, 10, "none").codes)
    assert back.parts["base"].config.n_neighbors == 7 and "models.neighbours" in model.modules


def test_a_log_without_categories_is_refused():
    with pytest.raises(ValueError, match=r"reranked needs a category of items .* and random has none"):
        Reranked().fit(random_log(1))
