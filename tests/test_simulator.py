"""The embedded shop: reproducible to the byte, of the promised size, and true to its own truth."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from recsys_lab import datasets, simulator, splits
from recsys_lab.simulator import DAY_MS, SIZES, START_MS, ShopConfig, simulate, write_shop


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_shop(simulate(ShopConfig(visitors=300, seed=seed)), tmp_path / name)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a")["events.csv"] != digests(tmp_path / "c")["events.csv"]


def test_the_small_shop_is_as_large_as_promised():
    log = datasets.load("shop", size="small")
    split = splits.make(log)
    funnel = split.funnel().query("part == 'test'").set_index("rule")
    assert len(log) >= 100_000 and len(log.items) >= 5_000
    assert funnel.users["users with a history"] >= 2_000
    described = log.properties.item_id
    assert described.min() == 0 and described.max() == SIZES["small"].items - 1 == described.nunique() - 1
    assert log.users.min() == 0 and log.users.max() == SIZES["small"].visitors - 1
    once = np.bincount(log.user_codes)
    sessions = log.events.groupby("user_id").timestamp.agg(lambda t: t.dt.date.nunique())
    assert (sessions == 1).mean() > 0.6 and once.max() < 1000


def test_the_funnel_narrows_and_follows_order(shop):
    counts = shop.events.event.value_counts()
    assert counts["view"] > counts["addtocart"] > counts["transaction"] > 0
    first = shop.events.drop_duplicates(["user_id", "item_id", "event"]).pivot(
        index=["user_id", "item_id"], columns="event", values="timestamp"
    )
    bought = first.dropna(subset=["transaction"])
    assert (bought["view"] < bought["addtocart"]).all() and (bought["addtocart"] < bought["transaction"]).all()


def test_nothing_happens_to_items_that_are_not_on_sale(shop):
    truth = simulator.Truth.load(shop.source)
    views = shop.events[shop.events.event == "view"]
    opened = views.groupby(["user_id", views.timestamp.dt.date]).timestamp.transform("min")
    day = truth.day(opened.dt.tz_localize(None).to_numpy().astype("int64"))
    fresh = ~views.duplicated(["user_id"])
    items = views.item_id.to_numpy()
    on_sale = (truth.items.launch[items] <= day) & (day < truth.items.gone[items])
    assert on_sale[fresh.to_numpy()].all()


@pytest.mark.parametrize("at", [0, 70, 137])
def test_preferences_are_probabilities(shop, at):
    truth = simulator.Truth.load(shop.source)
    visitors = np.arange(40)
    p = truth.preference(visitors, START_MS + at * DAY_MS)
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    last = np.where(visitors % 3 == 0, -1, visitors)
    q = truth.next_view(visitors, last, np.where(visitors % 2, 1000, 10**9), START_MS + at * DAY_MS)
    np.testing.assert_allclose(q.sum(1), 1, rtol=1e-5)
    inside = visitors[(last >= 0) & (visitors % 2 == 1)]
    assert (q[inside, last[inside]] >= truth.config.repeat).all()


def test_second_views_follow_the_truth(shop):
    """Within a session the share of repeats is the knob's, within four standard errors."""
    views = shop.events[shop.events.event == "view"].sort_values(["user_id", "timestamp"], kind="stable")
    gap = views.timestamp.diff().dt.total_seconds()
    same = (views.user_id == views.user_id.shift()) & (gap < 1800)
    repeat = (views.item_id == views.item_id.shift())[same]
    config = SIZES["tiny"]
    truth = simulator.Truth.load(shop.source)
    by_chance = (
        config.stay * 0.5 + (1 - config.stay - config.repeat) * 0.3
    )  # at most: a stay or a fresh choice may hit the item too
    error = np.sqrt(config.repeat * (1 - config.repeat) / len(repeat))
    assert config.repeat - 4 * error < repeat.mean() < config.repeat + by_chance
    assert truth.config == config


def test_an_outdated_shop_is_made_anew(tmp_path):
    folder = tmp_path / "tiny"
    assert simulator.make(folder, "tiny") and not simulator.make(folder, "tiny")
    (folder / "made.json").write_text('{"config": {}, "source": "other"}')
    (folder / "events.csv").write_text("broken")
    assert simulator.make(folder, "tiny")
    assert len(datasets.read_retailrocket(folder)) > 5000


@pytest.mark.parametrize(
    "knob", [{"taste": -0.1}, {"stay": 0.7, "repeat": 0.5}, {"visitors": 0}, {"categories": 3, "roots": 3}]
)
def test_impossible_shops_are_refused(knob):
    with pytest.raises(ValueError, match=next(iter(knob))):
        ShopConfig(**knob)


def test_one_style_and_one_favourite_work():
    shop = simulate(replace(SIZES["tiny"], styles=1, favourites=1, visitors=200))
    p = shop.truth.preference(np.arange(5), START_MS)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
