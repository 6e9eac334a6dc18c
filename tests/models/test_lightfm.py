"""LightFM: vectors of features, folding in, price bands."""

import numpy as np
import pandas as pd
import pytest
from helpers import LOG, random_log

from recsys_lab import evaluation, splits
from recsys_lab.catalogue import PRICES, as_number
from recsys_lab.datasets import Dataset
from recsys_lab.histories import Histories
from recsys_lab.models.als import BPR
from recsys_lab.models.base import load_model
from recsys_lab.models.factors import fold_map, mean_vectors, stored_rows
from recsys_lab.models.lightfm import BANDS, LightFMHybrid, LightFMWarp, price_bands


@pytest.mark.parametrize("kind", [BPR, LightFMWarp])
def test_known_users_are_stored_and_others_folded_in(kind, tmp_path):
    model = kind(factors=4).fit(LOG)
    users = LOG.users[:4]
    assert set(model.recommend(users, k=3).frame().source) == {"stored"}
    asked = LOG.histories(users)
    nameless = Histories(asked.indptr, asked.items, asked.events, asked.times, asked.at, None, asked.event_names)
    assert set(model.rank(nameless, k=3).frame().source) == {"fold_in"}
    earlier = LOG.histories(users, at=int(np.median(LOG.moments)))
    assert (stored_rows(model, earlier.encode(model.items)) == -1).any()  # whose history is another than at the fit
    assert not np.array_equal(model.rank(nameless, k=3).scores, model.recommend(users, k=3).scores)
    again = load_model(model.save(tmp_path / "m")).recommend(users, k=3)
    assert set(again.frame().source) == {"stored"} and model.scoring == "stored"


def launches(seed=0, users=300, kinds=6):
    """Users who keep to one category; items of the last day are new."""
    rng = np.random.default_rng(seed)
    rows, day = [], pd.Timestamp("2024-01-01", tz="UTC")
    for user in range(users):
        kind = user % kinds
        for d in sorted(rng.integers(0, 20, 6)):
            rows.append((user, kind * 10 + rng.integers(0, 8), day + pd.Timedelta(int(d), "D")))
        rows.append(
            (user, kind * 10 + 8 + rng.integers(0, 2), day + pd.Timedelta(25, "D"))
        )  # 8 and 9 are launched then
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).assign(event="view")
    items = np.arange(kinds * 10)
    facts = pd.DataFrame({"item_id": items, "property": "categoryid", "value": (items // 10).astype(str)})
    prices = pd.DataFrame({"item_id": items, "property": "price", "value": (items * 1.5 + 1).astype(str)})
    properties = pd.concat([facts, prices], ignore_index=True).assign(timestamp=day - pd.Timedelta(1, "D"))
    return Dataset("launches", frame.sort_values("timestamp", ignore_index=True), properties)


def test_features_recommend_what_nobody_had_met():
    """The sign test: under a chronological cold-item split the hybrid clearly beats plain collaborative filtering."""
    split = splits.make(launches(), test="2024-01-25", valid=0.1)
    asked = {"protocol": "next_period", "ks": (10,)}
    hybrid, plain = (
        evaluation.evaluate(kind(factors=16, epochs=30), split, **asked) for kind in (LightFMHybrid, LightFMWarp)
    )
    row = hybrid.compare(plain, "recall", 10, "item_popularity=unseen")
    assert plain.mean("recall", 10) == 0 and row["low"] > 0.25  # two new items in a category of ten, ten places
    chance = 10 / 60
    assert hybrid.mean("recall", 10) > 2 * chance


def test_prices_are_cut_into_bands_as_known(shop):
    log = launches()
    bands = price_bands(log, log.items)
    assert (np.bincount(bands) == len(log.items) / BANDS).all()
    assert (np.diff(bands[np.argsort(log.items.to_numpy())]) >= 0).all()  # dearer items, higher bands
    assert (price_bands(random_log(0), random_log(0).items) == -1).all()
    cutoff = splits.make(shop).cutoff("test")
    when = pd.Timestamp(cutoff, unit="ms", tz="UTC")

    def bands_with(changed):
        """As known before the cutoff, where some of the prices are turned round: the dearest item is the cheapest."""
        told = shop.properties.copy()
        some = changed(told.timestamp) & told.property.isin(PRICES)
        assert some.any()
        told.loc[some, "value"] = (1e6 - as_number(told.value[some])).astype(str)
        return price_bands(Dataset("shop", shop.events, told, shop.categories).before(cutoff), shop.items)

    known = price_bands(shop.before(cutoff), shop.items)
    assert (bands_with(lambda t: t >= when) == known).all()
    priced = known >= 0
    assert (bands_with(lambda t: t < when)[priced] != known[priced]).mean() > 0.5


def test_fold_in_has_an_intercept():
    """Vectors that are a linear map of the means and a constant are found again, the constant too; without it they would be far off."""
    rng = np.random.default_rng(0)
    histories = Histories.from_lists([rng.choice(30, 5, replace=False).tolist() for _ in range(400)]).encode(
        pd.Index(range(30))
    )
    vectors = rng.normal(size=(30, 4)).astype(np.float32)
    means = mean_vectors(histories, vectors)
    wanted = means[:, :4] @ rng.normal(size=(4, 3)) + np.array([5.0, -3.0, 1.0])
    found = means @ fold_map(means, wanted, ridge=1e-6)
    assert np.abs(found - wanted).max() < 0.01
    nobody = mean_vectors(Histories.from_lists([[]]).encode(pd.Index(range(30))), vectors)
    assert np.abs(nobody @ fold_map(means, wanted, ridge=1e-6) - [5, -3, 1]).max() < 0.01
