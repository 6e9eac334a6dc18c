"""Blends: one scale, weights chosen on a pool, members kept inside."""

import numpy as np
import pytest
from helpers import MEMBERS, quick, random_log
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from recsys_lab import evaluation
from recsys_lab.models.base import SOURCES, load_model
from recsys_lab.models.blend import DEPTH, Blend, top_scale, zscore


@settings(max_examples=60, deadline=None)
@given(
    scores=arrays(np.float32, (3, 6), elements=st.integers(-50, 50)),
    factor=st.floats(0.01, 100),
    shift=st.floats(-50, 50),
)
def test_a_scale_of_its_own_does_not_matter(scores, factor, shift):
    """Mean 0 and deviation 1 in each row that has differences, whatever unit and origin a model's scores have."""
    out = zscore(scores.copy(), (3, 6))
    flat = scores.std(axis=1) == 0
    np.testing.assert_allclose(out.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(axis=1), np.where(flat, 0, 1), atol=1e-5)
    np.testing.assert_allclose(zscore(scores * factor + shift, (3, 6))[~flat], out[~flat], atol=2e-3)


def test_no_opinion_and_no_score():
    opinions = sparse.csr_matrix(np.array([[0, 2.0, 0], [0, 0, 0]], np.float32))
    assert zscore(opinions, (2, 3)).tolist() == [
        pytest.approx([-(0.5**0.5), 2**0.5, -(0.5**0.5)], abs=1e-6),
        [0, 0, 0],
    ]
    unscored = np.array([[-np.inf, 2.0, 1.0], [np.nan, -np.inf, np.nan]])
    found = zscore(unscored, (2, 3))
    assert found[0, 0] == found[0, 2] < found[0, 1] and found[1].tolist() == [0, 0, 0]
    rows = np.array([[0.3, 0.3, 0.3], [1e-8, 2e-8, 3e-8], [1e9, 2e9, 4e9]])  # small differences beside large ones
    whole = zscore(rows.copy(), (3, 3))
    assert (whole == np.concatenate([zscore(row[None].copy(), (1, 3)) for row in rows])).all()
    assert (whole[0] == 0).all() and (np.abs(whole[1:]).max(1) > 1).all()
    for_all = zscore(np.array([1.0, 2.0]), (3, 2))  # one row for everybody
    assert for_all.shape == (3, 2) and (for_all == for_all[0]).all()


def test_what_a_sparse_model_does_not_name_is_not_above_what_it_names():
    """A ranker's scores are often below 0, and it names few items."""
    named = sparse.csr_matrix((np.array([-3.0, -1.0, 2.0], np.float32), ([0, 0, 1], [1, 3, 0])), shape=(3, 5))
    found = zscore(named, (3, 5))
    assert found[0].argmax() == 3 and (found[0, [0, 1, 2, 4]] == found[0].min()).all()
    assert found[1].argmax() == 0 and (found[1, 1:] == found[1].min()).all() and not found[2].any()


@pytest.mark.parametrize("scale", ["zscore", "top"])
@pytest.mark.parametrize("exclude", ["none", "seen"])
def test_a_blend_of_one_ranker_lists_what_the_ranker_lists(shop_split, scale, exclude):
    """Candidates are made for what is asked: where what was seen is left out, others take its places."""
    blend = Blend(members={"lightgbm": quick("lightgbm")}, scale=scale).fit(shop_split.train)
    some = blend.known.take(slice(0, 80)).encode(blend.items)
    ours, theirs = (model.lists(some, 10, exclude) for model in (blend, blend.parts["lightgbm"]))
    ranked = (theirs[2] != SOURCES.index("popular")) & (np.diff(some.indptr) > 0)[:, None]
    assert ranked.sum() > 400 and (np.nan_to_num(theirs[1][ranked]) < 0).mean() > 0.1
    assert (ours[0][ranked] == theirs[0][ranked]).mean() > 0.99  # scores that are equal but for rounding


def test_scores_are_the_weighted_sum_of_the_members(shop_split):
    weights = {"item_knn": 0.5, "popularity": 0.25}
    blend = Blend(members=MEMBERS, weights=weights).fit(shop_split.train)
    some = blend.known.take(slice(0, 30)).encode(blend.items)
    apart = {}
    for name, part in blend.parts.items():
        scores = part.score(some)
        dense = np.asarray(scores.todense() if hasattr(scores, "todense") else scores, float)
        rows = np.broadcast_to(dense, (30, len(blend.items)))
        apart[name] = np.nan_to_num((rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True))
    wanted = 0.5 * apart["item_knn"] + apart["graph_filter"] + 0.25 * apart["popularity"]
    np.testing.assert_allclose(blend._score(some), wanted, atol=1e-5)


def test_fold_in_is_that_of_the_members(shop_split, tmp_path):
    exact = Blend(members={"item_knn": {}, "graph_filter": {"factors": 8}})
    assert (exact.fold_in, exact.scoring) == ("exact", "fold_in")
    some = Blend(members={"item_knn": {}, "bpr": {"factors": 8, "epochs": 5}}).fit(shop_split.train)
    assert (some.fold_in, some.scoring) == ("approximate", "stored")
    users = some.known.user_ids[:5]
    assert set(some.recommend(users, k=3).frame().source) == {"stored"}
    stranger = some.known.take(slice(0, 5))
    stranger = type(stranger)(**{**vars(stranger), "user_ids": None})
    assert set(some.rank(stranger, k=3).frame().source) == {"fold_in"}
    back = load_model(some.save(tmp_path / "blend"))
    assert (back.recommend(users, k=9).codes == some.recommend(users, k=9).codes).all()
    assert set(back.parts) == {"item_knn", "bpr"}


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"members": {"nothing": {}}}, "there is no model 'nothing'"),
        ({"members": {"als": {"factors": -1}}}, "factors"),
        ({"members": {"blend": {}}}, "cannot be a member of a blend"),
        ({"members": {}}, "needs members"),
        ({"weights": {"ease": 1.0}}, "weights name 'ease'; the members are graph_filter, user_knn, als"),
        ({"weights": {"als": -1.0}}, "at least 0"),
        ({"weights": {"als": float("nan")}}, "weights.als must be a finite number"),
        ({"members": {"als": {}}, "weights": {"als": 0.0}}, "one of them above 0"),
        ({"members": ["als"]}, "members must be a mapping"),
    ],
)
def test_wrong_settings_are_refused_by_name(told, message):
    with pytest.raises(ValueError, match=message):
        Blend(**told)


def test_members_with_another_catalogue_are_refused(shop):
    with pytest.raises(ValueError, match="lightfm_hybrid cannot stand beside others: its catalogue is not the"):
        Blend(members={"item_knn": {}, "lightfm_hybrid": {"epochs": 1}}).fit(shop.before(shop.moments[len(shop) // 3]))


def test_members_keep_checkpoints_beside_the_blend_s(tmp_path):
    pytest.importorskip("torch")
    blend = Blend(members={"lightgcn": {"factors": 4, "epochs": 2}, "item_knn": {}})
    blend.checkpoint = tmp_path / "point.safetensors"
    blend.fit(random_log(3))
    assert [p.name for p in tmp_path.iterdir()] == ["point-lightgcn.safetensors"]


def top_blend(**weights):
    return Blend(members={name: {} for name in weights}, weights=weights, scale="top")


@pytest.mark.parametrize("exclude", ["none", "seen", "purchased"])
def test_the_scale_of_the_best_items_is_what_its_definition_says(exclude, shop_split):
    """Each member's best items by their lists, above the last of them, as shares; checked visitor by visitor."""
    known = shop_split.known("test")
    blend = top_blend(item_knn=1.0, graph_filter=0.5, popularity=0.25).fit(known)
    asked = known.histories(known.users[:25])
    found = blend.rank(asked, 10, exclude)
    for row in range(25):
        total = np.zeros(len(blend.items))
        for name, part in blend.parts.items():
            own = part.rank(asked.take(slice(row, row + 1)), DEPTH, exclude)
            scored = ~np.isnan(own.scores[0])
            values = np.where(scored, own.scores[0], 0).astype(float)
            above = np.where(scored, values - (values[-1] if scored.all() else min(0.0, values.min())), 0)
            share = above / max(above.sum(), 1e-30)
            np.add.at(total, own.codes[0], np.where(scored, share, 0) * blend.config.weights[name])
        best = found.codes[row]
        np.testing.assert_allclose(
            total[best[~np.isnan(found.scores[row])]], found.scores[row][~np.isnan(found.scores[row])], rtol=1e-4
        )
        assert total[best[0]] == pytest.approx(total.max(), rel=1e-4)


def test_a_sparse_member_does_not_drown_a_dense_one():
    """On the scale of the catalogue the model with few opinions decides alone, on that of the best items both do."""
    sparse_scores = sparse.csr_matrix(np.eye(1, 2000, 3, dtype=np.float32) + 0.9 * np.eye(1, 2000, 4, dtype=np.float32))
    dense_scores = np.random.default_rng(0).normal(size=(1, 2000)).astype(np.float32)
    dense_scores[0, [4, 3]] = 8.0, -2.0
    free = sparse.csr_matrix((1, 2000), dtype=np.float32)
    drowned = zscore(sparse_scores, (1, 2000)) + zscore(dense_scores, (1, 2000))
    fair = (top_scale(sparse_scores, free) + top_scale(dense_scores, free)).toarray()
    assert drowned.argmax() == 3 or drowned[0, 3] > 20
    assert fair.argmax() == 4


def test_the_pool_s_scale_is_that_of_the_blend(shop_split):
    """What weights are selected by is what is served: the same lists for the same weights."""
    from recsys_lab.ranking.analysis import build_pool
    from recsys_lab.splits import make_cases

    blend = top_blend(item_knn=1.0, session_walk=0.7, graph_filter=0.5).fit(shop_split.train)
    cases = make_cases(shop_split, "next_item", part="valid")
    pool = build_pool(blend.parts, cases, most=200).top_scaled()
    values = pool.values(blend.config.weights, 10)
    found = evaluation.evaluate(blend, shop_split, "next_item", part="valid", ks=(10,))
    rows = np.sort(np.random.default_rng(0).choice(len(cases), 200, replace=False))
    ranked = (cases.history[rows] > 0) & (found.codes[rows] >= 0).all(1)  # others are filled with what is popular
    apart = np.abs(values - found.values["ndcg", 10][rows])[ranked]
    assert ranked.sum() > 50 and np.mean(apart > 1e-9) < 0.02  # where standardised scores are equal but for rounding


def test_explanations_on_the_scale_of_the_best_items_add_up(shop_split):
    known = shop_split.known("test")
    blend = top_blend(item_knn=1.0, graph_filter=0.5).fit(known)
    history = known.histories(known.users[:1])
    item = blend.rank(history, 1, "none").frame().item_id[0]
    why = blend.explain(history, item)
    assert sum(part.value for part in why.parts) == pytest.approx(why.score, rel=1e-3)
