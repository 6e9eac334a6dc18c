"""Analysis of the second stage: metrics of rows, thresholds, alpha, pools of blends."""

import numpy as np
import pandas as pd
import pytest
from helpers import MEMBERS, quick

from recsys_lab import evaluation, metrics, splits
from recsys_lab.evaluation import evaluate
from recsys_lab.intervals import mean_over_users
from recsys_lab.models.base import model_class
from recsys_lab.models.blend import Blend, fit_members
from recsys_lab.ranking import analysis, boosting, hybrid, training
from recsys_lab.ranking.analysis import build_pool, tune_weights
from recsys_lab.splits import make_cases


@pytest.mark.parametrize("question", [("next_item", "none"), ("next_period", "seen")])
def test_a_pool_judges_as_the_evaluation_does(shop_split, question):
    """Wherever the whole catalogue is among the candidates; and a hundred of each member are as good for a list of ten."""
    weights = {"item_knn": 0.7, "graph_filter": 0.2, "popularity": 0.1}
    blend = Blend(members=MEMBERS, weights=weights)
    judged = evaluate(blend, shop_split, question[0], exclude=question[1], part="valid", ks=(10,))
    cases = make_cases(shop_split, question[0], part="valid", exclude=question[1])
    parts = fit_members(MEMBERS, shop_split.train)
    scored = np.flatnonzero(cases.history > 0)  # visitors without a history are offered what is popular instead
    warm = cases.subset(scored, np.ones(len(cases.relevant), bool))
    mean = mean_over_users(judged.values["ndcg", 10][scored], warm.user_ids)
    assert abs(build_pool(parts, warm, most=10**6, each=10**6).ndcg(weights) - mean) < 1e-3
    assert abs(build_pool(parts, warm, most=10**6, each=100).ndcg(weights) - mean) < 5e-3


def test_a_pool_judges_two_stages_as_the_evaluation_does(shop_split):
    """Their candidates are those of the question: what is left out takes no places."""
    parts = fit_members({"lightgbm": quick("lightgbm")}, shop_split.train)
    judged = evaluate(parts["lightgbm"], shop_split, "next_item", exclude="seen", part="valid", ks=(10,))
    cases = make_cases(shop_split, "next_item", part="valid", exclude="seen")
    warm = np.flatnonzero(cases.history > 0)
    pool = build_pool(
        parts, cases.subset(warm, np.isin(np.repeat(np.arange(len(cases)), np.diff(cases.indptr)), warm)), most=10**6
    )
    found = mean_over_users(judged.values["ndcg", 10][warm], cases.user_ids[warm])
    assert found > 0.05
    for one in (pool, pool.top_scaled()):
        assert one.ndcg({"lightgbm": 1.0}) == pytest.approx(found, abs=0.02 * found)


def test_weights_leave_out_what_misleads(shop_split):
    """A member that scores at random: the search gives it little, and less than equal weights do the blend loses by it."""
    cases = make_cases(shop_split, "next_item", part="valid")
    parts = fit_members({"session_walk": {}, "item_knn": {}}, shop_split.train)
    rng = np.random.default_rng(0)

    class Noise:
        items = parts["item_knn"].items

        def score(self, histories, exclude="none"):
            return rng.random((len(histories), len(self.items)))

    table = tune_weights(build_pool({**parts, "noise": Noise()}, cases, most=1500), 30)
    first, best = table.iloc[0], table[table.chosen].iloc[0]
    assert first[["session_walk", "item_knn", "noise"]].tolist() == [1, 1, 1]
    assert best["ndcg@10"] > first["ndcg@10"] and best["noise"] < max(best["session_walk"], best["item_knn"]) / 2
    assert tune_weights(build_pool(parts, cases, most=100), 5, seed=3).equals(
        tune_weights(build_pool(parts, cases, most=100), 5, seed=3)
    )
    assert not len(tune_weights(build_pool(parts, cases, most=100), 0))


def test_rows_ndcg_is_the_metric():
    rng = np.random.default_rng(0)
    request = np.sort(rng.integers(0, 30, 400))
    label = rng.random(400) < 0.3
    label[np.unique(request, return_index=True)[1]] = True
    request = np.unique(request, return_inverse=True)[1]
    scores = rng.random(400)
    rows = training.Rows(np.zeros((400, 1), np.float32), label, request, np.zeros(30, int), np.arange(30), ["x"])
    from sklearn.metrics import ndcg_score

    for r, value in enumerate(boosting.rows_ndcg(rows, scores, 10)):
        mine = request == r
        wanted = ndcg_score([label[mine].astype(float)], [scores[mine]], k=10) if mine.sum() > 1 else 1.0
        assert value == pytest.approx(wanted)


def test_case_ndcg_is_what_evaluate_says(shop_split):
    """The short cut that the sweep takes gives the evaluation's own numbers."""
    model = model_class("hybrid")(**quick("hybrid")).fit(shop_split.train)
    cases = training.sample_cases(splits.make_cases(shop_split, "next_item", "any", "valid", "none"), 10**9, 0)
    told, indptr = analysis.score_components(model, cases, "none", ["session_walk"])
    mine = hybrid.blend_scores(told.ranker.to_numpy(), told.session_walk.to_numpy(), indptr, 0.3, "minmax")
    value = analysis.case_ndcg(told, mine.astype(np.float32), cases, 10)
    listed = evaluation.rank_cases(model, cases, 10, 512)[0]
    wanted = metrics.accuracy(listed, cases.indptr, cases.relevant, (10,))["ndcg", 10]
    np.testing.assert_allclose(value, wanted, atol=1e-12)


def test_the_rule_takes_the_least_alpha_within_one_standard_error():
    rng = np.random.default_rng(0)
    users, noise = np.arange(400), rng.normal(0, 0.02, 400)
    lift = {0.0: 0.0, 0.2: 0.0495, 0.5: 0.05, 1.0: -0.2}
    values = {("als", "minmax", a): 0.5 + up + noise * (1 + a) for a, up in lift.items()}
    values[("als", "rank", 0.1)] = 0.4 + noise
    table = analysis.alpha_table(values, users)
    best = table.loc[table.ndcg.idxmax()]
    assert best.alpha == 0.5 and table[table.chosen].alpha.item() == 0.2
    sure = {key: v + (0.5 if key[2] == 0.5 else 0) for key, v in values.items()}
    assert analysis.alpha_table(sure, users).query("chosen").alpha.item() == 0.5


def test_no_half_is_chosen_by_chance_where_the_halves_do_not_matter():
    """At alpha 0 all halves are the trees alone, up to noise: the first named is taken, whichever is luckier."""
    rng = np.random.default_rng(3)
    users, trees, noise = np.arange(300), rng.random(300), rng.normal(0, 0.02, 300)
    for luck in (-1e-4, 1e-4):
        values = {
            ("session_walk", "minmax", 0.0): trees,
            ("session_walk", "minmax", 0.3): trees - 0.2 * rng.random(300),
        }
        values |= {("als", "rank", 0.0): trees + noise - noise.mean() + luck, ("als", "rank", 0.3): trees - 0.1}
        picked = analysis.alpha_table(values, users).query("chosen").iloc[0]
        assert (picked.collaborative, picked.normalisation, picked.alpha) == ("session_walk", "minmax", 0.0)


def test_a_threshold_is_the_highest_of_those_as_good_as_the_best():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(5)
    chance, users = rng.random(3000) ** 3, rng.integers(0, 200, 3000)
    met = rng.random(3000) < chance
    table = analysis.threshold_table(met, chance, users)
    for row in table.iloc[::17].itertuples():
        assert row.f1 == pytest.approx(f1_score(met, chance >= row.threshold), abs=1e-12)
    picked, best = table[table.chosen].iloc[0], table.loc[table.f1.idxmax()]
    assert picked.threshold >= best.threshold and picked.behind <= picked.se and table.chosen.sum() == 1
    assert (table.behind > table.se)[table.threshold > picked.threshold].all()


def test_a_width_may_fall_short_of_the_knee_by_one_standard_error():
    table = pd.DataFrame(
        {"sources": "all", "user_type": "warm", "width": [5, 10, 20, 40], "recall": [0.5, 0.758, 0.77, 0.8]}
    )
    assert analysis.narrowest_width(table.assign(error=0.0), 0.95) == 20  # 0.76 is asked for
    assert analysis.narrowest_width(table.assign(error=[0.01, 0.003, 0.002, 0]), 0.95) == 10
    assert analysis.narrowest_width(table.assign(error=0.0), 1.0) == 40


def test_classification_draws_agree_with_scikit_learn():
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(1)
    users, scores = rng.integers(0, 50, 2000), rng.random(2000)
    met = rng.random(2000) < scores / 4
    drawn = analysis.classification_draws(met, scores, users, 20, 3)
    assert drawn[0] == pytest.approx([roc_auc_score(met, scores), average_precision_score(met, scores)])
    assert drawn[1:].std(0).min() > 0 and (np.abs(drawn[1:] - drawn[0]) < 0.2).all()
