"""What exploration counts, on logs small enough to count by hand, and on the real ones."""

import numpy as np
import pandas as pd
import pytest
from helpers import random_log, real_data, untimed_sessions
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab import datasets, exploration, histories

MINUTE = 60_000


def log_of(rows):
    """A log from (user, item, event, minutes since 2024-01-01)."""
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "event", "minute"])
    start = pd.Timestamp("2024-01-01", tz="UTC")
    return datasets.Dataset(
        "by hand", frame.assign(timestamp=start + pd.to_timedelta(frame.minute, unit="min")).drop(columns="minute")
    )


SHOP = [
    (1, 10, "view", 0),
    (1, 10, "view", 1),
    (1, 10, "addtocart", 3),
    (1, 10, "transaction", 13),
    (1, 11, "view", 100),
    (2, 10, "view", 5),
    (2, 12, "transaction", 6),
    (3, 11, "view", 2000),
]


def test_the_funnel_counts_pairs():
    log = log_of(SHOP)
    steps = exploration.funnel(log).set_index("step")
    assert steps.loc["view to addtocart", ["pairs", "went on"]].tolist() == [4, 1]
    assert steps.loc["addtocart to transaction", "rate"] == 1.0
    assert steps.loc["view to transaction", "went on"] == 1  # user 2 bought item 12 unseen
    counts = exploration.event_counts(log)
    assert counts.loc["view"].tolist() == [5, 3, 2, 4] and counts.loc["transaction"].tolist() == [2, 2, 2, 2]


def test_wilson_worked_by_hand():
    """15 of 150: centre (.1 + z^2/300) / (1 + z^2/150), half width z sqrt(.09/150 + z^2/90000) / (1 + z^2/150)."""
    assert exploration.wilson(15, 150) == pytest.approx((0.06155, 0.15844), abs=1e-5)
    assert np.isnan(exploration.wilson(0, 0)).all()


def test_sessions_are_cut_by_silence():
    log = log_of(SHOP)
    assert sorted(exploration.sessions(log, 30).lengths) == [1, 1, 2, 4]
    assert sorted(exploration.sessions(log, 90).lengths) == [1, 2, 5]
    assert sorted(exploration.sessions(log, 30).gaps // MINUTE) == [1, 1, 2, 10, 87]
    untimed = untimed_sessions(0)
    assert len(exploration.sessions(untimed).lengths) == len(untimed.users)


def test_time_to_decide_is_from_the_first_view():
    log = log_of(SHOP)
    assert exploration.delays(log, "view", "addtocart").tolist() == [3 * MINUTE]
    assert exploration.delays(log, "addtocart", "transaction").tolist() == [10 * MINUTE]
    assert exploration.delays(log, "transaction", "addtocart").tolist() == []


def test_repeats():
    again = exploration.repeats(log_of(SHOP))
    assert again["next event on the same item"] == 3 / 5
    assert again["event on an item met before"] == 3 / 5
    assert again["purchase of an item viewed before"] == 1 / 2
    assert again["purchase of an item purchased before"] == 0


def test_cold_start_counts_who_is_new_after_the_cutoff():
    rows = [(1, 1, "view", 0), (1, 2, "view", 60), (2, 1, "view", 61), (3, 9, "view", 119)]
    cold = exploration.cold_start(log_of(rows), 1)  # the cutoff is at minute 59.5
    assert cold[["users", "new users", "items", "new items"]].to_numpy().tolist() == [[3, 2 / 3, 3, 2 / 3]]
    assert cold["events of new users"].tolist() == [2 / 3]


@given(st.integers(0, 5000), st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_cold_start_agrees_with_counting(seed, cutoffs):
    log = random_log(seed, n=200)
    table = exploration.cold_start(log, cutoffs)
    for row, stop in zip(table.itertuples(), [*table.cutoff[1:], histories.FOREVER], strict=True):
        before, after = log.before(int(row.cutoff)), log.between(int(row.cutoff), int(stop))
        assert row.users == len(after.users)
        assert row[3] == pytest.approx((~after.users.isin(before.users)).mean())


def test_tails_and_survivors():
    log = random_log(3)
    tail, left = exploration.tails(log), exploration.survivors(log, (1, 2, 5))
    counts = np.bincount(log.item_codes)
    assert tail.loc["items", "most events"] == counts.max()
    pairs = log.events.drop_duplicates(["user_id", "item_id"])
    assert left.loc[5, "users"] == (pairs.user_id.value_counts() >= 5).sum()
    spread = np.abs(counts[:, None] - counts).mean() / (2 * counts.mean())  # Gini as the mean absolute difference
    assert tail.loc["items", "Gini"] == pytest.approx(spread)


def test_activity_is_an_average_over_days():
    rows = [(1, 1, "view", 60 * 24 * day + 60 * 9) for day in range(14)]
    table = exploration.activity(log_of(rows))
    assert table.loc["Mon", 9] == 1.0 and table.to_numpy().sum() == 7.0
    assert len(exploration.daily(log_of([(1, 1, "view", 0), (1, 1, "view", 3 * 1440)]))) == 4  # empty days are days


def test_robots_are_suspected_and_people_are_not():
    rng = np.random.default_rng(0)
    people = [(u, int(i), "view", m) for u in range(50) for m, i in enumerate(rng.integers(0, 20, 5))]
    crawler = [(100, i, "view", i / 600) for i in range(400)]  # ten events a minute... a second
    restless = [(101, 1, "view", 60 * h) for h in range(24)]
    blind = [(102, 1, "transaction", 7)]
    pace = exploration.user_pace(log_of(people + crawler + restless + blind))
    marks = exploration.suspected_robots(pace, busy_day=300)
    assert set(pace.index[marks.any(axis=1)]) == {100, 101, 102}
    assert pace.loc[100, "median gap"] == pytest.approx(0.1) and pace.loc[101, "hours of a day"] == 24


def found(table, words):
    return table[table.what.str.contains(words, regex=False)].iloc[0]


def test_quality_finds_what_was_put_in():
    rows = SHOP * 30 + [(9, 9, "wishlist", 1), (9, 9, "view", 60 * 24 * 9)]
    table = exploration.quality(log_of(rows), suspected=2)
    assert found(table, "kinds of event").number == 1
    assert found(table, "days without").number == 7
    assert found(table, "transaction and no view before").number == 1
    assert found(table, "robots").number == 2
    assert found(table, "same user, item, event and time").number == 8 * 29
    assert table.share.between(0, 1).all()


def test_quality_on_the_real_logs():
    sample = exploration.quality(real_data("retailrocket-sample"))
    duplicates = found(sample, "exact duplicate rows removed")
    assert duplicates.number == 3 and "reader" in duplicates["what the lab does"]
    assert found(sample, "users with one item only").severity == "high"
    buyers = exploration.quality(real_data("retailrocket-buyers"))
    assert found(buyers, "one view a pair").severity == "high"  # whoever made it kept one row a pair and kind
    sessions = exploration.quality(real_data("retailrocket-sessions"))
    assert found(sessions, "no times").number == 685_984


def test_real_figures_of_the_sample():
    log = real_data("retailrocket-sample")
    assert exploration.cold_start(log).iloc[-1]["new users"] > 0.8
    assert exploration.survivors(log).loc[1, "users"] == 5000
