"""Features that know only the past, on a grid, and unknown where nothing is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers import STAGE, ms, random_log, tiny_log

from recsys_lab import splits
from recsys_lab.datasets import Dataset
from recsys_lab.histories import Histories
from recsys_lab.numerics import FEATURE_STEP
from recsys_lab.ranking import candidates, features, training


def all_items(n_items, n_rows):
    """Candidates that are the whole catalogue for each of some requests."""
    count = n_rows * n_items
    shape = (count, 1)
    indptr = np.arange(0, count + 1, n_items)
    items = np.tile(np.arange(n_items, dtype=np.int32), n_rows)
    return candidates.Candidates(indptr, items, np.ones(shape, np.int16), np.ones(shape, np.float32), ("popularity",))


def described(log, items, at, names=None):
    """Features of the whole catalogue for one history, asked at a moment, as a frame by item."""
    facts = features.item_statistics(log)
    h = replace(Histories.from_lists([[i for i, _, _ in items]], [[e for _, e, _ in items]]), at=np.array([ms(at)]))
    h = replace(h, times=np.array([ms(t) for _, _, t in items], np.int64)).encode(log.items)
    names = names or features.chosen_features([], ("popularity",), log)[0]
    block = features.feature_block(facts, h, all_items(len(log.items), 1), names)
    return pd.DataFrame(block, columns=names, index=log.items)


def close_to(wanted):
    """What a feature is after rounding: less than a step away (half a step, and the last bit of a float32 below 16)."""
    return pytest.approx(wanted, rel=0, abs=FEATURE_STEP)


def test_features_are_what_their_table_says():
    log = tiny_log()
    history = [
        (10, "view", "2024-01-04 08:00"),
        (30, "addtocart", "2024-01-04 09:00"),
        (30, "view", "2024-01-04 09:30"),
    ]
    f = described(log, history, "2024-01-04 10:00")
    assert f.item_users.tolist() == close_to(np.log1p([2, 1, 2, 1]).tolist())
    assert f.pair_events.tolist() == close_to(np.log1p([1, 0, 2, 0]).tolist())
    assert f.pair_carts.tolist() == close_to(np.log1p([0, 0, 1, 0]).tolist())
    assert f.pair_near.tolist() == close_to([1 / 3, 0, 1, 0])
    assert f.pair_since[30] == close_to(np.log1p(0.5)) and np.isnan(f.pair_since[20])
    assert f.category_share.tolist() == close_to([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert f.category_near.tolist() == close_to([1 / 3, 1 / 3, 1, 1]) and (f.root_share == 1).all()
    assert f.price.tolist()[:3] == close_to(np.log([10, 20, 40]).tolist()) and np.isnan(f.price[40])
    usual = (np.log(10) + 2 * np.log(40)) / 3
    assert f.price_gap[20] == close_to(np.log(20) - usual)
    assert f.available.tolist()[:2] == [1, 0] and np.isnan(f.available[40])
    assert (f.hour == 10).all() and (f.weekday == 3).all()  # a Thursday
    assert f.since_last.tolist() == close_to([np.log1p(0.5)] * 4)
    assert f.item_since[40] == close_to(np.log1p(24.5)) and f.item_age[10] == close_to(np.log1p(72))
    assert f.user_events[10] == close_to(np.log(4)) and f.user_items[10] == close_to(np.log(3))


def test_rates_are_smoothed_towards_category_and_shop():
    log = tiny_log()
    f = described(log, [(10, "view", "2024-01-04 08:00")], "2024-01-04 10:00")
    shop = 1 / 6  # one buyer of six pairs
    in_b = (1 + 50 * shop) / (3 + 50)
    assert f.category_buy_rate[30] == close_to(in_b)
    assert f.item_buy_rate[30] == close_to((1 + 20 * in_b) / (2 + 20))
    assert f.item_buy_rate[40] == close_to((0 + 20 * in_b) / (1 + 20))  # never bought is not unknown
    assert np.isnan(features.smooth_rate(np.zeros(1), np.zeros(1), shop, 20))  # never met is


def test_similarity_features_are_those_of_the_similarity():
    log = random_log(3)
    facts = features.item_statistics(log)
    dense = facts["similarity"].toarray()
    h = log.histories().encode(log.items)
    block = features.feature_block(facts, h, all_items(len(log.items), len(h)), ["sim_max", "sim_mean", "sim_last"])
    block = block.reshape(len(h), len(log.items), 3)
    for row in range(len(h)):
        mine = h.items[h.indptr[row] : h.indptr[row + 1]]
        recent = list(dict.fromkeys(mine[::-1].tolist()))[:20]
        np.testing.assert_allclose(block[row, :, 0], dense[recent].max(0), rtol=0, atol=FEATURE_STEP)
        np.testing.assert_allclose(block[row, :, 1], dense[recent].mean(0), rtol=0, atol=FEATURE_STEP)
        np.testing.assert_allclose(block[row, :, 2], dense[mine[-1]], rtol=0, atol=FEATURE_STEP)


def test_every_feature_lies_on_the_grid(shop_split):
    """Multiples of the step, so that no last bit of a logarithm or a sum can cross a threshold; and the same in any block."""
    known = shop_split.known("test")
    first = training.first_stage_of(known, STAGE)
    asking = known.histories().encode(known.items)
    c = candidates.gather(first.sources, first.widths, asking, "none")
    block = features.feature_block(first.facts, asking, c, first.names)
    steps = block[~np.isnan(block)].astype(float) / FEATURE_STEP
    assert len(steps) > 10**5 and (steps == np.rint(steps)).all() and len(np.unique(steps % 1024)) > 500
    for row in range(0, len(asking), 97):
        alone = candidates.gather(first.sources, first.widths, asking.take(slice(row, row + 1)), "none")
        mine = features.feature_block(first.facts, asking.take(slice(row, row + 1)), alone, first.names)
        np.testing.assert_array_equal(mine, block[c.indptr[row] : c.indptr[row + 1]])


def test_what_is_unknown_is_not_zero():
    log = tiny_log()
    facts, names = features.item_statistics(log), features.chosen_features([], ("popularity",), log)[0]
    nobody = Histories.from_lists([[]])
    block = features.feature_block(facts, nobody, all_items(len(log.items), 1), names)
    f = pd.DataFrame(block, columns=names)
    for name in ("sim_max", "user_buy_rate", "category_share", "category_near", "price_gap", "since_last", "hour"):
        assert f[name].isna().all(), name
    assert (f.user_events == 0).all() and (f.pair_events == 0).all()


@pytest.mark.parametrize("column", ["events", "properties"])
def test_features_at_a_moment_do_not_move_when_anything_later_changes(shop, column):
    """Beyond the four futures of the check: one later event, or one later property row, and nothing else."""
    at = splits.make(shop).cutoff("test")
    asked = shop.before(at).users[:40]

    def block(log):
        known = log.before(at)
        first = training.first_stage_of(known, STAGE)
        h = known.histories(asked, at=at).encode(known.items)
        c = candidates.gather(first.sources, first.widths, h, "none")
        return features.feature_block(first.facts, h, c, first.names)

    frame = getattr(shop, column).copy()
    later = np.flatnonzero(frame["timestamp"] >= pd.Timestamp(at, unit="ms", tz="UTC"))
    row = later[len(later) // 2]
    frame.iloc[row, frame.columns.get_loc("item_id")] = frame["item_id"].iloc[later[0]]
    events, properties = (frame, shop.properties) if column == "events" else (shop.events, frame)
    other = Dataset(shop.name, events, properties, shop.categories, source=shop.source)
    assert other.fingerprint != shop.fingerprint
    np.testing.assert_array_equal(block(other), block(shop))


def test_recent_counts_are_of_the_newest_events():
    """Of 100 events the newest five are on item 2, and the oldest twenty on item 1."""
    items = [1] * 20 + [3] * 75 + [2] * 5
    events = pd.DataFrame({"user_id": np.arange(100), "item_id": items, "event": "view"})
    events["timestamp"] = pd.date_range("2024-01-01", periods=100, freq="h", tz="UTC")
    log = Dataset("newest", events)
    f = described(log, [(3, "view", "2024-01-04 20:00")], "2024-01-06 10:00", ["item_recent", "item_trend"])
    assert f.item_recent.tolist() == close_to([0, np.log1p(5), 0])
    rate = np.log((np.array([0, 5, 0]) + 1) / (np.array([0, 5, 20]) / 5 + 1))
    assert f.item_trend.tolist() == close_to(rate.tolist())
