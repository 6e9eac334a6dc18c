"""Boosted trees."""

import numpy as np
import pandas as pd
from helpers import STAGE, quick

from recsys_lab import intervals
from recsys_lab.models.base import model_class
from recsys_lab.ranking import analysis, boosting, features, training


def test_trees_are_the_same_every_time(shop_split):
    a, b = (model_class("lightgbm")(**quick("lightgbm")).fit(shop_split.train) for _ in range(2))
    assert (a.state["booster"] == b.state["booster"]).all()


def test_contributions_add_up_and_probabilities_rise(shop_split):
    model = model_class("lightgbm")(**quick("lightgbm")).fit(shop_split.train)
    h = model.known.take(slice(0, 20)).encode(model.items)
    c, scores = model.candidates(h, "none")
    block = features.feature_block(model.first.facts, h, c, model.first.names)
    np.testing.assert_allclose(
        analysis.contributions(model, block).sum(axis=1), scores, atol=1e-6 * np.abs(scores).max()
    )
    chance = model.probability(np.sort(scores))
    assert (np.diff(chance) >= 0).all() and chance.min() >= 0 and chance.max() <= 1


def test_the_fewest_trees_that_cannot_be_told_from_the_best(shop):
    """More would be better by its own metric only; with patience for all of them, the choice is not LightGBM's."""
    rows = training.training_rows(shop, STAGE)
    stops = boosting.is_held_out(rows.user)
    learn, stop = rows.take(~stops), rows.take(stops)
    config = boosting.BoostingConfig(num_boost_round=60, patience=60, min_data_in_leaf=5)
    trees = boosting.train_booster(learn, stop, config)
    chosen = trees.best_iteration
    values = {
        n: boosting.rows_ndcg(stop, np.asarray(trees.predict(stop.block, num_iteration=n, raw_score=True)))
        for n in range(boosting.TREE_STEP, 61, boosting.TREE_STEP)
    }
    assert chosen in values or chosen == 60
    fewer = [v for n, v in values.items() if n < chosen]
    for value in fewer:  # each is behind some larger number by more than one standard error
        gaps = [(v - value) for n, v in values.items() if n >= chosen]
        codes = pd.factorize(stop.user)[0]
        assert any(
            intervals.user_means(gap[:, None], codes).mean()
            > intervals.gaps_to_best(intervals.user_means(np.stack([gap, gap * 0], 1), codes))[2].max()
            for gap in gaps
        )
    likely = boosting.train_booster(learn, stop, replace_config(config, objective="binary"))
    assert 1 <= likely.best_iteration <= 60
    score = np.asarray(likely.predict(stop.block, raw_score=True))
    of_row = np.where(stop.label, 1, -1) * score
    wanted = [-np.log1p(np.exp(-of_row[stop.request == r])).mean() for r in range(stop.request.max() + 1)]
    np.testing.assert_allclose(boosting.log_likelihood(stop, score), wanted, rtol=1e-9)


def replace_config(config, **changed):
    return type(config)(**{**vars(config), **changed})
