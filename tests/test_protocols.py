"""The shop in which lists are deployed and the protocols that choose: known answers, shared chance, studies that go on."""

import json

import numpy as np
import pandas as pd
import pytest

from recsys_lab import protocols
from recsys_lab.intervals import difference_intervals
from recsys_lab.protocols import Fits, Study, World, begin, deploy, earned, grade, live, make_world
from recsys_lab.simulator import DAY_MS, START_MS, ShopConfig

SMALL = {"visitors": 300, "items": 80, "categories": 16, "roots": 3, "days": 40}
QUICK = Study(300, 80, 16, 40, 5, 2, "none", ("popularity", "revisits", "item_knn"), ("next item", "SNIPS"))


class Fixed:
    """A policy that shows the same items to all."""

    def __init__(self, items):
        self.items = np.asarray(items)

    def __call__(self, histories, stock):
        lists = np.tile(self.items, (len(histories), 1))
        return lists, np.ones(lists.shape)


@pytest.fixture(scope="module")
def history():
    return begin(make_world("base", **SMALL), 7)


def test_the_same_seed_gives_the_same_shop_and_the_same_days(history):
    again = begin(make_world("base", **SMALL), 7)
    assert again.log.fingerprint == history.log.fingerprint
    one, other = (deploy(h, Fixed(range(8)), 3) for h in (history, again))
    assert np.array_equal(one.gains, other.gains)
    pd.testing.assert_frame_equal(one.events, other.events)


def test_nothing_of_the_deployment_is_in_the_log(history):
    opened = START_MS + history.day * DAY_MS
    assert history.later.time.min() >= opened and (history.later.day >= history.day).all()
    assert history.log.moments.max() < opened + DAY_MS // 2  # sessions of the last evening may end after midnight


def test_lists_that_are_never_met_change_nothing():
    world = World(shop=ShopConfig(**SMALL, exposure=0.0))
    history = begin(world, 7)
    one, other = (deploy(history, Fixed(items), 2) for items in (range(8), range(40, 48)))
    assert np.array_equal(one.gains, other.gains) and one.gains[:, 0].sum() == 0
    assert one.gains[:, 1].sum() == len(history.later.time)  # nobody leaves


def test_expected_gains_are_those_that_come_about(history):
    """Clicks, carts and purchases of many futures against their expectation."""
    lived = deploy(history, Fixed(np.argsort(-history.truth.items.weight)[:8]), 1)
    clicks, expected = lived.shown.rewards.sum(), lived.gains[:, 0].sum()
    assert abs(clicks - expected) < 4 * np.sqrt(expected)
    kinds = lived.events["event"].value_counts()
    assert kinds["view"] == lived.gains[:, 1].sum()
    assert abs(kinds["addtocart"] - lived.gains[:, 2].sum()) < 4 * np.sqrt(lived.gains[:, 2].sum())


def test_shared_chance_makes_differences_sharper(history):
    """Two policies that differ in one place: paired differences are much narrower than those of different futures."""
    best = np.argsort(-history.truth.items.weight)
    a, b = (deploy(history, Fixed(items), 4).gains[:, 1] for items in (best[:8], [*best[:7], best[40]]))
    other = history._replace(seed=history.seed + 100)
    c = deploy(other, Fixed([*best[:7], best[40]]), 4).gains[:, 1]
    paired, apart = (np.ptp(difference_intervals((a - x)[:, None])) for x in (b, c))
    assert paired < 0.7 * apart


def test_more_copies_narrow_the_interval(history):
    best = np.argsort(-history.truth.items.weight)
    widths = []
    for copies in (1, 8):
        gains = [deploy(history, Fixed(items), copies).gains[:, 1] for items in (best[:8], best[30:38])]
        widths.append(np.ptp(difference_intervals((gains[0] - gains[1])[:, None])))
    assert widths[1] < 0.6 * widths[0]


def test_popularity_feeds_on_what_is_shown():
    history = begin(make_world("popularity feedback", **SMALL), 7)
    first, lived = history.truth.viewed.copy(), deploy(history, Fixed(range(8)), 2)
    assert np.array_equal(first, history.truth.viewed)  # the history stays as it is
    shown = lived.viewed[-1] - lived.viewed[history.day]
    other = deploy(history, Fixed(range(40, 48)), 2)
    assert shown[:8].sum() > (other.viewed[-1] - other.viewed[history.day])[:8].sum()


def test_the_shelves_tell_their_propensities(history):
    shown = history.lived.shown
    on_sale = protocols.Stock(history.truth, 20).ids
    day = (history.lived.at - START_MS) // DAY_MS == 20
    assert np.isin(shown.items[day], on_sale).all()
    even = np.isclose(shown.propensities[day], 1 / len(on_sale)).all(1)
    assert 0.05 < even.mean() < 0.6
    weight = history.truth.items.weight[on_sale] ** history.world.tilt
    counts = np.bincount(shown.items[day][~even].ravel(), minlength=80)[on_sale]
    expected = weight / weight.sum() * counts.sum()
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected) + 3).all()


def test_a_model_is_asked_with_what_the_visitor_did_before(history):
    seen = []

    class Watching(Fixed):
        def __call__(self, histories, stock):
            seen.append(histories)
            return super().__call__(histories, stock)

    live(history.world, history.truth, history.later, Watching(range(8)), 1, 1, history.log, history.last)
    for asked in seen:
        assert (asked.times < np.repeat(asked.at, np.diff(asked.indptr))).all()
        later = np.diff(asked.times) >= 0
        ends = np.zeros(max(0, len(asked.times) - 1), bool)
        ends[np.clip(asked.indptr[1:-1] - 1, 0, len(ends) - 1)] = True
        assert (later | ends).all()
    whole = history.log.histories(seen[0].user_ids, at=seen[0].at)
    assert np.array_equal(whole.items, seen[0].items)  # on the first day nothing has been added yet


def test_grades_have_known_answers():
    truth = {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}
    right = grade(truth, truth, 2)
    assert (right["tau"], right["best"], right["regret"], right["pick"]) == (pytest.approx(1), 1, 0, "a")
    wrong = grade({n: -v for n, v in truth.items()}, truth, 2)
    lost = [1 - y / x for x, y in ((4, 3), (4, 2), (4, 1), (3, 2), (3, 1), (2, 1))]
    assert (
        wrong["tau"] == pytest.approx(-1)
        and wrong["best"] == 0
        and wrong["regret"] == pytest.approx(100 * np.mean(lost))
    )
    nothing = grade(dict.fromkeys(truth, np.nan), truth, 4)
    assert nothing["best"] == 0.25 and nothing["regret"] == pytest.approx(100 * (1 - 2.5 / 4)) and nothing["pick"] == ""


def test_what_candidates_earn_has_a_known_answer():
    """Two shops of other sizes: shares are of the best of each, and the paired difference decides who is behind."""
    shops = [
        {"values": {n: {"click": v} for n, v in row.items()}}
        for row in ({"a": 10, "b": 9, "c": 5}, {"a": 100, "b": 90, "c": 70})
    ]
    table = earned(shops, "click").set_index("candidate")
    assert table["share"].tolist() == pytest.approx([100, 90, 60]) and table["place"].tolist() == [1, 2, 3]
    assert table["behind"].tolist() == [False, True, False]  # c lost 50% and 30%: with two shops that may be chance
    half = 12.706204736 * np.std([50, 70], ddof=1) / np.sqrt(2)
    assert table.loc["c", ["low", "high"]].tolist() == pytest.approx([60 - half, 60 + half])
    alone = earned(shops[:1], "click")
    assert alone[["low", "high"]].isna().all(axis=None) and not alone["behind"].any()


def test_every_protocol_scores_every_candidate_or_says_that_it_cannot(history):
    fits = Fits(["popularity", "revisits", "item_knn"])
    for name in protocols.PROTOCOLS:
        scores = protocols.ask_protocol(name, history, fits)
        assert list(scores) == fits.names or set(scores) == set(fits.names)
        assert all(np.isnan(v) or v >= 0 for v in scores.values()), name
    for bad, message in (
        (lambda: protocols.ask_protocol("moon", history, fits), "no protocol 'moon'"),
        (lambda: Fits(["x"]), "no candidate 'x'"),
    ):
        with pytest.raises(ValueError, match=message):
            bad()


def test_no_protocol_sees_the_deployment(history):
    """The scores are the same when what comes after the log is another."""
    fits = [Fits(["popularity", "item_knn"]) for _ in range(2)]
    other = history._replace(later=history.later.take(np.arange(3)), truth=history.truth)
    for name in ("next item", "random split", "SNIPS", "prequential"):
        assert protocols.ask_protocol(name, history, fits[0]) == protocols.ask_protocol(name, other, fits[1])


@pytest.mark.slow
def test_a_study_goes_on_where_it_broke_off(tmp_path):
    first = protocols.run_study(QUICK, ["base"], 1, tmp_path)
    path = tmp_path / "base-0.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"events": -1}))
    again = protocols.run_study(QUICK, ["base", "little exposure"], 1, tmp_path)
    assert (
        again[0]["events"] == -1 and again[0]["scores"] == first[0]["scores"] and again[1]["world"] == "little exposure"
    )
    other = protocols.run_study(QUICK._replace(copies=1), ["base"], 1, tmp_path)
    assert other[0]["events"] == first[0]["events"]  # another study is done anew


@pytest.mark.slow
def test_shops_side_by_side_are_the_same():
    one, two = (protocols.run_study(QUICK, ["base", "drift"], 1, jobs=jobs) for jobs in (1, 2))
    assert one == two


@pytest.mark.slow
def test_every_kind_of_model_can_be_a_candidate(history):
    """Closed forms, factors, trees and networks: each is fitted on the shop's log, deployed, and earns more than nothing."""
    names = ["ials", "graph_filter", "content", "rp3beta"]
    values = protocols.true_values(history, Fits(names).on(history.log), 1)
    assert values.table["candidate"].tolist() == names and (values.table[["click", "view", "purchase"]] > 0).all().all()
