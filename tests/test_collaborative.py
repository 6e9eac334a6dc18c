"""The collaborative models against their definitions, written out plainly, and against the libraries behind them."""

import numpy as np
import pandas as pd
import pytest
from conftest import random_log, untimed_sessions
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab import evaluation, splits
from recsys_lab.datasets import Dataset
from recsys_lab.histories import Histories
from recsys_lab.models.als import ALS, BPR, bm25, bm25_idf
from recsys_lab.models.base import fold_map, load, mean_vectors, stored_rows
from recsys_lab.models.lightfm import BANDS, LightFMHybrid, LightFMWarp, price_bands
from recsys_lab.models.linear import EASE, RP3beta, ease_weights, invert_in_place, walk_weights
from recsys_lab.models.neighbours import (
    STALE,
    SequentialRules,
    SessionKNN,
    SessionWalk,
    UserKNN,
    follow_counts,
    item_walk,
    keep_strongest,
)
from recsys_lab.topk import SOURCES

LOG = random_log(7)


def dense(log):
    return log.matrix().matrix.toarray().astype(float)


# users


def test_user_knn_is_the_cosine_of_users():
    met, weight = dense(LOG), np.maximum(dense(LOG).sum(0), 1) ** -0.25
    rows = met * weight
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    alike = unit @ unit.T
    model = UserKNN(neighbours=1000, item_norm=0.5).fit(LOG)
    known = model.known.encode(model.items)
    strangers = Histories(known.indptr, known.items, known.events, known.times, known.at, None, known.event_names)
    np.testing.assert_allclose(model._score(strangers).toarray(), alike @ met, rtol=1e-4)
    np.fill_diagonal(alike, 0)  # nobody is a neighbour of themselves
    np.testing.assert_allclose(model._score(known).toarray(), alike @ met, rtol=1e-4)
    few = UserKNN(neighbours=3).fit(LOG)
    nearest = np.sort(alike, axis=1)[:, -4:]
    clear = nearest[:, 1] > nearest[:, 0] + 1e-5  # the third and the fourth do not tie
    cut = np.where(alike >= nearest[:, 1:2], alike, 0) @ met
    np.testing.assert_allclose(few._score(known).toarray()[clear], cut[clear], rtol=1e-4)


def test_isolated_users_get_what_is_popular_and_are_told_so():
    frame = pd.DataFrame({"user_id": [1, 1, 2, 2, 3], "item_id": [1, 2, 1, 2, 9], "event": "view"})
    frame["timestamp"] = pd.date_range("2024-01-01", periods=5, tz="UTC")
    listed = UserKNN().fit(Dataset("islands", frame)).recommend([1, 3, 7], k=2, exclude="none").frame()
    assert listed.query("user_id == 1").source.tolist() == ["neighbours", "neighbours"]
    assert listed.query("user_id == 3").source.tolist() == ["popular", "popular"]
    assert listed.query("user_id == 7").source.tolist() == ["cold", "cold"]


# visits


def plain_session_scores(model, visits, prefix):
    """V-SkNN written out: dictionaries and loops."""
    c = model.config
    holding = {}
    for v, items in enumerate(visits):
        for item in items:
            holding.setdefault(item, []).append(v) if v not in holding.get(item, []) else None
    idf = {i: np.log(len(visits) / len(vs)) ** c.idf for i, vs in holding.items()}
    steps = {}
    for back, item in enumerate(reversed(prefix[-c.last :])):
        steps.setdefault(item, back)
    alike, nearest = {}, {}
    for item, back in sorted(steps.items(), key=lambda pair: -pair[1]):
        for v in sorted(holding.get(item, []), reverse=True)[: c.sample]:
            fade = np.exp(-back / c.prefix_decay) if c.prefix_decay else 1
            alike[v] = alike.get(v, 0) + fade * idf[item]
            nearest[v] = len(visits[v]) - 1 - visits[v][::-1].index(item)
    scores = {}
    for v in sorted(alike, key=lambda v: (-alike[v], -v))[: c.neighbours]:
        for place, item in enumerate(visits[v]):
            away = abs(place - nearest[v])
            near = c.again if not away else np.exp(-(away - 1) / c.place_decay) if c.place_decay else 1
            scores[item] = scores.get(item, 0) + alike[v] * near * idf[item]
    return scores


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), decay=st.sampled_from([0.0, 0.7, 3.0]), place=st.sampled_from([0.0, 1.5]))
def test_session_knn_is_its_definition(seed, decay, place):
    log = untimed_sessions(seed, sessions=40, items=12)
    model = SessionKNN(prefix_decay=decay, place_decay=place, idf=1.0, sample=6, neighbours=9, last=4).fit(log)
    order = sorted(range(len(model.known)), key=lambda r: model.known.times[model.known.indptr[r + 1] - 1])
    visits = [model.known.take([r]).encode(model.items).items.tolist() for r in order]
    prefix = np.random.default_rng(seed).integers(0, len(model.items), 6).tolist()
    asked = Histories.from_lists([[model.items[i] for i in prefix]]).encode(model.items)
    wanted = plain_session_scores(model, visits, prefix)
    found = model._score(asked).toarray()[0]
    np.testing.assert_allclose(found, [wanted.get(i, 0) for i in range(len(found))], rtol=1e-5, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), steps=st.integers(1, 9), decay=st.sampled_from([0.0, 1.0, 2.0]))
def test_rules_count_what_followed(seed, steps, decay):
    log = untimed_sessions(seed, sessions=25, items=9)
    visits = log.histories().encode(log.items)
    wanted = np.zeros((len(log.items),) * 2)
    for start, stop in zip(visits.indptr[:-1], visits.indptr[1:], strict=True):
        run = visits.items[start:stop]
        for a in range(len(run)):
            for b in range(a + 1, min(len(run), a + steps + 1)):
                wanted[run[a], run[b]] += (run[a] != run[b]) * (b - a) ** -decay
    np.testing.assert_allclose(follow_counts(visits, len(log.items), steps, decay).toarray(), wanted, rtol=1e-5)
    for start, stop in zip(visits.indptr[:-1], visits.indptr[1:], strict=True):
        run = visits.items[start:stop]  # as rules an item may follow itself
        pairs = [
            (a, b) for a in range(len(run)) for b in range(a + 1, min(len(run), a + steps + 1)) if run[a] == run[b]
        ]
        for a, b in pairs:
            wanted[run[a], run[a]] += (b - a) ** -decay
    model = SequentialRules(steps=steps, decay=decay).fit(log)
    asked = Histories.from_lists([[log.items[0], log.items[3]]])
    np.testing.assert_allclose(model._score(asked.encode(model.items)).toarray()[0], wanted[3], rtol=1e-5)


def test_the_walk_is_one_step_and_two():
    counts = follow_counts(LOG.histories().encode(LOG.items), len(LOG.items), 5, 1.0)
    both = (counts + counts.T).tocsr()
    degree = np.asarray(both.sum(1)).ravel()
    step = both.toarray() / np.maximum(degree, 1e-9)[:, None] ** 0.7 / np.maximum(degree, 1e-9)[None, :] ** 0.3
    wanted = step + 2.0 * step @ step
    np.fill_diagonal(wanted, 0)
    np.testing.assert_allclose(item_walk(both, 0.3, 2.0, 10_000).toarray(), wanted, rtol=1e-4, atol=1e-7)


def test_the_walk_forgets_stale_items_and_returns_to_own_ones():
    sessions = [["a", "b"]] * 3 + [["a", "c"]] * 30 + [["a", "d"]] * 3
    frame = pd.DataFrame([(u, i) for u, items in enumerate(sessions) for i in items], columns=["user_id", "item_id"])
    log = Dataset("fashion", frame.assign(event="view"), has_times=False)
    asked = Histories.from_lists([["a"]])
    first = SessionWalk(fresh=0.1, repeat_weight=0.0).fit(log)
    scores = dict(zip(first.items, first._score(asked.encode(first.items)).toarray()[0], strict=True))
    even = SessionWalk(fresh=0.0, repeat_weight=0.0).fit(log)
    plain = dict(zip(even.items, even._score(asked.encode(even.items)).toarray()[0], strict=True))
    assert np.isclose(plain["b"], plain["d"]) and STALE * 0.9 < scores["b"] / scores["d"] < STALE * 1.1
    assert SessionWalk(repeat_weight=3.0).fit(log).rank(asked, 1, "none").frame().item_id.tolist() == ["a"]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 12))
def test_keep_strongest_keeps_the_strongest(seed, n):
    from scipy import sparse

    values = np.random.default_rng(seed).integers(-2, 6, (7, 11)).astype(np.float32)  # ties on purpose
    kept = keep_strongest(sparse.csr_matrix(values), n).toarray()
    for row, out in zip(values, kept, strict=True):
        best = [j for j in sorted(range(11), key=lambda j: (-row[j], j)) if row[j] > 0][:n]
        assert sorted(best) == np.flatnonzero(out).tolist() and (out[best] == row[best]).all()


# linear


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 40), block=st.integers(1, 50))
def test_the_inverse_in_place_is_the_inverse(seed, n, block):
    root = np.random.default_rng(seed).normal(size=(n + 5, n)).astype(np.float32)
    gram = root.T @ root + 2 * np.eye(n, dtype=np.float32)
    upper_is_not_read = np.tril(gram) + np.triu(np.full((n, n), np.float32(np.nan)), 1)
    found = invert_in_place(upper_is_not_read, block)
    np.testing.assert_allclose(found, np.linalg.inv(gram.astype(float)), atol=2e-5)
    assert (found == found.T).all()


def test_ease_is_the_closed_form():
    met = dense(LOG)
    inverse = np.linalg.inv(met.T @ met + 20.0 * np.eye(met.shape[1]))
    wanted = -inverse / np.diag(inverse)
    np.fill_diagonal(wanted, 0)
    np.testing.assert_allclose(ease_weights(LOG.matrix().matrix, 20.0), wanted, atol=1e-5)


def test_ease_refuses_what_does_not_fit_with_the_figure():
    with pytest.raises(ValueError, match=r"ease needs 0\.0 GB for the 25 items of random and may take memory_gb=0"):
        EASE(memory_gb=0.0).fit(LOG)


def test_rp3beta_is_three_steps():
    met = dense(LOG)
    to_item = (met / met.sum(1, keepdims=True)) ** 0.8
    to_user = (met.T / met.sum(0)[:, None]) ** 0.8
    wanted = (to_user * (met.T > 0)) @ (to_item * (met > 0)) / met.sum(0)[None, :] ** 0.4
    np.fill_diagonal(wanted, 0)
    found = walk_weights(LOG.matrix().matrix, 0.8, 0.4, 10_000)
    np.testing.assert_allclose(found.toarray(), wanted, rtol=1e-4)
    blocks = walk_weights(LOG.matrix().matrix, 0.8, 0.4, 5, most=50)
    assert (blocks != walk_weights(LOG.matrix().matrix, 0.8, 0.4, 5)).nnz == 0  # blocks do not matter
    assert np.diff(RP3beta(neighbours=3).fit(LOG).state["weights"].indptr).max() <= 3


# factors


@pytest.mark.parametrize(
    ("weighted", "penalty", "factors"), [(False, 0.05, 8), (True, 0.05, 8), (False, 0.0, 3), (True, 0.05, 30)]
)
def test_als_is_implicits_and_folds_in_like_recalculate_user(weighted, penalty, factors):
    from implicit.cpu.als import AlternatingLeastSquares
    from implicit.nearest_neighbours import bm25_weight

    kinds = {"view": 1.0, "addtocart": 2.0, "transaction": 3.0}
    confidence = LOG.matrix(kinds).matrix
    theirs = AlternatingLeastSquares(factors, penalty, 3.0, dtype=np.float64, iterations=7, random_state=5)
    told = (bm25_weight(confidence).tocsr().astype(np.float32) if weighted else confidence).astype(float)
    theirs.fit(told, show_progress=False)
    ours = ALS(factors=factors, regularization=penalty, alpha=3.0, iterations=7, seed=5, bm25=weighted).fit(LOG)
    np.testing.assert_allclose(ours.state["item_vectors"], theirs.item_factors, rtol=1e-5, atol=1e-6)
    wanted = theirs.recalculate_user(np.arange(confidence.shape[0]), told)
    found = ours.fold(ours.known.encode(ours.items))
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
    back = ours.similar_items([ours.items[2]], k=5)
    theirs_similar = theirs.similar_items(2, N=6)
    assert back.codes[0].tolist() == theirs_similar[0][1:].tolist()
    np.testing.assert_allclose(back.scores[0], theirs_similar[1][1:], rtol=1e-4)


def test_bm25_is_implicits():
    from implicit.nearest_neighbours import bm25_weight

    matrix = LOG.matrix({"view": 1.0, "addtocart": 4.0, "transaction": 9.0}).matrix
    found = bm25(matrix, bm25_idf(matrix), matrix.sum() / matrix.shape[0])
    np.testing.assert_allclose(found.toarray(), bm25_weight(matrix).toarray(), rtol=1e-5)


def test_bpr_is_implicits_on_one_thread():
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    theirs = BayesianPersonalizedRanking(8, 0.1, 0.01, iterations=30, num_threads=1, random_state=3)
    theirs.fit(LOG.matrix().matrix, show_progress=False)
    ours = BPR(factors=8, learning_rate=0.1, iterations=30, seed=3).fit(LOG)
    scores = ours._score(ours.known.encode(ours.items))
    np.testing.assert_allclose(scores, theirs.user_factors @ theirs.item_factors.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [BPR, LightFMWarp])
def test_known_users_are_stored_and_others_folded_in(kind, tmp_path):
    model = kind(factors=4).fit(LOG)
    users = LOG.users[:4]
    assert set(model.recommend(users, k=3).frame().source) == {"stored"}
    asked = LOG.histories(users)
    nameless = Histories(asked.indptr, asked.items, asked.events, asked.times, asked.at, None, asked.event_names)
    assert set(model.rank(nameless, k=3).frame().source) == {"fold_in"}
    earlier = LOG.histories(users, at=int(np.median(LOG.moments)))
    assert (stored_rows(model, earlier.encode(model.items)) == -1).any()  # whose history is another than at the fit
    assert not np.array_equal(model.rank(nameless, k=3).scores, model.recommend(users, k=3).scores)
    again = load(model.save(tmp_path / "m")).recommend(users, k=3)
    assert set(again.frame().source) == {"stored"} and model.scoring == "stored"


def test_strangers_are_folded_in_near_their_stored_lists(shop_split):
    """The map is fitted on known users, so for them it must say more than popularity does."""
    model = BPR(factors=16, iterations=40).fit(shop_split.known("test"))
    stored, guessed = (
        evaluation.evaluate(model, shop_split, "next_period", ks=(10,), strangers=s) for s in (False, True)
    )
    cases = splits.make_cases(shop_split, "next_period")
    share = pd.Index(cases.user_ids).isin(model.known.user_ids).mean()  # the others are cold
    assert stored.lists["stored_share", 10] == pytest.approx(share) and 0 < share < 1
    assert (stored.about["scoring"], guessed.about["scoring"]) == ("mixed", "fold_in")
    known = model.known.encode(model.items)
    exact = model.state["user_vectors"]
    from recsys_lab.models.base import mean_vectors

    left = exact - mean_vectors(known, model.state["item_vectors"]) @ model.state["fold"]
    assert (left**2).sum() < 0.8 * ((exact - exact.mean(0)) ** 2).sum()


# features


def launches(seed=0, users=300, kinds=6):
    """Users who keep to one category; items of the last day are new."""
    rng = np.random.default_rng(seed)
    rows, day = [], pd.Timestamp("2024-01-01", tz="UTC")
    for user in range(users):
        kind = user % kinds
        for d in sorted(rng.integers(0, 20, 6)):
            rows.append((user, kind * 10 + rng.integers(0, 8), day + pd.Timedelta(int(d), "D")))
        rows.append(
            (user, kind * 10 + 8 + rng.integers(0, 2), day + pd.Timedelta(25, "D"))
        )  # 8 and 9 are launched then
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).assign(event="view")
    items = np.arange(kinds * 10)
    facts = pd.DataFrame({"item_id": items, "property": "categoryid", "value": (items // 10).astype(str)})
    prices = pd.DataFrame({"item_id": items, "property": "price", "value": (items * 1.5 + 1).astype(str)})
    properties = pd.concat([facts, prices], ignore_index=True).assign(timestamp=day - pd.Timedelta(1, "D"))
    return Dataset("launches", frame.sort_values("timestamp", ignore_index=True), properties)


def test_features_recommend_what_nobody_had_met():
    """The sign test: under a chronological cold-item split the hybrid clearly beats plain collaborative filtering."""
    split = splits.make(launches(), test="2024-01-25", valid=0.1)
    asked = {"protocol": "next_period", "ks": (10,)}
    hybrid, plain = (
        evaluation.evaluate(kind(factors=16, epochs=30), split, **asked) for kind in (LightFMHybrid, LightFMWarp)
    )
    row = hybrid.compare(plain, "recall", 10, "item_popularity=unseen")
    assert plain.mean("recall", 10) == 0 and row["low"] > 0.25  # two new items in a category of ten, ten places
    chance = 10 / 60
    assert hybrid.mean("recall", 10) > 2 * chance


def test_prices_are_cut_into_bands_as_known(shop):
    log = launches()
    bands = price_bands(log, log.items)
    assert (np.bincount(bands) == len(log.items) / BANDS).all()
    assert (np.diff(bands[np.argsort(log.items.to_numpy())]) >= 0).all()  # dearer items, higher bands
    assert (price_bands(random_log(0), random_log(0).items) == -1).all()
    cutoff = splits.make(shop).cutoff("test")
    late = shop.properties[shop.properties.timestamp >= pd.Timestamp(cutoff, unit="ms", tz="UTC")]
    assert len(late) and price_bands(shop.before(cutoff), shop.items).shape == (len(shop.items),)


def test_sources_are_named_once():
    assert len(set(SOURCES)) == len(SOURCES)


def test_fold_in_has_an_intercept():
    """Vectors that are a linear map of the means and a constant are found again, the constant too; without it they would be far off."""
    rng = np.random.default_rng(0)
    histories = Histories.from_lists([rng.choice(30, 5, replace=False).tolist() for _ in range(400)]).encode(
        pd.Index(range(30))
    )
    vectors = rng.normal(size=(30, 4)).astype(np.float32)
    means = mean_vectors(histories, vectors)
    wanted = means[:, :4] @ rng.normal(size=(4, 3)) + np.array([5.0, -3.0, 1.0])
    found = means @ fold_map(means, wanted, ridge=1e-6)
    assert np.abs(found - wanted).max() < 0.01
    nobody = mean_vectors(Histories.from_lists([[]]).encode(pd.Index(range(30))), vectors)
    assert np.abs(nobody @ fold_map(means, wanted, ridge=1e-6) - [5, -3, 1]).max() < 0.01
