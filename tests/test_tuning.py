"""Equal budgets, on validation only; and the ledger that rests on them."""

import json
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, real_data

from recsys_lab import evaluation, leakage, published, runs, splits, tuning
from recsys_lab.models.base import MODELS, model_class
from recsys_lab.models.neighbours import ItemKNN, SequentialRules
from recsys_lab.models.popularity import Popularity, RecentPopularity
from recsys_lab.tuning import Range


def test_every_model_with_settings_has_a_space():
    free = {"oracle", "blend"}  # the truth has nothing to tune; a blend is weighed once its members are fitted
    settable = {name for name in MODELS if fields(model_class(name).Config)} - free
    assert set(tuning.SPACES) == settable
    assert set(tuning.space_table().model) == settable


def test_budgets_are_equal_and_the_defaults_come_first(shop_split):
    kinds = [Popularity, RecentPopularity, ItemKNN, SequentialRules]
    run = runs.Run("")
    found = tuning.search(run, kinds, shop_split, trials=3)
    assert {name: len(t) for name, t in found.items()} == {
        "popularity": 0,
        "popularity_recent": 3,
        "item_knn": 3,
        "sequential_rules": 3,
    }
    for kind in kinds[1:]:
        first = found[kind.name].iloc[0]
        assert all(first[name] == getattr(kind().config, name) for name in tuning.SPACES[kind.name])
        value = evaluation.evaluate(kind(), shop_split, "next_item", part="valid", ks=(10,)).mean("ndcg", 10)
        assert first["ndcg@10"] == pytest.approx(value, abs=1e-12)


def test_the_test_part_is_not_looked_at(shop, shop_split):
    """Another future, the same trials to the last bit."""
    cutoff = shop_split.cutoff("test")
    other = leakage.noise(shop, cutoff, np.random.default_rng(1))
    again = splits.make(other, test=cutoff, valid=shop_split.cutoff("valid"))
    first, second = (tuning.tune(ItemKNN, s, "next_item", 3) for s in (shop_split, again))
    pd.testing.assert_frame_equal(first, second)


def test_settings_stay_in_their_space(shop_split):
    space = {"neighbours": Range(5, 9), "user_norm": (0.0, 1.0), "shrinkage": Range(0.01, 100.0, True)}
    trials = tuning.tune(ItemKNN, shop_split, "next_item", 8, seed=3, space=space)
    assert trials.neighbours.between(5, 9).all() and set(trials.user_norm) <= {0.0, 1.0}
    assert trials.shrinkage.between(0.01, 100).all() and trials.chosen.sum() == 1
    chosen = ItemKNN(**tuning.best_setting(trials)).config
    assert isinstance(chosen.neighbours, int) and isinstance(chosen.shrinkage, float)
    held = tuning.tune(ItemKNN, shop_split, "next_item", 2, fixed={"neighbours": 7}, space=space)
    assert (held.neighbours == 7).all() and tuning.best_setting(held)["neighbours"] == 7


def test_trials_are_kept_in_the_run(shop_split, tmp_path):
    run = runs.Run(tmp_path / "run", "22_neighbours")
    found = tuning.search(run, [ItemKNN], shop_split, trials=2)["item_knn"]
    rows = json.loads((tmp_path / "run" / "trials.json").read_text())
    assert [row["trial"] for row in rows] == [0, 1] and sum(row["chosen"] for row in rows) == 1
    assert rows[0]["settings"]["neighbours"] == 100 and rows[1]["value"] == pytest.approx(found["ndcg@10"][1], abs=1e-6)
    runs.Run(tmp_path / "run", "22_neighbours")  # a chapter that starts again forgets them
    assert json.loads((tmp_path / "run" / "trials.json").read_text()) == []


def test_wrong_budgets_and_models_without_a_space_are_refused(shop_split):
    with pytest.raises(ValueError, match=r"trials must be a whole number of at least 0, not 1\.5"):
        tuning.tune(ItemKNN, shop_split, "next_item", 1.5)
    with pytest.raises(ValueError, match="popularity has no search space"):
        tuning.tune(Popularity, shop_split, "next_item", 1)
    with pytest.raises(ValueError, match="there is no model 'svd'; there are als"):
        model_class("svd")


def test_the_ledger_is_whole_and_says_what_its_figures_say():
    table = published.read_ledger(ROOT / published_path())
    assert len(table) == len(published.FIGURES) and not published.missing_recipes(ROOT / published_path())
    for row, figure in zip(table.itertuples(), published.FIGURES, strict=True):
        assert (row.dataset, row.metric, row.k) == (figure.dataset, figure.metric, figure.k)
        assert np.isclose(row.published, figure.published, equal_nan=True)
        assert row.status == published.status(row.published, row.ours, "not comparable" not in row.source)
        assert row.tolerance <= 0.02 and (np.isnan(row.ours) or row.low <= row.ours <= row.high)
        assert np.isnan(row.ours) == (figure.recipe == "")


def published_path():
    from recsys_lab import cli

    return cli.LEDGER_FILE


def test_a_row_of_the_ledger_can_be_made_again():
    """The cheapest recipe gives what the committed ledger says; it searches nothing, however many trials are asked for."""
    made = published.compute("s_knn", real_data("retailrocket-sessions"), trials=2)
    table = published.read_ledger(ROOT / published_path()).query("model == 'S-KNN'")
    assert [row["ours"] for row in made] == table.ours.tolist()
