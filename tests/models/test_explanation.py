"""Explanations: the terms add up to the score where they are said to, and are what the model says for each model."""

import json

import numpy as np
import pytest
from helpers import SEQUENCES, SHOP_ONLY, make_quick, random_log

from recsys_lab.histories import Histories
from recsys_lab.models.base import model_class
from recsys_lab.models.explanation import WITHOUT


def warm_users(known, n=6, least=4):
    lengths = np.diff(known.histories().indptr)
    return known.users[np.flatnonzero(lengths >= least)[:n]]


def test_every_model_explains_its_own_lists_exactly(fitted, shop_split):
    """The score explained is that of the list, and its terms add up to it, for known users and for their bare histories."""
    known = shop_split.known("test")
    for user in warm_users(known):
        history = fitted.histories([user])
        bare = Histories.from_lists([list(history.items)], event_names=history.event_names)
        for asked in [history] if fitted.name in SHOP_ONLY else [history, bare]:
            listed = fitted.rank(asked, 3, "none").frame()
            for row in listed[listed.score.notna()].itertuples():
                why = fitted.explain(asked, row.item_id)
                assert why.score == pytest.approx(row.score, rel=1e-4, abs=1e-6)
                json.dumps(why.to_dict(), allow_nan=False)
                if fitted.name in SEQUENCES:  # no sums: what the score loses without each item
                    assert why.parts and not why.exact and "is no sum over the history" in why.method
                    continue
                assert why.exact and why.parts, (fitted.name, why.method)
                assert sum(p.value for p in why.parts) == pytest.approx(why.score, rel=1e-3, abs=1e-5), why


def test_terms_by_history_name_items_of_it(fitted, shop_split):
    if fitted.name in SHOP_ONLY:
        pytest.skip("ranks visitors of its own shop only")
    known = shop_split.known("test")
    user = warm_users(known, 1)[0]
    items = fitted.histories([user]).items
    best = fitted.rank(Histories.from_lists([list(items)], event_names=known.event_names), 1, "none").frame().item_id[0]
    why = fitted.explain(list(items), best)
    named = {p.id for p in why.parts if p.kind == "history item"}
    assert named <= set(items)
    assert why.frame()["share"].sum() == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["item_knn", "ease", "rp3beta"])
def test_by_hand(name):
    """The terms of a linear model are the weights between the items of the history and the item."""
    log = random_log(3)
    model = model_class(name)().fit(log)
    weights = model.state.get("similarity", model.state.get("weights"))
    why = model.explain([log.items[1], log.items[2], log.items[1]], log.items[7])
    for part in why.parts:
        row = log.items.get_loc(part.id)
        assert part.value == pytest.approx(float(weights[row, 7]), rel=1e-5)
    assert {p.id for p in why.parts} == {log.items[i] for i in (1, 2) if weights[i, 7]}


def test_the_term_for_repeats_stands_beside_the_others(shop_split):
    known = shop_split.known("test")
    for name in ("item_knn", "ease", "als", "user_knn"):
        model = make_quick(name, repeat_weight=2.0).fit(known)
        for user in warm_users(known, 3):
            history = model.histories([user])
            for row in model.rank(history, 3, "none").frame().itertuples():
                why = model.explain(history, row.item_id)
                assert why.score == pytest.approx(row.score, rel=1e-4)
                assert sum(p.value for p in why.parts) == pytest.approx(why.score, rel=1e-3, abs=1e-5), (name, why)
                assert ("repeat" in {p.kind for p in why.parts}) == (row.item_id in history.items)


def test_a_model_that_is_no_sum_says_so():
    class Product(model_class("popularity")):
        """Twice as good with both halves of a pair: no sum."""

        name = "product_of_test"

        def _score(self, histories):
            size = np.asarray(histories.matrix(len(self.items)).sum(1)).reshape(-1, 1)
            return size**2 * np.ones((1, len(self.items)))

    model = Product().fit(random_log(1))
    why = model.explain([model.items[0], model.items[1]], model.items[4])
    assert not why.exact and why.method == WITHOUT
    assert [p.value for p in why.parts] == [3.0, 3.0]  # 2² with both, 1² without one


def test_what_cannot_be_explained_is_refused(fitted):
    if fitted.name in SHOP_ONLY:
        with pytest.raises(ValueError, match="visitors of its own shop only"):
            fitted.explain([fitted.items[0]], fitted.items[1])
        return
    with pytest.raises(KeyError, match="does not know the item"):
        fitted.explain([fitted.items[0]], 10**9)
    with pytest.raises(ValueError, match="the history of one visitor, not 2"):
        fitted.explain(Histories.from_lists([[1], [2]]), fitted.items[0])
    with pytest.raises(ValueError, match="is not fitted"):
        make_quick(fitted.name).explain([1], 2)
    cold = fitted.explain([], fitted.items[0])
    assert [p.kind for p in cold.parts] in (["popularity"], []) and cold.exact


def test_two_stages_name_the_sources_and_features(fits_of, shop_split):
    known = shop_split.known("test")
    model = make_quick("hybrid").fit(known)
    user = warm_users(known, 1)[0]
    history = model.histories([user])
    best = model.rank(history, 1, "none").frame().item_id[0]
    why = model.explain(history, best)
    trees = why.below["ranker"]
    assert "proposed by" in trees.method and {p.kind for p in trees.parts} == {"feature", "constant"}
    names = set(model.first.names) | {"mean of the trees"}
    assert {p.id for p in trees.parts} <= names
    unseen = next(
        i for i in model.items if np.isnan(model.explain(history, i).score) or not model.explain(history, i).parts
    )
    assert "no source proposed the item" in model.explain(history, unseen).method
