"""Intervals that may be looked at daily, and the counts behind them."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recsys_lab.lifecycle.feedback import list_outcomes, team_draft
from recsys_lab.lifecycle.online import (
    FEWEST,
    compare_arms,
    difference_of,
    fixed_width,
    mismatch,
    rate_of,
    sequence_width,
    team_credits,
    team_preference,
    visitor_outcomes,
    visitors_needed,
)

START = pd.Timestamp("2025-11-26", tz="UTC")


def served(rows):
    """Lists with outcomes from (user, arm, hours after the start, clicked) rows."""
    out = pd.DataFrame(rows, columns=["user", "arm", "hour", "click"])
    out["time"] = START + pd.to_timedelta(out.pop("hour"), unit="h")
    return out.assign(user_type="warm", cart=False, purchase=False, revenue=out.click * 2.0)


def test_the_sequence_is_the_published_formula_and_narrowest_where_it_was_asked():
    wrong, n, best = 0.05, 400.0, 1_000.0
    rho2 = (-math.log(wrong**2) + math.log(-math.log(wrong**2)) + 1) / best
    by_hand = 2.0 * math.sqrt(2 * (n * rho2 + 1) / (n**2 * rho2) * math.log(math.sqrt(n * rho2 + 1) / wrong))
    assert sequence_width(n, 2.0, 0.95, best) == pytest.approx(by_hand, rel=1e-12)
    at = [float(sequence_width(1_000, 1.0, 0.95, b)) for b in (100, 500, 1_000, 2_000, 10_000)]
    assert at[2] == min(at)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 10**7), level=st.floats(0.5, 0.999), best=st.floats(10, 1e6))
def test_it_falls_with_more_visitors_grows_with_the_level_and_is_wider_than_for_one_look(n, level, best):
    here = float(sequence_width(n, 1.0, level, best))
    assert here > float(sequence_width(n + max(1, n // 10), 1.0, level, best))
    assert here > float(fixed_width(n, 1.0, level)) and here < float(
        sequence_width(n, 1.0, level + (1 - level) / 2, best)
    )
    assert float(sequence_width(n, 3.0, level, best)) == pytest.approx(3 * here)


@pytest.mark.parametrize("draw", ["even", "skewed"])
def test_it_holds_at_all_looks_as_often_as_claimed(draw):
    rng = np.random.default_rng(7)
    values = rng.random((600, 4_000)) - 0.5 if draw == "even" else rng.exponential(1, (600, 4_000)) - 1
    n = np.arange(1, 4_001)
    mean = np.cumsum(values, 1) / n
    deviation = np.sqrt(np.maximum(np.cumsum(values**2, 1) / n - mean**2, 0))
    looks = slice(200, None)
    missed = (np.abs(mean) > sequence_width(n, deviation, 0.95, 2_000))[:, looks].any(1).mean()
    usual = (np.abs(mean) > fixed_width(n, deviation, 0.95))[:, looks].any(1).mean()
    assert missed <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 600) < usual


def test_rates_are_clicks_over_lists_and_their_error_is_that_of_resampled_visitors():
    rng = np.random.default_rng(1)
    lists = rng.integers(1, 8, 3_000)
    clicks = rng.binomial(lists, rng.beta(2, 8, 3_000))  # visitors differ, so lists are no independent draws
    rate = rate_of(clicks.astype(float), lists.astype(float))
    assert rate.value == pytest.approx(clicks.sum() / lists.sum()) and abs(rate.influence.mean()) < 1e-12
    rows = rng.integers(0, 3_000, (2_000, 3_000))
    drawn = clicks[rows].sum(1) / lists[rows].sum(1)
    assert rate.influence.std() / np.sqrt(3_000) == pytest.approx(drawn.std(), rel=0.06)
    by_list = np.sqrt(rate.value * (1 - rate.value) / lists.sum())
    assert drawn.std() > 1.1 * by_list  # what counting lists would claim


def test_a_difference_is_that_of_two_samples():
    rng = np.random.default_rng(2)
    a, b = rng.normal(1, 1, 900), rng.normal(1.2, 2, 300)
    found = difference_of(rate_of(a, np.ones(900)), rate_of(b, np.ones(300)), 0.95, 1_000)
    error = np.sqrt(a.var() / 900 + b.var() / 300)
    assert found["difference"] == pytest.approx(b.mean() - a.mean())
    assert found["fixed_high"] - found["difference"] == pytest.approx(stats.norm.ppf(0.975) * error, rel=5e-3)
    few = difference_of(rate_of(a[: FEWEST - 1], np.ones(FEWEST - 1)), rate_of(b, np.ones(300)), 0.95, 1_000)
    assert math.isnan(few["low"]) and not math.isnan(few["difference"])


def test_a_visitor_counts_once_with_the_first_hours_and_not_before_they_are_over():
    lists = served(
        [
            ("u", "a", 0, True),
            ("u", "a", 23, True),
            ("u", "a", 25, True),
            ("v", "b", 1, False),
            ("w", "a", 2, True),
            ("w", "b", 3, False),
            ("", "a", 0, True),
            ("x", "b", 30, True),
        ]
    )
    out, left = visitor_outcomes(lists, START + pd.Timedelta(hours=48))
    assert out.values.tolist() == [["u", "a", 2, 2.0, 0.0, 0.0, 4.0], ["v", "b", 1, 0.0, 0.0, 0.0, 0.0]]
    assert left == {"early": 1, "moved": 1}
    later, left = visitor_outcomes(lists)
    assert later.user.tolist() == ["u", "v", "x"] and left == {"early": 0, "moved": 1}
    none, left = visitor_outcomes(lists.iloc[:0])
    assert len(none) == 0 and left == {"early": 0, "moved": 0}


def test_numbers_of_a_visitor_do_not_change_from_look_to_look():
    rng = np.random.default_rng(3)
    rows = [
        (f"u{rng.integers(60)}", "ab"[0], float(h), bool(rng.random() < 0.3)) for h in np.sort(rng.uniform(0, 200, 500))
    ]
    lists, known = served(rows), {}
    for hour in range(24, 240, 12):
        now = START + pd.Timedelta(hours=hour)
        for row in visitor_outcomes(lists[lists.time < now], now)[0].itertuples(index=False):
            assert known.setdefault(row.user, row) == row
    assert len(known) == len({r[0] for r in rows})


def test_arms_are_compared_with_the_base_and_no_other():
    rng = np.random.default_rng(4)
    some = pd.DataFrame({"arm": rng.choice(list("abc"), 6_000), "lists": 1})
    some["click"] = (rng.random(6_000) < some.arm.map({"a": 0.1, "b": 0.1, "c": 0.3})).astype(float)
    told = compare_arms(some, measures=["click"]).set_index("arm")
    assert told.shown.to_dict() == {"a": False, "b": False, "c": True} and math.isnan(told.difference["a"])
    turned = compare_arms(some, base="c", measures=["click"]).set_index("arm")
    assert turned.difference["a"] == pytest.approx(-told.difference["c"])
    with pytest.raises(ValueError, match=r"no visitor was served by the arm 'z'; there are \['a', 'b', 'c'\]"):
        compare_arms(some, base="z", measures=["click"])


@settings(max_examples=50, deadline=None)
@given(a=st.integers(0, 10**6), b=st.integers(0, 10**6), share=st.floats(0.05, 0.95))
def test_a_mismatch_does_not_depend_on_the_order_of_arms(a, b, share):
    one = mismatch({"a": a, "b": b}, {"a": share, "b": 1 - share})
    other = mismatch({"b": b, "a": a}, {"b": 1 - share, "a": share})
    assert one == pytest.approx(other) and 0 < one["p"] <= 1


def test_a_mismatch_is_the_bayes_factor_and_found_where_a_usual_test_finds_it():
    shares = {"a": 0.5, "b": 0.5}
    by_hand = math.exp(
        stats.betabinom.logpmf(70, 120, 50, 50) - stats.binom.logpmf(70, 120, 0.5)
    )  # the same data under a drawn and under the planned share
    assert mismatch({"a": 50, "b": 70}, shares)["evidence"] == pytest.approx(by_hand)
    assert mismatch({"a": 50_000, "b": 51_500}, shares)["p"] < 0.001 < stats.chisquare([50_000, 50_300]).pvalue
    assert mismatch({"a": 50_000, "b": 50_300}, shares)["p"] == 1
    assert mismatch({"a": 100}, {"a": 0.5, "b": 0.5})["p"] < 1e-9  # one arm serves nobody
    for wrong in ({"a": 0.5, "b": 0.6}, {"a": 1.0, "b": 0.0}, {"a": 1.0}):
        with pytest.raises(ValueError, match="must be above 0, add up to 1, and name the arms"):
            mismatch({"a": 5, "b": 5}, wrong)


def test_the_visitors_needed_are_those_that_show_the_lift_as_often_as_said():
    rng, rate, lift = np.random.default_rng(5), 0.2, 0.25
    deviation = math.sqrt(rate * (1 - rate))
    need = visitors_needed(rate, deviation, lift)
    assert need["once"] < need["always"] < 3 * need["once"]
    for kind, width in (("once", fixed_width), ("always", lambda n, d: sequence_width(n, d, 0.95, n))):
        n = need[kind]
        base, other = (rng.binomial(n // 2, p, 4_000) / (n // 2) for p in (rate, rate * (1 + lift)))
        spread = np.sqrt((base * (1 - base) + other * (1 - other)) * 2)
        power = (other - base > width(n, spread)).mean()
        assert 0.74 < power < 0.86, kind
    assert visitors_needed(rate, deviation, -lift) == need
    assert visitors_needed(rate, deviation, lift, share=0.1)["once"] > 2 * need["once"]


def test_credits_go_to_the_team_that_picked_the_item_once():
    lists = pd.DataFrame(
        {
            "request_id": ["r", "s", "t", "plain"],
            "user": ["u", "u", "v", "w"],
            "items": [["1", "2"], ["2", "1"], ["3"], ["1"]],
            "teams": [["a", "b"], ["a", "b"], ["b"], None],
        }
    )
    clicks = [("r", "1"), ("r", "1"), ("s", "1"), ("s", "9"), ("plain", "1"), ("nowhere", "1")]
    events = pd.DataFrame(clicks, columns=["request_id", "item_id"]).assign(event="click")
    found = team_credits(lists, events)
    assert found.values.tolist() == [["u", 1, 1], ["v", 0, 0]] and list(found) == ["user", "a", "b"]
    assert team_credits(lists, events, "purchase")[["a", "b"]].to_numpy().sum() == 0
    told = team_preference(pd.DataFrame({"a": [0] * 200 + [1] * 40, "b": [1] * 200 + [0] * 40}))
    assert (
        told["visitors"] == 240
        and told["preference"] == pytest.approx(160 / 240)
        and 0 < told["low"] < told["high"] <= 1
    )
    assert math.isnan(team_preference(found)["preference"])


@settings(max_examples=60, deadline=None)
@given(
    first=st.lists(st.integers(0, 30), max_size=12),
    second=st.lists(st.integers(0, 30), max_size=12),
    k=st.integers(1, 15),
    draw=st.text(max_size=5),
)
def test_a_draft_takes_turns_and_each_team_its_best_that_is_left(first, second, k, draw):
    picked, teams = team_draft(first, second, k, draw)
    assert len(picked) == len(set(picked)) == len(teams) == min(k, len({*first, *second}))
    assert (picked, teams) == team_draft(first, second, k, draw)
    for n, (item, team) in enumerate(zip(picked, teams, strict=True)):
        mine = first if team == "a" else second
        assert item == next(i for i in mine if i not in picked[:n])
    turns = len(picked) // 2 if len({*first} - {*second}) >= k and len({*second} - {*first}) >= k else 0
    for n in range(turns):
        assert set(teams[2 * n : 2 * n + 2]) == {"a", "b"}


def test_equal_models_are_preferred_equally():
    rng, wins = np.random.default_rng(6), []
    for n in range(3_000):
        picked, teams = team_draft([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], 4, str(n))
        clicked = rng.random(4) < [0.5, 0.3, 0.2, 0.1]
        wins.append(sum((t == "b") - (t == "a") for t, c in zip(teams, clicked, strict=True) if c))
    sign = np.sign(wins)
    assert abs(sign.mean()) < 4 * sign.std() / np.sqrt(len(sign)) and picked == [1, 2, 3, 4]


def test_outcomes_flow_from_lists_and_events_to_a_comparison():
    rng = np.random.default_rng(8)
    lists = pd.DataFrame(
        {"request_id": [f"r{n}" for n in range(400)], "user": [f"u{n}" for n in range(400)], "user_type": "warm"}
    )
    lists = lists.assign(arm=np.where(np.arange(400) % 2, "a", "b"), time=START, items=[["1"]] * 400)
    bought = lists[rng.random(400) < 0.4]
    events = bought[["request_id"]].assign(
        item_id="1", event="purchase", price=3.0, quantity=1, time=START + pd.Timedelta("1h")
    )
    told = compare_arms(visitor_outcomes(list_outcomes(lists, events)[0])[0])
    by = told[told.measure == "revenue"].set_index("arm").rate
    assert by.mean() == pytest.approx(3 * len(bought) / 400)
