"""Two-stage ranking: candidates, features that know only the past, rows that do not feed themselves, rankers and the blend."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import FEW_SOURCES, arrived_split, quick, random_log, untimed_sessions
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab import evaluation, intervals, leakage, metrics, splits
from recsys_lab.catalogue import Tree
from recsys_lab.datasets import Dataset
from recsys_lab.histories import Histories
from recsys_lab.models import popularity, taxonomy
from recsys_lab.models.base import load, model_class
from recsys_lab.models.popularity import Popularity
from recsys_lab.numerics import FEATURE_STEP
from recsys_lab.ranking import analysis, boosting, candidates, features, hybrid, logistic, training

STAGE = training.Stage(tuple(FEW_SOURCES.items()), requests=200, windows=2, window=0.1, negatives=5)


def times(*days):
    return pd.to_datetime(list(days), utc=True)


def tiny_log(**extra):
    """Three users, four items in two categories under one root, with prices and a cart."""
    events = pd.DataFrame(
        [
            (1, 10, "view", "2024-01-01 10:00"),
            (1, 20, "view", "2024-01-01 10:01"),
            (2, 10, "view", "2024-01-01 12:00"),
            (2, 30, "addtocart", "2024-01-02 12:00"),
            (2, 30, "transaction", "2024-01-02 12:05"),
            (3, 30, "view", "2024-01-03 09:00"),
            (3, 40, "view", "2024-01-03 09:30"),
        ],
        columns=["user_id", "item_id", "event", "timestamp"],
    )
    events["timestamp"] = times(*events.timestamp)
    told = [(10, "categoryid", "a"), (20, "categoryid", "a"), (30, "categoryid", "b"), (40, "categoryid", "b")]
    told += [
        (10, "price", "10"),
        (20, "price", "20"),
        (30, "price", "40"),
        (10, "available", "1"),
        (20, "available", "0"),
    ]
    properties = pd.DataFrame(told, columns=["item_id", "property", "value"])
    properties["timestamp"] = times("2023-12-01")[0]
    tree = pd.DataFrame({"category": ["r", "a", "b"], "parent": [None, "r", "r"]})
    return Dataset("tiny", events.assign(**extra), properties, tree)


def all_items(n_items, n_rows):
    """Candidates that are the whole catalogue for each of some requests."""
    count = n_rows * n_items
    shape = (count, 1)
    indptr = np.arange(0, count + 1, n_items)
    items = np.tile(np.arange(n_items, dtype=np.int32), n_rows)
    return candidates.Candidates(indptr, items, np.ones(shape, np.int16), np.ones(shape, np.float32), ("popularity",))


def described(log, items, at, names=None):
    """Features of the whole catalogue for one history, asked at a moment, as a frame by item."""
    facts = features.known_facts(log)
    h = replace(Histories.from_lists([[i for i, _, _ in items]], [[e for _, e, _ in items]]), at=np.array([ms(at)]))
    h = replace(h, times=np.array([ms(t) for _, _, t in items], np.int64)).encode(log.items)
    names = names or features.chosen_features([], ("popularity",), log)[0]
    block = features.feature_block(facts, h, all_items(len(log.items), 1), names)
    return pd.DataFrame(block, columns=names, index=log.items)


def ms(text):
    return int(pd.Timestamp(text, tz="UTC").value // 1_000_000)


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
    assert np.isnan(features.smoothed(np.zeros(1), np.zeros(1), shop, 20))  # never met is


def test_similarity_features_are_those_of_the_similarity():
    log = random_log(3)
    facts = features.known_facts(log)
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
    facts, names = features.known_facts(log), features.chosen_features([], ("popularity",), log)[0]
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


def test_a_row_never_feeds_itself(shop, monkeypatch):
    """Training rows of a window: facts end before it, and each history ends before its request."""
    seen = []
    real = features.feature_block

    def watched(facts, h, c, names, threads=1):
        seen.append((int(facts["end"]), h))
        return real(facts, h, c, names, threads)

    monkeypatch.setattr(training, "feature_block", watched)
    rows = training.training_rows(shop, replace(STAGE, seed=5))
    assert seen and len(rows.label)
    for end, h in seen:
        assert (h.at > end).all() and (h.times < h.at[h.rows]).all()


def test_rows_agree_with_the_log(shop):
    """Labels by hand: a row is met if that visitor's next event in the window is of the item."""
    rows = training.training_rows(shop, STAGE)
    met = np.bincount(rows.request, rows.label)
    assert (met == 1).all()  # next item: one relevant item a request
    assert rows.block.dtype == np.float32 and rows.block.shape == (len(rows.label), len(rows.names))
    assert (np.diff(rows.request) >= 0).all() and rows.request[-1] + 1 == len(rows.user) == len(rows.window)
    assert (np.bincount(rows.request) <= 6).all()
    half = rows.take(rows.window == 0)
    assert len(half.user) == (rows.window == 0).sum() and half.request.max() + 1 == len(half.user)


def test_hard_negatives_are_new_to_the_visitor_and_launched(shop):
    split = splits.make(shop)
    known = split.known("test")
    facts = features.known_facts(known)
    cases = training.drawn_cases(training.rolling(known, 1, 0.1)[0], replace(STAGE, requests=150))
    h = cases.histories(slice(0, len(cases))).encode(known.items)
    code = known.items.get_indexer(cases.items)[cases.relevant]
    row, item = training.hard_negatives(facts, h, code, np.arange(len(code)), 15, 0)
    met = set(zip(h.rows.tolist(), h.items.tolist(), strict=True)) | set(
        zip(range(len(code)), code.tolist(), strict=True)
    )
    assert len(row) > 5 * len(code) and not met & set(zip(row.tolist(), item.tolist(), strict=True))
    assert (facts["first"][item] < h.at[row]).all()
    early = replace(h, at=np.full(len(h), int(np.median(facts["first"]))))
    row, item = training.hard_negatives(facts, early, code, np.arange(len(code)), 15, 0)
    assert (facts["first"][item] < early.at[0]).all() and len(item)


def test_the_watching_users_never_teach(shop_split, monkeypatch):
    """What the trees learn from, stop by and are calibrated on, as they are handed over."""
    handed = {}

    def spy(name, function):
        def called(*words):
            handed[name] = words
            return function(*words)

        return called

    monkeypatch.setattr(boosting, "boosted", spy("boosted", boosting.boosted))
    monkeypatch.setattr(boosting, "isotonic", spy("isotonic", boosting.isotonic))
    model = boosting.Boosting(**quick("lightgbm")).fit(shop_split.known("test"))
    learn, stop, _ = handed["boosted"]
    assert len(learn.user) and not boosting.watching(learn.user).any()
    assert len(stop.user) and boosting.watching(stop.user).all()
    label, score = handed["isotonic"]  # calibrated on the watching users' lists
    assert (label == stop.label).all() and (score == model.predict(stop.block)).all()
    lists = np.bincount(stop.request)
    assert np.median(lists) > 2 * np.median(np.bincount(learn.request))  # whole lists, as served


def test_candidates_are_the_union_of_the_sources(shop_split):
    known = shop_split.known("test")
    sources = candidates.fit_sources(known, FEW_SOURCES)
    h = known.histories(known.users[:60]).encode(known.items)
    for exclude in ("none", "seen", "purchased"):
        c = candidates.gather(sources, FEW_SOURCES, h, exclude)
        for row in range(len(h)):
            union = {}
            for at, (name, model) in enumerate(sources.items()):
                codes, _ = candidates.own_lists(model, h.take(slice(row, row + 1)), FEW_SOURCES[name], exclude)
                for place, code in enumerate(codes[0][codes[0] >= 0]):
                    union.setdefault(int(code), [0] * len(sources))[at] = place + 1
            mine = slice(c.indptr[row], c.indptr[row + 1])
            assert c.items[mine].tolist() == sorted(union)
            assert c.ranks[mine].tolist() == [union[i] for i in sorted(union)]
            if exclude == "seen":
                assert not set(union) & set(h.items[h.indptr[row] : h.indptr[row + 1]].tolist())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=4), st.integers(1, 40))
def test_fair_turns_give_each_ring_its_share_at_any_length(sizes, length):
    """With shares s, any prefix holds of each ring that has enough about s times its length, never off by more than one of each."""
    from scipy import sparse

    shares = np.arange(1, len(sizes) + 1) / sum(range(1, len(sizes) + 1))
    width, start, rings = max(1, sum(sizes)), 0, []
    for size in sizes:
        ring = np.zeros((1, width))
        ring[0, start : start + size] = np.arange(size, 0, -1)
        start += size
        rings.append(sparse.csr_matrix(ring))
    merged = taxonomy.in_turns(rings, shares, width).toarray()[0]
    order = np.lexsort((np.arange(width), -merged))[: int((merged > 0).sum())]
    assert len(order) == sum(sizes)
    owner = np.repeat(np.arange(len(sizes)), sizes)[order]
    for at in range(len(sizes)):
        mine = order[owner == at]
        assert (np.diff(mine) > 0).all()  # a ring keeps its own order
        if min(sizes) >= length:  # nobody runs out
            assert abs((owner[:length] == at).sum() - shares[at] * length) <= 1.5


def test_the_rings_of_a_category():
    parents = {"r": None, "g": "r", "p": "g", "u": "g", "a": "p", "b": "p", "c": "u", "far": "r", "x": "far"}
    grown = Tree.of(pd.DataFrame({"category": list(parents), "parent": list(parents.values())}))
    names = pd.Index(["a", "b", "c", "p", "x"])
    rings = [ring.toarray()[0] for ring in taxonomy.nearby(grown, names)]
    assert [names[r > 0].tolist() for r in rings] == [["a"], ["p"], ["b"], ["c"]]


def test_sources_that_a_log_cannot_feed_are_left_out_by_name():
    log = random_log(5)
    widths, out = candidates.usable(candidates.WIDTHS, log)
    assert "taxonomy" not in widths and out == {"taxonomy": "needs categories"}
    first = training.first_stage_of(log, replace(STAGE, widths=tuple(candidates.WIDTHS.items())))
    assert {"price", "category_share", "available"} <= set(first.left_out) and "hour" in first.names
    plain = training.first_stage_of(untimed_sessions(1), STAGE)
    assert {"hour", "since_last", "pair_carts"} <= set(plain.left_out) and "pair_near" in plain.names


def test_personal_sources_say_nothing_to_strangers(shop_split):
    known = shop_split.known("test")
    for name in ("als", "item_knn", "bpr"):
        codes, _ = candidates.own_lists(
            model_class(name)().fit(known), Histories.from_lists([[], [0]]).encode(known.items), 5, "none"
        )
        assert (codes[0] == -1).all() and (codes[1] >= 0).any()


def test_a_log_without_categories_prices_or_carts_is_ranked():
    log = untimed_sessions(2)
    split = splits.make(log)
    for name in ("lr", "lightgbm", "hybrid"):
        model = model_class(name)(**quick(name))
        assert evaluation.evaluate(model, split, "next_item", ks=(5,)).mean("ndcg", 5) > 0


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"features": ["simm_max"]}, "unknown feature 'simm_max'"),
        ({"window": 0.0}, "hybrid: window must be above 0, not 0.0"),
        ({"windows": 3, "window": 0.4}, "fit 3 times into a log"),
        ({"sampler": "easy"}, "hybrid: sampler must be 'served' or 'hard', not 'easy'"),
        ({"protocol": "tomorrow"}, "protocol must be one of"),
        ({"sources": {"session_walk": 5, "nothing": 5}}, "there is no model 'nothing'"),
        ({"objective": "pairwise"}, "hybrid: objective must be 'lambdarank' or 'binary'"),
        ({"alpha": -0.1}, "hybrid: alpha must be at least 0, not -0.1"),
        ({"collaborative": "als"}, "collaborative must be one of the sources"),
        ({"normalisation": "softmax"}, "hybrid: normalisation must be 'minmax' or 'rank'"),
    ],
)
def test_bad_settings_are_refused_with_a_sentence(wrong, match, shop_split):
    with pytest.raises(ValueError, match=match):
        model_class("hybrid")(**quick("hybrid") | wrong).fit(shop_split.train)


def test_logs_without_windows_or_positives_are_refused():
    with pytest.raises(ValueError, match="arrived split and has no order"):
        model_class("lr")(**quick("lr")).fit(arrived_split(1))
    with pytest.raises(ValueError, match="ask for fewer or longer windows"):
        training.rolling(random_log(1, n=8), 2, 0.45)
    log = random_log(1)
    views = log.where((log.events.event == "view").to_numpy())
    with pytest.raises(splits.NoCases, match="no case for protocol next_item, target purchase"):
        model_class("lr")(**quick("lr") | {"target": "purchase"}).fit(views)


def test_a_cutoff_outside_the_log_is_refused(shop):
    with pytest.raises(ValueError, match="nothing to check"):
        leakage.check(lambda log, at: np.zeros((3, 1)), shop, "2031-01-01")
    with pytest.raises(ValueError, match="no event of shop lies before the cutoff"):
        splits.make(shop, test="1999-01-01")


def test_trees_are_the_same_every_time(shop_split):
    a, b = (model_class("lightgbm")(**quick("lightgbm")).fit(shop_split.train) for _ in range(2))
    assert (a.state["booster"] == b.state["booster"]).all()


def test_contributions_add_up_and_probabilities_rise(shop_split):
    model = model_class("lightgbm")(**quick("lightgbm")).fit(shop_split.train)
    h = model.known.take(slice(0, 20)).encode(model.items)
    c, scores = model.candidates(h, "none")
    block = features.feature_block(model.first.facts, h, c, model.first.names)
    np.testing.assert_allclose(
        analysis.contributions(model, block).sum(axis=1), scores, atol=1e-6 * np.abs(scores).max()
    )
    chance = model.probability(np.sort(scores))
    assert (np.diff(chance) >= 0).all() and chance.min() >= 0 and chance.max() <= 1


def test_rows_ndcg_is_the_metric():
    rng = np.random.default_rng(0)
    request = np.sort(rng.integers(0, 30, 400))
    label = rng.random(400) < 0.3
    label[np.unique(request, return_index=True)[1]] = True
    request = np.unique(request, return_inverse=True)[1]
    scores = rng.random(400)
    rows = training.Rows(np.zeros((400, 1), np.float32), label, request, np.zeros(30, int), np.arange(30), ["x"])
    from sklearn.metrics import ndcg_score

    for r, value in enumerate(boosting.rows_ndcg(rows, scores, 10)):
        mine = request == r
        wanted = ndcg_score([label[mine].astype(float)], [scores[mine]], k=10) if mine.sum() > 1 else 1.0
        assert value == pytest.approx(wanted)


def test_case_ndcg_is_what_evaluate_says(shop_split):
    """The short cut that the sweep takes gives the evaluation's own numbers."""
    model = model_class("hybrid")(**quick("hybrid")).fit(shop_split.train)
    cases = training.some_cases(splits.make_cases(shop_split, "next_item", "any", "valid", "none"), 10**9, 0)
    told, indptr = analysis.both_halves(model, cases, "none", ["session_walk"])
    mine = hybrid.blended(told.ranker.to_numpy(), told.session_walk.to_numpy(), indptr, 0.3, "minmax")
    value = analysis.case_ndcg(told, mine.astype(np.float32), cases, 10)
    listed = evaluation.rank_cases(model, cases, 10, 512)[0]
    wanted = metrics.accuracy(listed, cases.indptr, cases.relevant, (10,))["ndcg", 10]
    np.testing.assert_allclose(value, wanted, atol=1e-12)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.floats(-1e6, 1e6, width=32), max_size=6), min_size=1, max_size=5),
    st.floats(0, 1),
    st.sampled_from(hybrid.NORMALISATIONS),
)
def test_a_blend_stays_on_its_scale_and_meets_both_ends(rows, alpha, how):
    scores = np.array(list(itertools.chain(*rows)))
    indptr = np.concatenate([[0], np.cumsum([len(r) for r in rows])])
    one = hybrid.on_one_scale(scores, indptr, how)
    assert ((one >= 0) & (one <= 1)).all()
    other = -scores
    mixed = hybrid.blended(scores, other, indptr, alpha, how)
    np.testing.assert_allclose(mixed, (1 - alpha) * one + alpha * hybrid.on_one_scale(other, indptr, how), atol=1e-12)
    np.testing.assert_array_equal(hybrid.blended(scores, other, indptr, 0.0, how), one)
    np.testing.assert_array_equal(hybrid.blended(scores, np.full(len(scores), np.nan), indptr, alpha, how), one)
    for start, stop in itertools.pairwise(indptr):  # order is kept
        assert (np.diff(one[start:stop][np.argsort(scores[start:stop], kind="stable")]) >= -1e-12).all()


def test_the_ends_of_alpha_are_the_halves(shop_split):
    known = shop_split.known("test")
    cases = splits.make_cases(shop_split, "next_item")
    lists = {}
    for name, extra in (("lightgbm", {}), ("hybrid", {"alpha": 0.0}), ("hybrid_tuned", {"alpha": 1.0})):
        lists[name], _ = evaluation.rank_cases(model_class(name)(**quick(name) | extra).fit(known), cases, 5, 512)
    warm = cases.history > 0
    same = (lists["lightgbm"][warm] == lists["hybrid"][warm]).all(1)
    assert same.mean() > 0.99  # scores that differ by rounding alone may be tied on one scale and not on the other
    assert (lists["hybrid"][warm] != lists["hybrid_tuned"][warm]).any()
    walk = candidates.fit_sources(known, {"session_walk": 20})["session_walk"]
    alone, _ = evaluation.rank_cases(walk, cases, 1, 512)
    scored = alone[:, 0] >= 0
    assert (
        lists["hybrid_tuned"][warm & scored, 0] == alone[warm & scored, 0]
    ).mean() > 0.99  # ties within rounding aside


def test_a_blend_can_be_put_around_fitted_trees(shop_split):
    known = shop_split.known("test")
    trees = model_class("lightgbm")(**quick("lightgbm")).fit(known)
    around = hybrid.blend_of(trees, hybrid.Hybrid, alpha=0.4)
    fresh = hybrid.Hybrid(**quick("hybrid"), alpha=0.4).fit(known)
    h = known.histories(known.users[:80])
    a, b = around.rank(h, 10, "none"), fresh.rank(h, 10, "none")
    assert (a.codes == b.codes).all() and around.config == fresh.config and around.fitted_on == known.fingerprint


def test_cold_visitors_fall_back_and_say_so(shop_split):
    known = shop_split.known("test")
    model = model_class("hybrid")(**quick("hybrid")).fit(known)
    blend = popularity.PopularityBlend(recent=model.config.recent).fit(known)
    assert (
        model.rank(Histories.from_lists([[]]), 8).frame().item_id.tolist()
        == blend.rank(Histories.from_lists([[]]), 8).frame().item_id.tolist()
    )
    told = model.explain(Histories.from_lists([[], [known.items[0]]]), 6)
    assert told.user_type.tolist() == ["cold"] * 6 + ["warm"] * 6
    assert told[told.user_type == "cold"][["ranker_score", "collaborative_score"]].isna().all().all()
    warm = told[told.user_type == "warm"]
    assert warm.ranker_score.notna().any() and set(", ".join(warm.sources).split(", ")) <= set(FEW_SOURCES) | {
        "popular"
    }
    listed = model.rank(Histories.from_lists([[known.items[0]]]), 6).frame()
    assert warm.item_id.tolist() == listed.item_id.tolist()


def test_a_blend_is_saved_with_all_that_it_is_made_of(shop_split, tmp_path):
    known = shop_split.known("test")
    model = model_class("hybrid")(**quick("hybrid")).fit(known)
    back = load(model.save(tmp_path / "m"))
    assert list(back.parts) == sorted(FEW_SOURCES) and back.known is back.parts["item_knn"].known
    h = known.histories(known.users[:50])
    a, b = model.rank(h, 10, "none"), back.rank(h, 10, "none")
    assert (a.codes == b.codes).all() and np.array_equal(a.scores, b.scores, equal_nan=True)
    pd.testing.assert_frame_equal(model.explain(h, 5), back.explain(h, 5))
    part = tmp_path / "m" / "item_knn"
    assert not (part / "known").exists() and (part / "state" / "similarity.data.npy").exists()


def test_the_rule_takes_the_least_alpha_within_one_standard_error():
    rng = np.random.default_rng(0)
    users, noise = np.arange(400), rng.normal(0, 0.02, 400)
    lift = {0.0: 0.0, 0.2: 0.0495, 0.5: 0.05, 1.0: -0.2}
    values = {("als", "minmax", a): 0.5 + up + noise * (1 + a) for a, up in lift.items()}
    values[("als", "rank", 0.1)] = 0.4 + noise
    table = analysis.swept_table(values, users)
    best = table.loc[table.ndcg.idxmax()]
    assert best.alpha == 0.5 and table[table.chosen].alpha.item() == 0.2
    sure = {key: v + (0.5 if key[2] == 0.5 else 0) for key, v in values.items()}
    assert analysis.swept_table(sure, users).query("chosen").alpha.item() == 0.5


def test_no_half_is_chosen_by_chance_where_the_halves_do_not_matter():
    """At alpha 0 all halves are the trees alone, up to noise: the first named is taken, whichever is luckier."""
    rng = np.random.default_rng(3)
    users, trees, noise = np.arange(300), rng.random(300), rng.normal(0, 0.02, 300)
    for luck in (-1e-4, 1e-4):
        values = {
            ("session_walk", "minmax", 0.0): trees,
            ("session_walk", "minmax", 0.3): trees - 0.2 * rng.random(300),
        }
        values |= {("als", "rank", 0.0): trees + noise - noise.mean() + luck, ("als", "rank", 0.3): trees - 0.1}
        picked = analysis.swept_table(values, users).query("chosen").iloc[0]
        assert (picked.collaborative, picked.normalisation, picked.alpha) == ("session_walk", "minmax", 0.0)


def test_the_fewest_trees_that_cannot_be_told_from_the_best(shop):
    """More would be better by its own metric only; with patience for all of them, the choice is not LightGBM's."""
    rows = training.training_rows(shop, STAGE)
    stops = boosting.watching(rows.user)
    learn, stop = rows.take(~stops), rows.take(stops)
    config = boosting.BoostingConfig(rounds=60, patience=60, min_rows=5)
    trees = boosting.boosted(learn, stop, config)
    chosen = trees.best_iteration
    values = {
        n: boosting.rows_ndcg(stop, np.asarray(trees.predict(stop.block, num_iteration=n, raw_score=True)))
        for n in range(boosting.TREE_STEP, 61, boosting.TREE_STEP)
    }
    assert chosen in values or chosen == 60
    fewer = [v for n, v in values.items() if n < chosen]
    for value in fewer:  # each is behind some larger number by more than one standard error
        gaps = [(v - value) for n, v in values.items() if n >= chosen]
        codes = pd.factorize(stop.user)[0]
        assert any(
            intervals.user_means(gap[:, None], codes).mean()
            > intervals.gaps_to_best(intervals.user_means(np.stack([gap, gap * 0], 1), codes))[2].max()
            for gap in gaps
        )
    likely = boosting.boosted(learn, stop, replace_config(config, objective="binary"))
    assert 1 <= likely.best_iteration <= 60
    score = np.asarray(likely.predict(stop.block, raw_score=True))
    of_row = np.where(stop.label, 1, -1) * score
    wanted = [-np.log1p(np.exp(-of_row[stop.request == r])).mean() for r in range(stop.request.max() + 1)]
    np.testing.assert_allclose(boosting.log_likelihood(stop, score), wanted, rtol=1e-9)


def replace_config(config, **changed):
    return type(config)(**{**vars(config), **changed})


def test_a_threshold_is_the_highest_of_those_as_good_as_the_best():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(5)
    chance, users = rng.random(3000) ** 3, rng.integers(0, 200, 3000)
    met = rng.random(3000) < chance
    table = analysis.threshold_table(met, chance, users)
    for row in table.iloc[::17].itertuples():
        assert row.f1 == pytest.approx(f1_score(met, chance >= row.threshold), abs=1e-12)
    picked, best = table[table.chosen].iloc[0], table.loc[table.f1.idxmax()]
    assert picked.threshold >= best.threshold and picked.behind <= picked.se and table.chosen.sum() == 1
    assert (table.behind > table.se)[table.threshold > picked.threshold].all()


def test_a_width_may_fall_short_of_the_knee_by_one_standard_error():
    table = pd.DataFrame(
        {"sources": "all", "user_type": "warm", "width": [5, 10, 20, 40], "recall": [0.5, 0.758, 0.77, 0.8]}
    )
    assert analysis.knee(table.assign(error=0.0), 0.95) == 20  # 0.76 is asked for
    assert analysis.knee(table.assign(error=[0.01, 0.003, 0.002, 0]), 0.95) == 10
    assert analysis.knee(table.assign(error=0.0), 1.0) == 40


def test_one_candidate_more_changes_no_other_draw(shop_split):
    """What is drawn for a candidate belongs to it: another list of another source leaves the rest of the sample as it was."""
    first = training.first_stage_of(shop_split.train, STAGE)
    asking = shop_split.train.histories().encode(shop_split.train.items).take(slice(0, 60))
    c = candidates.gather(first.sources, first.widths, asking, "none")
    label = c.items % 7 == 0
    whole = training.kept_rows(c, label, 2, 3, 100)
    gone = np.flatnonzero(~label & ~whole)[::5]
    less = np.ones(len(c.items), bool)
    less[gone] = False
    again = training.kept_rows(c.keep(less), label[less], 2, 3, 100)
    assert len(gone) > 10 and (again == whole[less]).all()
    parts = [
        training.kept_rows(c.take(slice(s, s + 20)), label[c.indptr[s] : c.indptr[s + 20]], 2, 3, 100 + s)
        for s in (0, 20, 40)
    ]
    assert (np.concatenate(parts) == whole).all()  # nor does the block matter
    assert (training.kept_rows(c, label, 2, 4, 100) != whole).any()


def test_classification_draws_agree_with_scikit_learn():
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(1)
    users, scores = rng.integers(0, 50, 2000), rng.random(2000)
    met = rng.random(2000) < scores / 4
    drawn = analysis.classification_draws(met, scores, users, 20, 3)
    assert drawn[0] == pytest.approx([roc_auc_score(met, scores), average_precision_score(met, scores)])
    assert drawn[1:].std(0).min() > 0 and (np.abs(drawn[1:] - drawn[0]) < 0.2).all()


def test_logistic_is_scikit_learns(shop_split):
    """Refitted by hand on the same rows, the probabilities are the same."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = logistic.Logistic(**quick("lr")).fit(shop_split.train)
    rows = training.training_rows(shop_split.train, logistic.stage_of(model.config))
    x = logistic.design(rows.block, rows.names, model.state["columns"].tolist())
    x = logistic.with_unknown(x, model.state["fill"], model.state["flagged"])
    theirs = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, rows.label)
    ours = 1 / (1 + np.exp(-model.predict(rows.block)))
    np.testing.assert_allclose(ours, theirs.predict_proba(x)[:, 1], atol=1e-9)


def test_two_stages_beat_popularity_on_the_shop(shop_split):
    base = evaluation.evaluate(Popularity(), shop_split, "next_item", ks=(10,))
    for name in ("lr", "lr_enriched", "lightgbm"):
        found = evaluation.evaluate(model_class(name)(**quick(name)), shop_split, "next_item", ks=(10,))
        assert found.compare(base)["low"] > 0


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


def test_no_negative_was_first_met_at_the_moment_of_the_request():
    log = tiny_log()
    facts = features.known_facts(log)
    for at, there in (("2024-01-03 09:30", False), ("2024-01-03 09:31", True)):
        h = replace(Histories.from_lists([[20]], [["view"]]), at=np.array([ms(at)]), times=np.array([0]))
        code = log.items.get_indexer([30])
        _, item = training.hard_negatives(facts, h.encode(log.items), code, np.zeros(1, int), 60, 0)
        assert (40 in log.items[item]) == there


def test_negatives_keep_the_rank_that_they_were_served_at(shop):
    """A candidate that sources named has their ranks and scores; a drawn one that none named has zeros."""
    stage = replace(STAGE, sampler="hard")
    window = training.rolling(shop, 1, 0.1)[0]
    first = training.first_stage_of(window.known("test"), stage)
    cases = training.drawn_cases(window, stage)
    items, rows = next(iter(first.sources.values())).items, slice(0, 60)
    asking = cases.histories(rows).encode(items)
    served = candidates.gather(first.sources, first.widths, asking, stage.exclude)
    out, _ = training.with_negatives(first, asking, served, cases, rows, stage)
    there = {
        (r, i): (ranks.tolist(), scores.tolist())
        for r, i, ranks, scores in zip(served.rows, served.items, served.ranks, served.scores, strict=True)
    }
    nothing = ([0] * len(out.sources), [0.0] * len(out.sources))
    drawn = 0
    for r, i, ranks, scores in zip(out.rows, out.items, out.ranks, out.scores, strict=True):
        drawn += (r, i) not in there
        assert (ranks.tolist(), scores.tolist()) == there.get((r, i), nothing)
    assert 0 < drawn < len(out.items)
