"""Off-policy estimates: agreement with Open Bandit Pipeline, known answers, coverage, refusals."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st
from obp_reference import ACTIONS, PLACE, PLACES, ROUNDS, logs

from recsys_lab import ope
from recsys_lab.files import DataError
from recsys_lab.protocols import Shelves, Stock, answer_lists, form_wishes, make_world, pull_of, streams
from recsys_lab.simulator import Truth, grow_tree, invite_visitors, leaves_of, stock_shop

REFERENCE = json.loads(PLACE.read_text())


def logged(items, propensities, rewards):
    """Lists of visitors who come once."""
    shape = (len(rewards), -1)
    arrays = (np.reshape(a, shape) for a in (items, propensities, np.asarray(rewards, float)))
    return ope.LoggedLists(np.arange(len(rewards)), *arrays)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_open_bandit_pipeline(seed):
    log, wanted = logs(seed), REFERENCE[str(seed)]
    single = logged(log["action"], log["pscore"], log["reward"])
    row = np.arange(ROUNDS)
    weights = ope.importance_weights(log["target"][row, log["action"]][:, None], single.propensities)
    guessed, expected = log["guess"][row, log["action"]][:, None], (log["guess"] * log["target"]).sum(1)
    found = {
        method: ope.estimate_value(single, weights, method, guessed=guessed, expected=expected, check=False).value
        for method in ("ips", "snips", "dr", "dm")
    }
    even = logged(log["even_action"], np.full(ROUNDS, 1 / ACTIONS), log["reward"])
    same = ope.same_places(log["choice"][:, None], even)
    found["replay"] = ope.estimate_value(even, same, "replay", check=False).value
    lists = logged(np.zeros((ROUNDS, PLACES), int), log["slate_pscore"], log["slate_reward"])
    for form in ("independent", "standard", "cascade"):
        w = ope.importance_weights(log["slate_target"], lists.propensities, form)
        found[form] = ope.estimate_value(lists, w, "ips", check=False).value
    assert found == pytest.approx(wanted, rel=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_the_logging_policy_itself_is_worth_what_it_earned(seed, places):
    rng = np.random.default_rng(seed)
    shape = (60, places)
    lists = logged(rng.integers(0, 9, shape), rng.uniform(0.1, 1, shape), rng.random(shape))
    for form in ("independent", "standard", "cascade"):
        weights = ope.importance_weights(lists.propensities, lists.propensities, form)
        for method in ("ips", "snips"):
            found = ope.estimate_value(lists, weights, method)
            assert found.value == pytest.approx(lists.rewards.sum(1).mean())
            assert found.effective == pytest.approx(60) and found.mean_weight == pytest.approx(1)


@given(st.integers(0, 2**32 - 1))
def test_snips_does_not_change_when_rewards_are_shifted_and_ips_may(seed):
    rng = np.random.default_rng(seed)
    lists = logged(rng.integers(0, 5, 80), rng.uniform(0.2, 1, 80), rng.random(80))
    weights = rng.uniform(0.5, 2, (80, 1))
    up = ope.LoggedLists(lists.visitors, lists.items, lists.propensities, lists.rewards + 1)
    first, second = (ope.estimate_value(x, weights, "snips").value for x in (lists, up))
    assert second == pytest.approx(first + 1)


def test_a_visitor_with_many_lists_is_no_more_evidence_than_one():
    rng = np.random.default_rng(0)
    lists = logged(np.zeros(200, int), np.full(200, 0.5), rng.random(200))
    weights = np.ones((200, 1))
    alone = ope.estimate_value(lists, weights, "ips")
    same = ope.LoggedLists(
        *(
            np.tile(a, (10, 1)[: a.ndim]) if a.ndim > 1 else np.tile(a, 10)
            for a in (lists.visitors, lists.items, lists.propensities, lists.rewards)
        )
    )
    again = ope.estimate_value(same, np.ones((2000, 1)), "ips")
    assert (again.value, again.low, again.high) == pytest.approx((alone.value, alone.low, alone.high))


def test_examination_counts_an_item_wherever_it_stood():
    look = np.array([1.0, 0.5])
    lists = logged([[1, 2], [2, 1]], np.full((2, 2), 0.25), [[1, 0], [0, 1]])
    weights = ope.examination_weights(np.array([[1, 9], [1, 9]]), lists, look)
    assert weights.tolist() == [[1 / (0.25 * 1.5), 0], [0, 1 / (0.25 * 1.5)]]


def test_what_cannot_be_said_is_refused_by_name():
    lists = logged(np.zeros(100, int), np.full(100, 0.5), np.ones(100))
    with pytest.raises(ope.NoOverlap, match=r"only 0 effective visitors of 100 .*30 are needed"):
        ope.estimate_value(lists, np.zeros((100, 1)))
    with pytest.raises(ope.NoOverlap, match=r"could have shown 50\.0%"):
        ope.require_coverage(lists, np.full((100, 1), 0.5))
    with pytest.raises(ValueError, match="dr needs guessed"):
        ope.estimate_value(lists, np.ones((100, 1)), "dr")
    with pytest.raises(ValueError, match="method must be one of ips, snips"):
        ope.estimate_value(lists, np.ones((100, 1)), "magic")
    with pytest.raises(ValueError, match="weights must have the shape"):
        ope.estimate_value(lists, np.ones((100, 2)))
    uneven = logged([0, 1], [0.5, 0.2], [1, 0])
    with pytest.raises(ValueError, match=r"propensities from 0\.2 to 0\.5: use ips"):
        ope.estimate_value(uneven, np.ones((2, 1)), "replay")
    with pytest.raises(DataError, match="list 1, place 1: nan is no reward"):
        logged([0, 1], [0.5, 0.2], [1, np.nan])
    with pytest.raises(ValueError, match="form must be one of"):
        ope.importance_weights(np.ones((2, 1)), np.ones((2, 1)), "other")


def test_lists_of_a_served_log_end_where_they_end():
    time = pd.to_datetime([0, 0], unit="ms", utc=True)
    lists = pd.DataFrame(
        {
            "request_id": ["r", "s"],
            "time": time,
            "user": ["u", "v"],
            "items": [["a", "b"], ["c"]],
            "chances": [[0.5, 0.5], [0.25]],
        }
    )
    late = pd.DataFrame(
        {"request_id": ["s", "r"], "item_id": ["c", "a"], "event": "click", "time": time + pd.Timedelta("2h")}
    )
    found = ope.lists_of_feedback(lists, late, within=3600)
    assert found.propensities.tolist() == [[0.5, 0.5], [0.25, 0]] and not found.rewards.any()
    assert ope.lists_of_feedback(lists, late).rewards.tolist() == [[1, 0], [1, 0]]
    weights = ope.importance_weights(np.array([[1.0, 1.0], [1.0, 1.0]]), found.propensities, "standard")
    assert weights.tolist() == [[4, 4], [4, 0]]


def small_shop(seed):
    """(a world whose lists have one place, its truth, the stock of a day)."""
    world = make_world("base", visitors=400, items=20, categories=8, roots=2, days=30, slots=1, seed=seed)
    tree, stocking, people, *_ = streams(world.shop)
    parent = grow_tree(world.shop, tree)
    goods = stock_shop(world.shop, leaves_of(parent), stocking)
    truth = Truth(world.shop, goods, invite_visitors(world.shop, parent, goods, people))
    return world, truth, Stock(truth, 15)


@pytest.mark.slow
def test_intervals_hold_the_truth_of_the_simulator():
    """95% of 2,500 logs, within 1%: two standard errors of that many are .9%."""
    world, truth, stock = small_shop(0)
    rng, rounds = np.random.default_rng(1), 1500
    visitor = np.repeat(np.arange(400), 4)[:rounds]
    before = np.full(rounds, -1)
    likes = truth.preference(np.arange(400), 1_430_611_200_000 + 15 * 86_400_000)
    target = stock.ids[likes[:, stock.ids].argmax(1)][visitor][:, None]  # what each visitor wants most
    opening = np.ones(rounds, bool)

    def chance(lists):
        wish = form_wishes(stock, visitor, before, opening, np.full((rounds, 5), 0.5))
        return answer_lists(
            world, wish, pull_of(stock, wish, visitor, before, lists), lists, np.zeros((rounds, 4))
        ).chance

    value = chance(target).mean()
    held = {"ips": 0, "snips": 0}
    for repetition in range(2500):
        lists, propensities = Shelves(world, 100 + repetition)(visitor, stock)
        clicks = rng.random(rounds) < chance(lists)
        log = ope.LoggedLists(visitor, lists, propensities, clicks[:, None].astype(float))
        weights = ope.importance_weights(ope.same_places(target, log), propensities)
        for method in held:
            found = ope.estimate_value(log, weights, method, check=False)
            held[method] += found.low <= value <= found.high
    shares = {method: n / 2500 for method, n in held.items()}
    assert all(abs(share - 0.95) <= 0.01 for share in shares.values()), shares


def test_the_reference_is_in_the_repository():
    assert (ROOT / "tests" / "obp_reference.json").exists() and len(REFERENCE) == 5


def test_what_the_service_left_to_chance_tells_what_it_would_earn_without():
    """Lists with places left to chance, as the service logs them, and the value of those that it would have shown without."""
    from recsys_lab.lifecycle.feedback import explore

    rng, k, n = np.random.default_rng(4), 5, 4000
    likes = np.linspace(0.4, 0.02, 60)  # of the ranked items, best first
    rows, clicks = [], []
    for number in range(n):
        shown = explore(len(likes), k, 0.3, f"request {number}")
        items = [f"i{place}" for place in shown.places]
        rows.append(
            {"request_id": f"r{number}", "user": f"u{number % 1500}", "items": items, "chances": shown.chances.tolist()}
        )
        clicks += [
            (f"r{number}", item) for item, place in zip(items, shown.places, strict=True) if rng.random() < likes[place]
        ]
    time = pd.Timestamp("2024-01-01", tz="UTC")
    events = pd.DataFrame(clicks, columns=["request_id", "item_id"]).assign(
        event="click", time=time + pd.Timedelta("9s")
    )
    log = ope.lists_of_feedback(pd.DataFrame(rows).assign(time=time), events)
    own = np.tile([f"i{place}" for place in range(k)], (n, 1))
    weights = ope.importance_weights(ope.same_places(own, log), log.propensities)
    ope.require_coverage(log, weights)
    for method in ("ips", "snips"):
        found = ope.estimate_value(log, weights, method, level=0.999)
        assert found.low < likes[:k].sum() < found.high and found.high - found.low < 0.2
    assert log.rewards.sum(1).mean() < likes[:k].sum() - 0.1  # what was earned with exploration
