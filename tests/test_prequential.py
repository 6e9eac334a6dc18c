"""The replay of a log: nothing from the future, known refits, agreement with one evaluation, cold starts."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from helpers import random_log, untimed_sessions
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab import prequential, splits
from recsys_lab.datasets import Dataset
from recsys_lab.evaluation import evaluate
from recsys_lab.models.neighbours import ItemKNN
from recsys_lab.models.popularity import Popularity, RecentPopularity
from recsys_lab.splits import NoCases

MODELS = {"popularity": Popularity, "item_knn": ItemKNN}


@given(st.integers(0, 50), st.integers(0, 9))
def test_a_model_is_from_the_last_refit_before_its_window(number, every):
    refit = prequential.refit_of(number, every)
    assert refit <= number and (refit == 0 if every == 0 else number - refit < every and refit % every == 0)


def test_one_window_is_the_evaluation_of_its_split():
    log = random_log(3, 900)
    edges = prequential.last_windows(log, 1, 7.0)
    rows = prequential.replay(log, MODELS, edges)
    split = splits.window(log, *edges)
    for name, make in MODELS.items():
        e = evaluate(make(), split, "next_item", exclude="none", ks=(10,))
        mine = rows[rows["model"] == name]
        assert np.array_equal(mine["ndcg"], e.values["ndcg", 10]) and np.array_equal(mine["user_id"], e.user_ids)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5), st.sampled_from([(1,), (1, 2), (2, 0)]))
def test_what_comes_later_changes_nothing_before(seed, windows, every):
    log = random_log(seed, 500)
    edges = prequential.last_windows(log, windows, 4.0)
    cut = edges[max(1, len(edges) // 2)]
    frame = log.events.copy()
    late = log.moments >= cut
    frame.loc[late, "item_id"] = np.random.default_rng(seed).permutation(frame.loc[late, "item_id"].to_numpy(copy=True))
    other = Dataset("other", frame)
    before = [e for e in edges if e <= cut]
    rows = [prequential.replay(x, {"recent": RecentPopularity, **MODELS}, before, every) for x in (log, other)]
    pd.testing.assert_frame_equal(*rows)


def test_never_refitting_is_the_first_model_all_along():
    log = random_log(5, 900)
    edges = prequential.last_windows(log, 4, 3.0)
    rows = prequential.replay(log, {"popularity": Popularity}, edges, (1, 0))
    first = Popularity().fit(log.before(edges[0]))
    for number, (start, stop) in enumerate(pairwise(edges)):
        cases = splits.make_cases(splits.window(log, start, stop), "next_item", exclude="none")
        ndcg, _ = prequential.judge_lists(first, cases, 10)
        mine = rows[(rows["window"] == number) & (rows["every"] == 0)]
        assert np.array_equal(mine["ndcg"], ndcg)


def test_a_log_that_moves_costs_a_model_that_stays():
    """Each day everybody looks at that day's items: a model of yesterday is of little use, one of last week of none."""
    rng, rows = np.random.default_rng(0), []
    for day in range(30):
        users = rng.integers(0, 60, 200)
        items = day + rng.integers(0, 3, 200)
        rows.append(pd.DataFrame({"user_id": users, "item_id": items, "day": day, "at": np.sort(rng.random(200))}))
    frame = pd.concat(rows)
    frame["timestamp"] = pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(frame["day"] + frame["at"], unit="D")
    log = Dataset("moving", frame[["user_id", "item_id", "timestamp"]].assign(event="view"))
    edges = prequential.last_windows(log, 14)
    told = prequential.replay(log, {"recent": lambda: RecentPopularity(half_life=0.02)}, edges, (1, 7, 0))
    cost = prequential.staleness(told).set_index("every")
    assert cost.loc[7, "high"] < 0 and cost.loc[0, "difference"] < cost.loc[7, "difference"]
    by_item = prequential.cold_start(told[told["every"] == 1], "item").set_index("known")["value"]
    assert by_item[0] == 0 and by_item.iloc[-1] > 0.3  # an item that nobody has met is in no list


def test_facts_of_items_are_those_before_the_request():
    log = random_log(8, 300)
    ids = log.events["item_id"].to_numpy()
    count, age = prequential.item_facts(log, ids, log.moments)
    for row in range(len(log)):
        before = (ids == ids[row]) & (log.moments < log.moments[row])
        assert count[row] == before.sum()
        assert np.isnan(age[row]) if not before.any() else age[row] == log.moments[row] - log.moments[before].min()
    unknown = prequential.item_facts(log, np.array([10**6]), log.moments[-1:])
    assert unknown[0][0] == 0 and np.isnan(unknown[1][0])


def test_sessions_without_times_are_replayed_by_rows():
    log = untimed_sessions(1)
    edges = prequential.last_windows(log, 5)
    rows = prequential.replay(log, MODELS, edges, (1, 0))
    assert edges[-1] == len(log) and set(rows["window"]) == set(range(5)) and (rows["history"] > 0).all()


def test_bad_windows_are_refused():
    log = random_log(1, 100)
    with pytest.raises(ValueError, match="too few for 90 windows of 1"):
        prequential.last_windows(log, 90)
    with pytest.raises(ValueError, match="each later than the one before"):
        prequential.replay(log, MODELS, [5, 5])
    with pytest.raises(NoCases, match="no request in any of 1 windows"):
        last = int(log.moments.max())
        prequential.replay(log, MODELS, [last + 1, last + 2])
    with pytest.raises(ValueError, match="of an item or a visitor"):
        prequential.cold_start(pd.DataFrame({"ndcg": []}), "moon")
