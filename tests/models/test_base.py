"""What every recommender must do: the contract (`recsys_lab.testing`) on the shop, and what else holds of the lab's own models."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers import SHOP_ONLY, TWO_STAGE, make_quick, quick, random_log, same_lists
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys_lab import topk
from recsys_lab.datasets import Dataset
from recsys_lab.histories import Histories
from recsys_lab.models.base import MODELS, Recommender, model_class
from recsys_lab.testing import CHECKS, check_recommender

IMPERSONAL = {"popularity", "popularity_recent", "popularity_blend", "revisits"}


FITTED = {  # settings under which a learned model has converged on the checkerboard
    "bpr": {"factors": 8, "learning_rate": 0.1, "epochs": 300},
    "lightfm": {"factors": 8},
    "lightfm_hybrid": {"factors": 8},
    "als": {"factors": 4},
    "ials": {"factors": 4},
    "sasrec": {"epochs": 40, "dropout": 0.0, "batch_size": 64},
    "gru4rec": {"epochs": 40, "dropout": 0.0, "batch_size": 64},
    "simplex": {"factors": 16, "epochs": 60},
    "ease": {"regularization": 1.0},
    "blend": {"members": {"graph_filter": {}, "als": {"factors": 4}}},
}


def checkerboard(n=20, properties=True):
    """Users meet items of their own parity, all but one each: the missing one is the right answer (as in implicit's own suite)."""
    rows = [(u, (u + step) % n) for u in range(n) for step in range(2, n, 2)]  # round the board, so that u comes next
    frame = pd.DataFrame(rows, columns=["user_id", "item_id"]).assign(
        event="view", timestamp=pd.date_range("2024-01-01", periods=len(rows), tz="UTC")
    )
    kinds = pd.DataFrame(
        {
            "item_id": range(n),
            "property": "categoryid",
            "value": [str(i % 2) for i in range(n)],
            "timestamp": pd.Timestamp("2023-01-01", tz="UTC"),
        }
    )
    return Dataset("checkerboard", frame, kinds if properties else None)


def test_checkerboard(name):
    if name in SHOP_ONLY | IMPERSONAL | TWO_STAGE:
        pytest.skip(
            "names nothing new to a visitor, needs a log with windows to learn from, or is of the simulated shop only"
        )
    model = make_quick(name, **FITTED.get(name, {})).fit(checkerboard())
    first = model.recommend(range(20), k=1).frame()
    assert first.item_id.tolist() == list(range(20))  # the one item of their colour that is missing


@pytest.mark.slow
def test_the_contract_holds_on_the_shop(name, shop_split):
    checked = check_recommender(
        model_class(name), shop_split.known("test"), personal=name not in SHOP_ONLY, **quick(name)
    )
    assert checked["passed"].all() and len(checked) == len(CHECKS) >= 17


@pytest.mark.slow
def test_a_batch_is_its_single_rows(fitted, shop_split):
    """Every third user, to the last bit: what else is in a batch, and how it is cut, is nobody's business."""
    users = shop_split.known("test").users[::3]
    whole = fitted.recommend(users, k=7)
    alone = [fitted.recommend([user], k=7) for user in users]
    for parts in (alone, [fitted.recommend(users[start : start + 64], k=7) for start in range(0, len(users), 64)]):
        assert (np.concatenate([p.codes for p in parts]) == whole.codes).all()
        np.testing.assert_array_equal(np.concatenate([p.scores for p in parts]), whole.scores)
    assert same_lists(fitted.recommend(users, k=7, block=4), whole)
    assert same_lists(
        fitted.recommend(users[::-1], k=7), replace(whole, codes=whole.codes[::-1], scores=whole.scores[::-1])
    )


def test_strangers_unknown_items_and_nobody(fitted, shop_split):
    if fitted.name in SHOP_ONLY:
        with pytest.raises(ValueError, match="visitors of its own shop only"):
            fitted.rank(Histories.from_lists([[1]]), k=3)
        return
    item = fitted.items[3]
    top = fitted.rank(Histories.from_lists([[], [10**9], [item], [item, 10**9]]), k=6, exclude="seen")
    cold = np.lexsort((np.arange(len(fitted.items)), -fitted._cold()))
    assert (top.codes[0] == cold[:6]).all() and (top.codes[0] == top.codes[1]).all()
    assert set(top.frame().query("user_id < 2").source) == {"cold"}
    assert (top.codes[2] == top.codes[3]).all() and (fitted.items[top.codes[2]] != item).all()
    assert fitted.rank(Histories.from_lists([]), k=4).codes.shape == (0, 4)
    assert fitted.recommend([-5], k=3).frame().source.unique().tolist() == ["cold"]


def test_wrong_calls_are_refused(name, fitted):
    with pytest.raises(ValueError, match="is not fitted"):
        make_quick(name).recommend([1])
    with pytest.raises(ValueError, match="k must be a whole number of at least 1"):
        fitted.recommend([1], k=0)
    with pytest.raises(ValueError, match="exclude must be one of"):
        fitted.recommend([fitted.known.user_ids[0]], exclude="everything")
    with pytest.raises(KeyError, match="does not know the item"):
        fitted.similar_items([10**9])
    with pytest.raises(ValueError, match="has no setting 'colour'"):
        make_quick(name, colour="red")


def test_one_item_and_empty_logs(name):
    if name in SHOP_ONLY:
        pytest.skip("of the simulated shop only")
    empty = Dataset("empty", random_log(0).events[:0])
    with pytest.raises(ValueError, match="cannot be fitted: empty has no event"):
        make_quick(name).fit(empty)
    events = random_log(0).events[:4].assign(item_id=5)
    kinds = pd.DataFrame(
        {
            "item_id": [5],
            "property": ["categoryid"],
            "value": ["1"],
            "timestamp": [pd.Timestamp("2020-01-01", tz="UTC")],
        }
    )
    single = Dataset("single", events, kinds)
    if make_quick(name).requires_cooccurrence:
        with pytest.raises(ValueError, match="collaborative filtering cannot work on it"):
            make_quick(name).fit(single)
    else:
        assert make_quick(name).fit(single).rank(Histories.from_lists([[]]), k=2).codes.tolist() == [[0, -1]]


def test_datasets_without_categories_are_refused_by_name():
    with pytest.raises(ValueError, match="popularity_category needs a category of items, and random has none"):
        make_quick("popularity_category").fit(random_log(0))


@pytest.mark.parametrize("name", ["popularity", "item_knn", "ease"])
def test_repeats_are_scored_wherever_a_list_may_hold_them(name):
    """The term for repeats moves the visitor's own items up; also where purchases alone are left out; the order of new items stays."""
    log = random_log(5)
    model = model_class(name)().fit(log)
    strong = model.with_repeats(1e6)
    viewed = log.histories().encode(model.items)
    for exclude in ("none", "purchased"):
        lists = strong.rank(log.histories(), 5, exclude).codes
        out = viewed.keep(topk.excluded_entries(viewed, exclude))
        for row in range(len(viewed)):
            own = set(viewed.items[viewed.indptr[row] : viewed.indptr[row + 1]].tolist())
            left = own - set(out.items[out.indptr[row] : out.indptr[row + 1]].tolist())
            assert set(lists[row, : len(left)].tolist()) <= left  # the first places are theirs
    same = (strong.rank(log.histories(), 5, "seen").codes == model.rank(log.histories(), 5, "seen").codes).all()
    assert same


def test_only_what_is_allowed_is_listed(fitted, shop_split):
    """A list of some items is the whole ranking without the others; a two-stage or re-ranked model has another short list."""
    if fitted.name in SHOP_ONLY:
        pytest.skip("ranks for visitors of its own shop only, and has an opinion on few items")
    stocked = fitted.items[1::3]
    asked = Histories.from_lists([[], list(fitted.items[:2]), list(fitted.items[5:9]), [10**9]])
    for exclude in ("none", "seen"):
        few = fitted.rank(asked, 8, exclude, items=[*stocked, 10**9])
        listed = few.frame()
        assert listed.item_id.isin(stocked).all() and (few.codes >= 0).all()
        if fitted.name in {*TWO_STAGE, "reranked"}:  # whose candidates are those that may be listed
            continue
        whole = fitted.rank(asked, len(fitted.items), exclude)
        for row in range(len(asked)):
            kept = whole.codes[row][np.isin(whole.codes[row], np.arange(1, len(fitted.items), 3))][:8]
            assert few.codes[row].tolist() == kept.tolist()
    with pytest.raises(ValueError, match="knows none of the 1 items that may be recommended"):
        fitted.recommend(fitted.users[:1], items=[10**9])


def test_what_is_filled_up_is_in_order_of_popularity(fitted):
    if fitted.name in SHOP_ONLY | IMPERSONAL:
        pytest.skip("fills nothing up, or is not personal")
    listed = fitted.rank(Histories.from_lists([[item] for item in fitted.items[:30]]), len(fitted.items), "none")
    users = fitted.popular
    for codes, sources in zip(listed.codes, listed.sources, strict=True):
        filled = codes[(codes >= 0) & (sources == topk.SOURCES.index("popular"))]
        assert (np.diff(users[filled]) <= 0).all()
        ties = np.flatnonzero(np.diff(users[filled]) == 0)
        assert (np.diff(filled)[ties] > 0).all()


def test_where_nothing_is_said_lists_leave_out_what_the_model_was_made_for(fitted, shop_split):
    usual = fitted.config.exclude if fitted.name in TWO_STAGE else "seen"
    users = shop_split.known("test").users[:30]
    assert fitted.default_exclude == usual
    assert same_lists(fitted.recommend(users, k=6), fitted.recommend(users, k=6, exclude=usual))


def test_a_class_without_a_method_or_a_name_is_no_model():
    class Half(Recommender):
        name = "half"

        def _fit(self, dataset):
            return {}

    with pytest.raises(TypeError, match="abstract"):
        Half()

    class Nameless(Half):
        name = ""

        def _score(self, histories):
            return np.zeros(len(self.items))

    with pytest.raises(TypeError, match="Nameless needs a name"):
        Nameless()


UPDATED = [name for name in MODELS.own() if model_class(name)._update is not Recommender._update]


def same_states(a, b):
    """Whether two fitted models hold the same, to the bit."""
    for name in a.state.keys() | b.state.keys():
        one, two = a.state[name], b.state[name]
        if sparse.issparse(one):
            assert one.shape == two.shape and (one != two).nnz == 0 and one.dtype == two.dtype
            assert (
                (one.indptr == two.indptr).all() and (one.indices == two.indices).all() and (one.data == two.data).all()
            )
        else:
            assert np.asarray(one).dtype == np.asarray(two).dtype and np.array_equal(one, two)
    assert (a.fitted_on, a.items.equals(b.items), a.users.equals(b.users)) == (b.fitted_on, True, True)
    assert (a.popular == b.popular).all() and (a.popularity_order == b.popularity_order).all()
    return True


def test_some_models_are_updated():
    assert {"popularity", "item_knn"} <= set(UPDATED)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("which", [*UPDATED, "popularity_recent", "als"])
@given(st.integers(0, 10_000), st.floats(0.3, 1.0), st.booleans(), st.integers(1, 3))
@settings(max_examples=12, deadline=None)
def test_an_update_is_a_fit_to_the_bit(which, text, seed, share, late, steps):
    """A log that grows in steps, by its newest events or by any (late ones), with new visitors and items."""
    whole = random_log(seed, n=300, users=50, items=40, text=text)
    rng = np.random.default_rng(seed)
    order = rng.random(len(whole)) if late else np.arange(len(whole)) / len(whole)
    words = {"item_knn": {"n_neighbors": 5}, "als": {"factors": 4, "iterations": 2}}.get(which, {})
    model = model_class(which)(**words).fit(whole.where(order < share * 0.5))
    for step in range(1, steps + 1):
        log = whole.where(order < share * (0.5 + 0.5 * step / steps))
        model.update(log)
        assert same_states(model, model_class(which)(**words).fit(log))


@pytest.mark.parametrize("which", UPDATED)
def test_a_log_that_shrank_or_is_another_is_fitted_anew(which):
    one, other = random_log(1), random_log(2, items=30)
    for log in (one.where(np.arange(len(one)) < 200), other):
        assert same_states(model_class(which)().fit(one).update(log), model_class(which)().fit(log))
    assert same_states(model_class(which)().update(one), model_class(which)().fit(one))


def test_an_update_reads_only_what_has_changed(monkeypatch):
    """Of item KNN the rows of items that share a visitor with a changed one."""
    from recsys_lab.models import neighbours

    frame = pd.DataFrame({"user_id": [1, 1, 2, 2, 3], "item_id": [1, 2, 3, 4, 3], "event": "view"})
    frame["timestamp"] = pd.to_datetime(np.arange(5) * 1000, unit="ms", utc=True)
    more = frame.tail(1).assign(user_id=9, item_id=2, timestamp=pd.Timestamp(9000, unit="ms", tz="UTC"))
    model, asked = model_class("item_knn")().fit(Dataset("a", frame)), []
    made = neighbours.item_similarity
    monkeypatch.setattr(
        neighbours, "item_similarity", lambda *a, only, **w: asked.append(only) or made(*a, only=only, **w)
    )
    model.update(Dataset("a", pd.concat([frame, more], ignore_index=True)))
    assert [rows.tolist() for rows in asked] == [[0, 1]]
