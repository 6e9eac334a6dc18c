"""The embedded shop: reproducible to the byte, of the promised size, and true to its own truth."""

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from recsys_lab import datasets, histories, loading, simulator, splits
from recsys_lab.readers import formats
from recsys_lab.simulator import DAY_MS, SIZES, START_MS, ShopConfig, simulate, write_shop


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_shop(simulate(ShopConfig(visitors=300, seed=seed)), tmp_path / name)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a")["events.csv"] != digests(tmp_path / "c")["events.csv"]


@pytest.mark.slow
def test_the_small_shop_is_as_large_as_promised():
    log = loading.load("shop", size="small")
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
    assert simulator.make_shop(folder, "tiny") and not simulator.make_shop(folder, "tiny")
    (folder / "made.json").write_text('{"config": {}, "source": "other"}')
    (folder / "events.csv").write_text("broken")
    assert simulator.make_shop(folder, "tiny")
    assert len(formats.read_retailrocket(folder)) > 5000


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


def likelihood_z(shop):
    """How far the log-likelihood of first views lies from what the truth expects, in standard errors."""
    first = shop.events[shop.events.event == "view"].drop_duplicates("visitorid")
    got, expected, variance = [], [], []
    for day, group in first.groupby((first.timestamp - START_MS) // DAY_MS):
        p = shop.truth.preference(group.visitorid.to_numpy(), START_MS + day * DAY_MS).astype(float)
        logs = np.log(np.maximum(p, 1e-300))
        got.extend(logs[np.arange(len(p)), group.itemid.to_numpy()])
        expected.extend((p * logs).sum(1))
        variance.extend((p * logs**2).sum(1) - (p * logs).sum(1) ** 2)
    return (np.sum(got) - np.sum(expected)) / np.sqrt(np.sum(variance))


@pytest.mark.parametrize(
    "knobs", [{}, {"drift": 0.9}, {"feedback": 0.7, "taste": 0.3}, {"drift": 0.5, "feedback": 0.5}]
)
@pytest.mark.slow
def test_the_log_follows_its_truth_whatever_the_knobs(knobs):
    shop = simulate(replace(SIZES["tiny"], visitors=3000, seed=5, **knobs))
    assert abs(likelihood_z(shop)) < 4


def test_drift_is_seen_by_those_who_ignore_it():
    """The same log against a truth that stands still: the test above would fail."""
    shop = simulate(replace(SIZES["tiny"], visitors=3000, seed=5, drift=1.0, taste=1.0, focus=1.0, favourites=1))
    assert abs(likelihood_z(shop)) < 4
    people = shop.truth.people
    shop.truth.people = people._replace(later=None, turn=None)
    assert likelihood_z(shop) < -4


def test_feedback_counts_the_views_before_each_day():
    shop = simulate(replace(SIZES["tiny"], feedback=0.5))
    views = shop.events[shop.events.event == "view"]
    # a session that begins before midnight counts for its own day
    start = views.sort_values(["visitorid", "timestamp"], kind="stable")
    gap = start.timestamp.diff().gt(30 * 60_000) | start.visitorid.ne(start.visitorid.shift())
    opened = start.timestamp.where(gap).ffill()
    day = shop.truth.day(opened.to_numpy().astype(np.int64))
    for at in (1, 60, 137):
        counted = np.bincount(start.itemid.to_numpy()[day < at], minlength=400)
        assert (shop.truth.viewed[at] == counted).all()


def test_knobs_survive_writing_and_reading(tmp_path):
    shop = simulate(replace(SIZES["tiny"], visitors=400, drift=0.5, feedback=0.5, exposure=0.5))
    write_shop(shop, tmp_path / "shop")
    truth = simulator.Truth.load(tmp_path / "shop")
    at = START_MS + 100 * DAY_MS
    assert (truth.preference(np.arange(50), at) == shop.truth.preference(np.arange(50), at)).all()
    shown = pd.read_csv(tmp_path / "shop" / "impressions.csv")
    assert list(shown) == ["timestamp", "visitorid", "itemid", "position", "propensity", "chosen"]
    assert len(shown) == len(shop.shown)
    assert "truth" in formats.read_retailrocket(tmp_path / "shop").offers


def test_what_is_taken_from_a_shelf_follows_preference_and_position():
    config = replace(SIZES["tiny"], visitors=2500, exposure=1.0, drift=0.3)
    shop = simulate(config)
    shelves = shop.shown
    day = shop.truth.day(shelves.timestamp.to_numpy()[:: config.slots])
    got = expected = variance = 0.0
    items = shelves.itemid.to_numpy().reshape(-1, config.slots)
    visitors = shelves.visitorid.to_numpy()[:: config.slots]
    chosen = shelves.chosen.to_numpy().reshape(-1, config.slots)
    assert (chosen.sum(1) == 1).all()
    for today in np.unique(day)[::7]:
        rows = np.flatnonzero(day == today)
        full = shop.truth.preference(visitors[rows], START_MS + int(today) * DAY_MS)
        p = full[np.arange(len(rows))[:, None], items[rows]] * np.arange(1, config.slots + 1) ** -config.position_bias
        logs = np.log(p / p.sum(1, keepdims=True))
        p = p / p.sum(1, keepdims=True)
        got += logs[chosen[rows] == 1].sum()
        expected += (p * logs).sum()
        variance += ((p * logs**2).sum(1) - (p * logs).sum(1) ** 2).sum()
        weight = shop.truth.on_sale_weight(int(today))
        np.testing.assert_allclose(
            shelves.propensity.to_numpy().reshape(items.shape)[rows], (weight / weight.sum())[items[rows]]
        )
    assert abs(got - expected) / np.sqrt(variance) < 4


def test_knobs_are_off_by_default():
    config = ShopConfig()
    assert (config.drift, config.feedback, config.exposure) == (0, 0, 0)
    shop = simulate(replace(config, visitors=200))
    assert shop.shown is None and shop.truth.viewed is None and shop.truth.people.later is None


@pytest.mark.slow
def test_the_full_shop_has_the_published_log_s_shape():
    """Events only; the catalogue is counted by the benchmark, whose figures the chapter shows."""
    raw = simulate(SIZES["full"]).events
    log = datasets.Dataset(
        "full",
        pd.DataFrame(
            {
                "user_id": raw.visitorid,
                "item_id": raw.itemid,
                "event": pd.Categorical(raw.event, histories.EVENTS),
                "timestamp": pd.to_datetime(raw.timestamp, unit="ms", utc=True),
            }
        ),
    )
    found, published = simulator.shop_facts(log), simulator.PUBLISHED
    close = ["events", "view events", "addtocart events", "transaction events", "users", "items with events"]
    assert all(abs(found[n] / published[n] - 1) < 0.02 for n in close)
    rough = ["distinct pairs", "users with one pair", "unseen share of the last fifth's users"]
    assert all(abs(found[n] / published[n] - 1) < 0.1 for n in rough)
    assert (found["first day"], found["last day"]) == (published["first day"], published["last day"])
