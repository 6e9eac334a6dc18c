"""The LR baseline."""

import numpy as np
import pandas as pd
import pytest
from helpers import quick, untimed_sessions

from recsys_lab import evaluation, splits
from recsys_lab.models.base import model_class
from recsys_lab.models.popularity import Popularity
from recsys_lab.ranking import logistic, training


def test_a_log_without_categories_prices_or_carts_is_ranked():
    log = untimed_sessions(2)
    split = splits.make(log)
    for name in ("lr", "lightgbm", "hybrid"):
        model = model_class(name)(**quick(name))
        assert evaluation.evaluate(model, split, "next_item", ks=(5,)).mean("ndcg", 5) > 0


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"features": ["simm_max"]}, "unknown feature 'simm_max'"),
        ({"window_fraction": 0.0}, "hybrid: window_fraction must be above 0, not 0.0"),
        ({"n_windows": 3, "window_fraction": 0.4}, "fit 3 times into a log"),
        ({"negative_sampling": "easy"}, "hybrid: negative_sampling must be 'candidates' or 'hard', not 'easy'"),
        ({"protocol": "tomorrow"}, "protocol must be one of"),
        ({"sources": {"session_walk": 5, "nothing": 5}}, "there is no model 'nothing'"),
        ({"objective": "pairwise"}, "hybrid: objective must be 'lambdarank' or 'binary'"),
        ({"alpha": -0.1}, "hybrid: alpha must be at least 0, not -0.1"),
        ({"collaborative": "als"}, "collaborative must be one of the sources"),
        ({"normalisation": "softmax"}, "hybrid: normalisation must be 'minmax' or 'rank'"),
    ],
)
def test_bad_settings_are_refused_with_a_sentence(wrong, match, shop_split):
    with pytest.raises(ValueError, match=match):
        model_class("hybrid")(**quick("hybrid") | wrong).fit(shop_split.train)


@pytest.mark.parametrize("kind", [logistic.Logistic, logistic.LogisticEnriched])
def test_logistic_is_scikit_learns(kind, shop_split):
    """Refitted by hand on the same rows, the probabilities are the same."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = kind(**quick("lr")).fit(shop_split.train)
    rows = training.training_rows(shop_split.train, logistic.stage_of(model.config))
    told = pd.DataFrame(rows.block.astype(float), columns=rows.names)
    x = pd.DataFrame({c: told[c.split("*")].prod(axis=1, skipna=False) for c in model.state["columns"]})
    known = x.notna().mean()
    unknown = x.loc[:, (known > 0.001) & (known < 0.999)].isna().add_prefix("no ")
    assert len(unknown.columns) or kind.basic  # otherwise nothing is said of what is unknown
    x = x.fillna(x.mean()).join(unknown).to_numpy(float)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, rows.label)
    ours = 1 / (1 + np.exp(-model.predict(rows.block)))
    np.testing.assert_allclose(ours, theirs.predict_proba(x)[:, 1], atol=1e-9)


def test_two_stages_beat_popularity_on_the_shop(shop_split):
    base = evaluation.evaluate(Popularity(), shop_split, "next_item", ks=(10,))
    for name in ("lr", "lr_enriched", "lightgbm"):
        found = evaluation.evaluate(model_class(name)(**quick(name)), shop_split, "next_item", ks=(10,))
        assert found.compare(base)["low"] > 0
