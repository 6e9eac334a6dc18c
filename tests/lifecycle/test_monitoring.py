"""A monitor finds what changed, and is quiet where nothing did."""

import json
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from recsys_lab import datasets
from recsys_lab.files import UserError
from recsys_lab.lifecycle import monitoring
from recsys_lab.lifecycle.monitoring import (
    DAY_MS,
    EVENT_FIGURES,
    Monitor,
    alarms,
    count_days,
    describe_events,
    describe_lists,
    distance,
    learn_binning,
    met_before,
    upper_bound,
    watch,
    window_sums,
    write_drift,
    write_report,
)

needs_evidently = pytest.mark.skipif(find_spec("evidently") is None, reason="needs the extra lifecycle")
FIGURES = {"kind": "categories", "size": "numbers"}


def weeks(seed, days=120, a_day=300, shares=(0.7, 0.2, 0.1), first=100):
    rng = np.random.default_rng(seed)
    n = rng.poisson(a_day, days)
    day = np.repeat(first + np.arange(days), n)
    return pd.DataFrame(
        {"day": day, "kind": rng.choice(list("abc"), len(day), p=shares), "size": rng.lognormal(0, 1, len(day))}
    )


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), max_size=40),
    days=st.integers(1, 50),
)
def test_what_was_met_before_is_counted_day_by_day(rows, days):
    day, code = (np.array([r[i] for r in rows], np.int64) for i in (0, 1))
    by_hand = [sum(c == code[n] and day[n] - days <= d < day[n] for d, c in rows) for n in range(len(rows))]
    assert met_before(day, code, days).tolist() == by_hand


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=12))
def test_the_distance_is_scipys_and_is_one(pairs):
    one, other = np.array(pairs).T
    found = float(distance(one, other))
    if one.sum() and other.sum():
        assert found == pytest.approx(jensenshannon(one, other, base=2), abs=1e-7)
    assert 0 <= found <= 1 + 1e-9 and found == pytest.approx(float(distance(other, one)))
    assert float(distance(one, 3 * one)) == pytest.approx(0, abs=1e-7)


@needs_evidently
def test_distances_agree_with_evidently():
    past, now = weeks(1), weeks(2, days=7, shares=(0.5, 0.3, 0.2))
    counts = [frame["kind"].value_counts().reindex(list("abc")).to_numpy() for frame in (past, now)]
    with monitoring.evidently_imported() as e:
        from evidently.metrics import ValueDrift

        words = {"data_definition": e.DataDefinition(categorical_columns=["kind"])}
        told = e.Report([ValueDrift(column="kind", method="jensenshannon")]).run(
            *(e.Dataset.from_pandas(frame[["kind"]], **words) for frame in (now, past))
        )
    natural = float(json.loads(told.json())["metrics"][0]["value"])  # in nats, where ours is in bits
    assert natural == pytest.approx(float(distance(*counts)) * np.sqrt(np.log(2)), rel=1e-6)


def test_events_are_described_against_the_weeks_before(shop):
    told = describe_events(shop)
    first = shop.moments.min() // DAY_MS
    assert told.day.min() >= first + 28 and set(told) == {"day", *EVENT_FIGURES}
    days = shop.moments // DAY_MS
    row = len(shop) - 1
    mine = (shop.user_codes == shop.user_codes[row]) & (days < days[row]) & (days >= days[row] - 28)
    assert told.visitor.iloc[-1] == ("known" if mine.any() else "new")
    same = (shop.item_codes == shop.item_codes[row]) & (days < days[row]) & (days >= days[row] - 28)
    assert told.popularity.iloc[-1] == same.sum() and told.event.iloc[-1] == shop.events["event"].iloc[-1]
    active = (shop.user_codes == shop.user_codes[row]) & (days == days[row])
    assert told.activity.iloc[-1] == active.sum()
    assert told.price.notna().mean() > 0.9 and told.category.nunique() > 2


def test_a_log_that_cannot_be_watched_is_refused_by_name(shop):
    untimed = datasets.Dataset.from_frame(pd.DataFrame({"user_id": [1, 1], "item_id": [1, 2]}), name="untimed")
    with pytest.raises(UserError, match="untimed has no times"):
        describe_events(untimed)
    short = shop.where(shop.moments < shop.moments.min() + 9 * DAY_MS)
    with pytest.raises(UserError, match="days; a monitor needs more than 28"):
        describe_events(short)
    with pytest.raises(UserError, match="has 20 days; a window of 7 days needs at least 28"):
        Monitor(weeks(1, days=20), FIGURES)
    with pytest.raises(UserError, match="has 0 days"):
        Monitor(weeks(1).iloc[:0], FIGURES)


def test_lists_are_described_and_clicks_only_where_they_would_have_been_told():
    now = pd.Timestamp("2025-11-26 12:00", tz="UTC")
    lists = pd.DataFrame(
        {"user_type": ["warm", "cold", "", "warm"], "model": "als", "click": [True, False, True, True]}
    )
    lists["time"] = now - pd.to_timedelta([30, 25, 30, 2], unit="h")
    lists = lists.assign(purchase=False, items=[["1", "2"], [], ["9"], ["3"]], scores=[[0.5, 0.1], [], [1.0], None])
    told = describe_lists(lists, now)
    assert told.click.tolist()[:2] == ["yes", "no"] and told.click.isna().tolist() == [False, False, True]
    assert told["first"].tolist() == ["1", "none", "3"] and told.score.isna().tolist() == [False, True, True]
    assert told.exposure.tolist()[2] == 1.0 and np.isnan(told.exposure[1]) and told.latency.isna().all()
    assert describe_lists(lists.assign(ms=[3.0, 4.0, 5.0, 6.0]), now).latency.tolist() == [3.0, 4.0, 6.0]
    same = lists.assign(time=now, items=[["1", "2"], ["1"], ["9"], ["2", "3"]])
    assert describe_lists(same, now).exposure.round(3).tolist() == [0.667, 0.667, 0.5]
    assert told.day.tolist() == (lists.time[lists.user_type != ""].astype("int64") // DAY_MS).tolist()


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=60))
def test_every_value_has_one_place(values):
    series = pd.Series(values, dtype=float)
    binning = learn_binning(series, "numbers")
    counts = count_days(pd.DataFrame({"day": 3, "x": series}), {"x": binning}, np.array([3]))["x"]
    assert (
        counts.sum() == len(values) and counts[0, -1] == series.isna().sum() and counts.shape[1] == len(binning.labels)
    )


def test_rare_categories_are_counted_together_and_days_that_are_not_asked_are_not():
    frame = pd.DataFrame({"day": [1] * 50 + [2], "x": [str(n % 40) for n in range(50)] + ["new"]})
    binning = learn_binning(frame.x[:50], "categories")
    assert len(binning.labels) == 32
    counts = count_days(frame, {"x": binning}, np.array([1, 2]))["x"]
    assert counts.sum(1).tolist() == [50, 1] and counts[1, -2] == 1  # other
    assert count_days(frame, {"x": binning}, np.array([2]))["x"].sum() == 1


def test_sums_of_windows_are_those_of_their_days():
    counts = np.random.default_rng(0).integers(0, 9, (20, 3))
    assert window_sums(counts, 7).tolist() == [counts[n : n + 7].sum(0).tolist() for n in range(14)]


def test_a_threshold_is_exceeded_as_rarely_as_said():
    rng, over = np.random.default_rng(1), []
    for _ in range(4_000):
        past = np.abs(rng.normal(size=12))
        over.append(np.abs(rng.normal()) > upper_bound(past, 1, 12, 0.05))
    assert abs(np.mean(over) - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 4_000)
    assert upper_bound(np.zeros(5), 3, 5, 0.01) == 0


@pytest.mark.parametrize(
    ("fault", "by"),
    [
        (lambda f: f[(f.kind != "c")], "kind"),
        (lambda f: f.assign(size=f["size"] * 3), "size"),
        (lambda f: f.assign(size=f["size"].mask(np.arange(len(f)) % 3 == 0)), "size"),
        (lambda f: f.assign(kind=f.kind.replace("a", "z")), "kind"),
        (lambda f: f.iloc[::3], "traffic"),
        (lambda f: pd.concat([f] * 2), "traffic"),
    ],
)
def test_a_fault_is_found_by_its_figure_and_by_no_other(fault, by):
    monitor = Monitor(weeks(3), FIGURES)
    now = weeks(4, days=7, first=220)
    assert not monitor.check(now).alarm.any()
    table = monitor.check(fault(now)).set_index("figure")
    assert table.alarm[table.alarm].index.tolist() in ([by], [by, "traffic"])
    assert (table.distance > table.threshold).equals(table.alarm) and (" -> " in table.change[by])


def test_a_day_without_events_is_an_alarm_and_no_error():
    table = Monitor(weeks(3), FIGURES).check(weeks(4).iloc[:0], np.arange(220, 227)).set_index("figure")
    assert table.alarm["traffic"] and not table.alarm["kind"] and table.change["kind"] == "nothing was told"


def test_little_traffic_widens_the_threshold():
    monitor = Monitor(weeks(3), FIGURES)
    whole, few = (
        monitor.check(weeks(5, days=7, first=220, a_day=n)).set_index("figure").threshold["kind"] for n in (300, 10)
    )
    assert few > 4 * whole or whole == monitoring.OTHERS_FLOOR


def test_a_quiet_time_has_as_few_alarms_as_said_and_days_of_one_alarm_count_once():
    found = [alarms(watch(weeks(seed, days=300), FIGURES)) for seed in range(8)]
    assert sum(map(len, found)) <= 8 * 200 / 365 + 4 * np.sqrt(8 * 200 / 365)
    frame = weeks(9, days=200)
    late = frame.day >= 260
    told = alarms(watch(frame.assign(kind=frame.kind.mask(late, "a")), FIGURES, renewed=100))
    assert told.figure.tolist() == ["kind"] and 260 <= told["first"][0] <= 263
    assert len(watch(weeks(1, days=50), FIGURES)) == 0


def test_what_is_watched_daily_is_what_a_check_of_that_window_says():
    frame = weeks(10, days=130)
    daily = watch(frame, FIGURES)
    monitor = Monitor(frame[frame.day < 184], FIGURES)
    day = int(daily.day.min())
    alone = monitor.check(frame, np.arange(day - 6, day + 1))
    pd.testing.assert_frame_equal(daily[daily.day == day].drop(columns="day").reset_index(drop=True), alone)


@needs_evidently
def test_the_table_is_written_for_programs_and_the_page_for_people(tmp_path):
    past, now = weeks(1), weeks(2, days=7, first=220)
    table = Monitor(past, FIGURES).check(now)
    told = json.loads(write_drift(tmp_path, table, {"days": 7}).read_text())
    assert [row["figure"] for row in told["figures"]] == ["kind", "size", "traffic"] and told["days"] == 7
    write_report(tmp_path / "drift.html", past, now, FIGURES)
    text = (tmp_path / "drift.html").read_text(encoding="utf-8")
    assert "<html" in text and "kind" in text and not list(tmp_path.glob("*.part"))
