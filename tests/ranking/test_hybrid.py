"""The hybrid of a collaborative score and a ranking score."""

import itertools

import numpy as np
import pandas as pd
import pytest
from helpers import FEW_SOURCES, quick
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab import evaluation, splits
from recsys_lab.histories import Histories
from recsys_lab.models import popularity
from recsys_lab.models.base import MODELS, Recommender, load_model, model_class
from recsys_lab.ranking import candidates, hybrid
from recsys_lab.ranking.features import GROUPS, Feature, feature_group


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.floats(-1e6, 1e6, width=32), max_size=6), min_size=1, max_size=5),
    st.floats(0, 1),
    st.sampled_from(hybrid.NORMALISATIONS),
)
def test_a_blend_stays_on_its_scale_and_meets_both_ends(rows, alpha, how):
    scores = np.array(list(itertools.chain(*rows)))
    indptr = np.concatenate([[0], np.cumsum([len(r) for r in rows])])
    one = hybrid.normalize_scores(scores, indptr, how)
    assert ((one >= 0) & (one <= 1)).all()
    other = -scores
    mixed = hybrid.blend_scores(scores, other, indptr, alpha, how)
    np.testing.assert_allclose(
        mixed, (1 - alpha) * one + alpha * hybrid.normalize_scores(other, indptr, how), atol=1e-12
    )
    np.testing.assert_array_equal(hybrid.blend_scores(scores, other, indptr, 0.0, how), one)
    np.testing.assert_array_equal(hybrid.blend_scores(scores, np.full(len(scores), np.nan), indptr, alpha, how), one)
    for start, stop in itertools.pairwise(indptr):  # order is kept
        assert (np.diff(one[start:stop][np.argsort(scores[start:stop], kind="stable")]) >= -1e-12).all()


def test_the_ends_of_alpha_are_the_halves(shop_split):
    known = shop_split.known("test")
    cases = splits.make_cases(shop_split, "next_item")
    lists = {}
    for name, extra in (("lightgbm", {}), ("hybrid", {"alpha": 0.0}), ("hybrid_tuned", {"alpha": 1.0})):
        lists[name], _ = evaluation.rank_cases(model_class(name)(**quick(name) | extra).fit(known), cases, 5, 512)
    warm = cases.history > 0
    same = (lists["lightgbm"][warm] == lists["hybrid"][warm]).all(1)
    assert same.mean() > 0.99  # scores that differ by rounding alone may be tied on one scale and not on the other
    assert (lists["hybrid"][warm] != lists["hybrid_tuned"][warm]).any()
    walk = candidates.fit_sources(known, {"session_walk": 20})["session_walk"]
    alone, _ = evaluation.rank_cases(walk, cases, 1, 512)
    scored = alone[:, 0] >= 0
    assert (
        lists["hybrid_tuned"][warm & scored, 0] == alone[warm & scored, 0]
    ).mean() > 0.99  # ties within rounding aside


def test_a_blend_can_be_put_around_fitted_trees(shop_split):
    known = shop_split.known("test")
    trees = model_class("lightgbm")(**quick("lightgbm")).fit(known)
    around = hybrid.blend_of(trees, hybrid.Hybrid, alpha=0.4)
    fresh = hybrid.Hybrid(**quick("hybrid"), alpha=0.4).fit(known)
    h = known.histories(known.users[:80])
    a, b = around.rank(h, 10, "none"), fresh.rank(h, 10, "none")
    assert (a.codes == b.codes).all() and around.config == fresh.config and around.fitted_on == known.fingerprint


def test_cold_visitors_fall_back_and_say_so(shop_split):
    known = shop_split.known("test")
    model = model_class("hybrid")(**quick("hybrid")).fit(known)
    blend = popularity.PopularityBlend(recency_weight=model.config.recency_weight).fit(known)
    assert (
        model.rank(Histories.from_lists([[]]), 8).frame().item_id.tolist()
        == blend.rank(Histories.from_lists([[]]), 8).frame().item_id.tolist()
    )
    told = model.rank_with_reasons(Histories.from_lists([[], [known.items[0]]]), 6)
    assert told.user_type.tolist() == ["cold"] * 6 + ["warm"] * 6
    assert told[told.user_type == "cold"][["ranker_score", "collaborative_score"]].isna().all().all()
    warm = told[told.user_type == "warm"]
    assert warm.ranker_score.notna().any() and set(", ".join(warm.sources).split(", ")) <= set(FEW_SOURCES) | {
        "popular"
    }
    listed = model.rank(Histories.from_lists([[known.items[0]]]), 6).frame()
    assert warm.item_id.tolist() == listed.item_id.tolist()


def test_a_blend_is_saved_with_all_that_it_is_made_of(shop_split, tmp_path):
    known = shop_split.known("test")
    model = model_class("hybrid")(**quick("hybrid")).fit(known)
    back = load_model(model.save(tmp_path / "m"))
    assert list(back.parts) == sorted(FEW_SOURCES) and back.known is back.parts["item_knn"].known
    h = known.histories(known.users[:50])
    a, b = model.rank(h, 10, "none"), back.rank(h, 10, "none")
    assert (a.codes == b.codes).all() and np.array_equal(a.scores, b.scores, equal_nan=True)
    pd.testing.assert_frame_equal(model.rank_with_reasons(h, 5), back.rank_with_reasons(h, 5))
    part = tmp_path / "m" / "item_knn"
    assert not (part / "known").exists() and (part / "state" / "similarity.data.npy").exists()


def test_a_source_and_a_feature_of_ones_own_are_used_saved_and_explained(shop_split, tmp_path):
    """Without an edit of the package; a process that does not know the feature refuses to rank."""

    class OwnSource(Recommender):
        name = "source_of_test"

        def _fit(self, dataset):
            matrix = dataset.matrix().matrix
            return {"pairs": (matrix.T @ matrix).tocsr()}

        def _score(self, histories):
            return (histories.matrix(len(self.items)) @ self.state["pairs"]).tocsr()

    @feature_group("group_of_test", Feature("feature_of_test", "log(1 + users)", "users of the item once more"))
    def own_columns(block):
        return {"feature_of_test": np.log1p(block.facts["users"][block.c.items])}

    try:
        settings = quick("hybrid")
        settings["sources"] = {**settings["sources"], "source_of_test": 15}
        known = shop_split.known("test")
        model = model_class("hybrid")(**settings, collaborative="source_of_test").fit(known)
        back = load_model(model.save(tmp_path / "model"))
        users = known.users[:40]
        np.testing.assert_array_equal(back.recommend(users, k=8).codes, model.recommend(users, k=8).codes)
        listed = model.rank_with_reasons(model.histories(users), 8, exclude="none")
        assert listed["sources"].str.contains("source_of_test").any()
        warm = listed[listed["user_type"] == "warm"].iloc[0]
        why = model.explain(model.histories([warm["user_id"]]), warm["item_id"])
        assert why.exact and set(why.below) == {"ranker", "source_of_test"}
        assert "feature_of_test" in {part.id for part in why.below["ranker"].parts}
        GROUPS.discard("group_of_test")
        with pytest.raises(ValueError, match="unknown feature 'feature_of_test'"):
            back.recommend(users[:2], k=3)
    finally:
        GROUPS.discard("group_of_test")
        MODELS.discard("source_of_test")
