"""A split loses nothing and lets nothing through."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers import arrived_split, random_log, real_data, untimed_sessions
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab import datasets, splits


def check_parts(log, split):
    assert sum(len(getattr(split, p)) for p in splits.PARTS) == len(log)
    assert len(split.known("test")) == len(split.train) + len(split.valid)
    assert split.known("valid") is split.train
    rules = split.funnel().set_index(["part", "rule"]).events
    for part in ("valid", "test"):
        for a, b in (("users with a history", "users without"), ("items seen before", "items never seen")):
            assert rules[part, a] + rules[part, b] == rules[part, "all"] == len(split.judged(part))
        bought = (split.judged(part).events.event == "transaction").sum()
        assert rules[part, "new purchases (target: purchase)"] + rules[part, "bought again (set apart)"] == bought


@given(st.integers(0, 1000), st.floats(0.05, 0.4), st.floats(0.05, 0.4), st.booleans())
@settings(max_examples=25, deadline=None)
@pytest.mark.slow
def test_by_time(seed, test, valid, text):
    log = random_log(seed, n=200, text=text)
    split = splits.temporal(log, test, valid)
    check_parts(log, split)
    a, b = split.cutoffs
    assert (
        split.train.moments.max()
        < a
        <= split.valid.moments.min()
        <= split.valid.moments.max()
        < b
        <= split.test.moments.min()
    )
    assert abs(len(split.test) / len(log) - test) <= 2 / len(log)
    whole = split.through("test")
    pd.testing.assert_frame_equal(whole.events, log.events)


@given(st.integers(0, 1000), st.floats(0.05, 0.4), st.floats(0.05, 0.4))
@settings(max_examples=25, deadline=None)
def test_by_order_keeps_sessions_whole(seed, test, valid):
    log = untimed_sessions(seed, sessions=60)
    split = splits.sequence(log, test, valid)
    check_parts(log, split)
    parts = [set(getattr(split, p).users) for p in splits.PARTS]
    assert not parts[0] & parts[1] and not parts[1] & parts[2] and not parts[0] & parts[2]
    assert max(parts[0]) < min(parts[1]) and max(parts[1]) < min(parts[2])
    assert (split.through("test").moments == log.moments).all()


@given(st.integers(0, 1000), st.floats(0.34, 0.6))
@settings(max_examples=25, deadline=None)
@pytest.mark.slow
def test_as_given(seed, valid):
    log = arrived_split(seed)
    split = splits.given(log, valid, seed)
    check_parts(log, split)
    assert set(split.test.events.part) == {"test"} and set(split.valid.events.part) == {"train"}
    assert set(split.train.users) == set(split.known("test").users)  # carving leaves every user something
    again = splits.given(log, valid, seed)
    assert split.valid.fingerprint == again.valid.fingerprint


def test_a_valid_share_before_a_test_moment_ignores_what_follows():
    log = random_log(5)
    at = int(np.median(log.moments))
    whole, cut = splits.temporal(log, test=at), splits.temporal(log.before(at), test=at)
    assert whole.cutoffs == cut.cutoffs and len(cut.test) == 0
    assert whole.train.fingerprint == cut.train.fingerprint


def test_properties_end_at_the_cutoff(shop):
    split = splits.make(shop)
    for part in ("valid", "test"):
        known = split.known(part).properties
        assert (known.timestamp < pd.Timestamp(split.cutoff(part), unit="ms", tz="UTC")).all() and len(known)


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="has no times"):
        splits.temporal(untimed_sessions(0))
    with pytest.raises(ValueError, match="split it by time"):
        splits.sequence(random_log(0))
    with pytest.raises(ValueError, match="no column 'part'"):
        splits.given(random_log(0))
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        splits.temporal(random_log(0), test=1.5)
    with pytest.raises(ValueError, match="no event of random lies before the cutoff"):
        splits.temporal(random_log(0), test="2020-01-02", valid="2020-01-01")
    with pytest.raises(ValueError, match="part must be valid or test"):
        splits.make(random_log(0)).judged("train")


def test_the_last_five_percent_of_real_sessions():
    split = splits.make(real_data("retailrocket-sessions"))
    assert len(split.test.users) == 6309 and len(split.test) - 6309 == 25_896


def test_a_session_that_goes_on_after_the_cut_tells_nothing_before_it():
    """Rows of one session need not stand together; the later ones must not reach the train part."""
    log = untimed_sessions(1, sessions=40)
    events = log.events
    events.loc[len(events) - 1, "user_id"] = 0
    split = splits.sequence(datasets.Dataset("straddling", events, has_times=False), 0.1, 0.1)
    assert split.known("test").moments.max() < split.cutoff("test") == split.test.moments.min()
    check_parts(log, split)


def test_a_property_of_the_cutoff_itself_is_not_known():
    moment = pd.Timestamp("2024-01-02", tz="UTC")
    near = pd.Timedelta(milliseconds=1)
    events = pd.DataFrame({"user_id": 1, "item_id": [1, 1, 1], "event": "view"})
    events["timestamp"] = [moment - near, moment, moment + near]
    properties = pd.DataFrame({"item_id": 1, "property": "price", "value": ["1", "2", "3"]})
    properties["timestamp"] = events["timestamp"].to_numpy()
    known = datasets.Dataset("edge", events, properties).before(int(moment.value // 1_000_000))
    assert known.properties["value"].tolist() == ["1"] and len(known) == 1


def test_the_last_rows_of_each_user_are_carved():
    rows = [(user, item, "train") for item in range(10) for user in (1, 2)] + [(1, 99, "test"), (2, 99, "test")]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "part"]).assign(event="view")
    events["part"] = pd.Categorical(events["part"], ["train", "test"])
    split = splits.given(datasets.Dataset("arrived", events, has_times=False), 0.2, last=True)
    assert split.valid.events.groupby("user_id").item_id.apply(list).tolist() == [[8, 9], [8, 9]]


def arrived(lengths: list[int], share: float = 0.2) -> datasets.Dataset:
    """A log that arrived split, with so many train rows of each user and a share of all rows in test."""
    rows = [(user, item, "train") for user, n in enumerate(lengths) for item in range(n)]
    rows += [(n % len(lengths), 10_000 + n, "test") for n in range(round(len(rows) * share / (1 - share)))]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "part"]).assign(event="view")
    return datasets.Dataset(
        "arrived", events.assign(part=pd.Categorical(events["part"], ["train", "test"])), has_times=False
    )


@given(st.lists(st.integers(2, 30), min_size=30, max_size=60), st.floats(0.05, 0.4), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_carved_share_asks_users_with_few_rows_too(lengths, share, seed):
    """Each user gives the whole number of rows below or above the share, never the last one; over all users the share is kept."""
    split = splits.given(arrived(lengths), share, seed)
    sizes = np.array(lengths)
    carved = split.valid.events["user_id"].value_counts().reindex(range(len(sizes)), fill_value=0).to_numpy()
    assert (carved >= np.minimum(np.floor(sizes * share), sizes - 1)).all() and (
        carved <= np.minimum(np.ceil(sizes * share), sizes - 1)
    ).all()
    assert len(split.train) + len(split.valid) == sizes.sum()


def test_users_with_five_rows_are_asked_as_often_as_their_share_says():
    split = splits.given(arrived([5] * 2000), 0.1)
    assert abs(len(split.valid) - 1000) < 5 * (2000 * 0.25) ** 0.5


@pytest.mark.parametrize(("share", "carved"), [(0.02, 0.05), (0.12, 0.12), (0.5, 0.2)])
def test_as_much_is_carved_as_test_has(share, carved):
    split = splits.make(arrived([20] * 300, share))
    assert len(split.valid) / 6000 == pytest.approx(carved, abs=0.01)


def test_only_a_log_that_is_said_to_be_in_order_has_its_last_rows_carved():
    assert splits.make(arrived([10] * 50)).valid.events["item_id"].min() < 5
    log = arrived([10] * 50)
    log.ordered = True
    assert splits.make(log).valid.events["item_id"].min() >= 7


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(1, 60), st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_sample_of_visitors_is_bounded_nested_and_keeps_their_cases_whole(seed, few, many, text):
    log, (few, many) = random_log(seed, n=300, text=text), sorted((few, many))
    every = splits.make_cases(splits.make(log, 0.3, 0.3), "next_item")
    small, large = (splits.make_cases(splits.make(log, 0.3, 0.3, seed, judged=n), "next_item") for n in (few, many))
    sampled = [set(cases.user_ids.tolist()) for cases in (small, large, every)]
    assert sampled[0] <= sampled[1] <= sampled[2] and len(sampled[0]) <= few and len(sampled[1]) <= many
    assert small.visitors == every.visitors  # how many there are does not depend on how many are asked
    inside = np.isin(every.user_ids, list(sampled[0]))
    assert small.at.tolist() == every.at[inside].tolist()
    again = large.first_visitors(few, seed)
    assert again.user_ids.tolist() == small.user_ids.tolist() and again.relevant.tolist() == small.relevant.tolist()


def test_a_sample_is_the_same_for_every_part_and_question(shop):
    split = splits.make(shop, judged=100, seed=3)
    drawn = {}
    for part in ("valid", "test"):
        for question in (("next_item", "any", "none"), ("next_period", "any", "seen")):
            cases = splits.make_cases(split, *question[:2], part, question[2])
            every = splits.make_cases(splits.make(shop), *question[:2], part, question[2])
            drawn[part, question[0]] = (set(cases.user_ids), set(every.user_ids))
    for (one, all_one), (two, all_two) in ((drawn["test", "next_item"], drawn["test", "next_period"]),):
        both = all_one & all_two
        assert len((one & both) ^ (two & both)) <= 2  # but for those at the edge of the sample of either
    assert len(drawn["valid", "next_item"][0]) <= 100


def test_a_sample_estimates_the_whole(shop):
    from recsys_lab.evaluation import evaluate
    from recsys_lab.models.popularity import Revisits

    whole = evaluate(Revisits(), splits.make(shop), "next_item").mean("ndcg", 10)
    parts = [
        evaluate(Revisits(), splits.make(shop, judged=150, seed=s), "next_item").mean("ndcg", 10) for s in range(12)
    ]
    error = np.std(parts, ddof=1) / np.sqrt(len(parts))
    assert abs(np.mean(parts) - whole) < 4 * error and np.std(parts) > 0


@pytest.mark.parametrize("judged", [-1, 2.5, True, "all"])
def test_a_wrong_number_of_visitors_is_refused(shop, judged):
    with pytest.raises(ValueError, match="judged must be a number of visitors"):
        splits.make(shop, judged=judged)


def test_what_leads_through_a_part_is_not_copied_and_the_same(shop):
    """Periods of a log are views of it: a log of millions of events was held three times by each chapter."""
    for log in (shop, shop.with_items(pd.Index(np.union1d(shop.items, [10**9])))):
        split = splits.make(log)
        for part in splits.PARTS[1:]:
            view, copied = (
                replace(one, train=one.train.before(None), known_for_test=one.known_for_test.before(None)).through(part)
                for one in (split, replace(split, whole=None))
            )
            assert view.fingerprint == copied.fingerprint and view.items.equals(copied.items)
            shared = [
                np.shares_memory(t.events["user_id"].to_numpy(), log.events["user_id"].to_numpy())
                for t in (view, copied)
            ]
            assert shared == [True, False]
