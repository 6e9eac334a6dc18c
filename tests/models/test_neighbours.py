"""The models by neighbours against their definitions, written out plainly."""

import numpy as np
import pandas as pd
from helpers import LOG, dense, random_log, untimed_sessions
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys_lab.datasets import Dataset
from recsys_lab.histories import Histories
from recsys_lab.models import neighbours
from recsys_lab.models.linear import RP3beta, walk_weights
from recsys_lab.models.neighbours import (
    MIN_RECENCY_WEIGHT,
    ItemKNN,
    SequentialRules,
    SessionKNN,
    SessionWalk,
    UserKNN,
    even_blocks,
    follow_counts,
    item_similarity,
    keep_strongest,
    walk_similarity,
)


def test_item_similarity_is_the_formula_and_agrees_with_implicit():
    from implicit.nearest_neighbours import CosineRecommender

    matrix = random_log(9).matrix().matrix
    n = matrix.shape[1]
    dense = matrix.toarray()
    both = dense.T @ dense
    norm = np.sqrt(np.diag(both))
    for shrinkage, at_least in ((0.0, 1), (3.0, 1), (3.0, 2)):
        wanted = np.where(both >= at_least, both / (norm[:, None] * norm + shrinkage), 0)
        np.fill_diagonal(wanted, 0)
        np.testing.assert_allclose(item_similarity(matrix, shrinkage, at_least, n).toarray(), wanted, rtol=1e-5)
        blocks = item_similarity(matrix, shrinkage, at_least, 5, most=50)
        assert (blocks != item_similarity(matrix, shrinkage, at_least, 5)).nnz == 0  # blocks do not matter
        for row in range(n):
            best = sorted(np.flatnonzero(wanted[row]), key=lambda j, row=row: (-np.float32(wanted[row, j]), j))[:5]
            assert (
                set(blocks[row].indices) == set(best)
                or np.isclose(np.sort(wanted[row])[-6:-4], np.sort(wanted[row])[-5]).any()
            )
    theirs = CosineRecommender(K=n)
    theirs.fit(matrix.astype(np.float64), show_progress=False)
    full = theirs.similarity.toarray()
    np.fill_diagonal(full, 0)
    np.testing.assert_allclose(item_similarity(matrix, 0.0, 1, n).toarray(), full, rtol=1e-5)


def test_unit_users_are_cosines_of_scaled_rows():
    log = random_log(9)
    dense = log.matrix().matrix.toarray()
    scaled = dense / np.linalg.norm(dense, axis=1, keepdims=True)
    norm = np.linalg.norm(scaled, axis=0)
    wanted = scaled.T @ scaled / np.outer(norm, norm)
    np.fill_diagonal(wanted, 0)
    model = ItemKNN(shrinkage=0.0, user_norm=1.0, n_neighbors=1000).fit(log)
    np.testing.assert_allclose(model.state["similarity"].toarray(), wanted, rtol=1e-4, atol=1e-6)


def test_min_cooccurrence_counts_users_whatever_they_weigh():
    log = random_log(9)
    thin = (
        ItemKNN(min_cooccurrence=3, shrinkage=0.0, user_norm=1.0, n_neighbors=1000)
        .fit(log)
        .state["similarity"]
        .toarray()
        > 0
    )
    both = log.matrix().matrix.T @ log.matrix().matrix
    wanted = both.toarray() >= 3
    np.fill_diagonal(wanted, False)
    assert (thin == wanted).all()


def test_user_knn_is_the_cosine_of_users():
    met, weight = dense(LOG), np.maximum(dense(LOG).sum(0), 1) ** -0.25
    rows = met * weight
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    alike = unit @ unit.T
    model = UserKNN(n_neighbors=1000, item_norm=0.5).fit(LOG)
    known = model.known.encode(model.items)
    strangers = Histories(known.indptr, known.items, known.events, known.times, known.at, None, known.event_names)
    np.testing.assert_allclose(model._score(strangers).toarray(), alike @ met, rtol=1e-4)
    np.fill_diagonal(alike, 0)  # nobody is a neighbour of themselves
    np.testing.assert_allclose(model._score(known).toarray(), alike @ met, rtol=1e-4)
    few = UserKNN(n_neighbors=3).fit(LOG)
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


def plain_session_scores(model, visits, prefix):
    """V-SkNN written out: dictionaries and loops."""
    c = model.config
    holding = {}
    for v, items in enumerate(visits):
        for item in items:
            holding.setdefault(item, []).append(v) if v not in holding.get(item, []) else None
    idf = {i: np.log(len(visits) / len(vs)) ** c.idf for i, vs in holding.items()}
    steps = {}
    for back, item in enumerate(reversed(prefix[-c.max_history :])):
        steps.setdefault(item, back)
    alike, nearest = {}, {}
    for item, back in sorted(steps.items(), key=lambda pair: -pair[1]):
        for v in sorted(holding.get(item, []), reverse=True)[: c.sample_size]:
            fade = np.exp(-back / c.session_decay) if c.session_decay else 1
            alike[v] = alike.get(v, 0) + fade * idf[item]
            nearest[v] = len(visits[v]) - 1 - visits[v][::-1].index(item)
    scores = {}
    for v in sorted(alike, key=lambda v: (-alike[v], -v))[: c.n_neighbors]:
        for place, item in enumerate(visits[v]):
            away = abs(place - nearest[v])
            near = (
                c.shared_item_weight
                if not away
                else np.exp(-(away - 1) / c.neighbor_position_decay)
                if c.neighbor_position_decay
                else 1
            )
            scores[item] = scores.get(item, 0) + alike[v] * near * idf[item]
    return scores


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), decay=st.sampled_from([0.0, 0.7, 3.0]), place=st.sampled_from([0.0, 1.5]))
def test_session_knn_is_its_definition(seed, decay, place):
    log = untimed_sessions(seed, sessions=40, items=12)
    model = SessionKNN(
        session_decay=decay, neighbor_position_decay=place, idf=1.0, sample_size=6, n_neighbors=9, max_history=4
    ).fit(log)
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
    np.testing.assert_allclose(walk_similarity(both, 0.3, 2.0, 10_000).toarray(), wanted, rtol=1e-4, atol=1e-7)


def test_blocks_of_rows_do_not_change_the_walk(monkeypatch):
    """A large graph is walked a block of rows at a time, down to one row."""
    half = sparse.random(80, 80, 0.1, random_state=0, dtype=np.float32)
    counts = (half + half.T).tocsr()
    whole = walk_similarity(counts, 0.3, 2.0, 12)
    monkeypatch.setattr(neighbours, "even_blocks", lambda work, most: even_blocks(work, 1.0))
    alone = walk_similarity(counts, 0.3, 2.0, 12)
    np.testing.assert_array_equal(alone.toarray(), whole.toarray())
    assert not whole.diagonal().any()


def test_the_walk_forgets_stale_items_and_returns_to_own_ones():
    sessions = [["a", "b"]] * 3 + [["a", "c"]] * 30 + [["a", "d"]] * 3
    frame = pd.DataFrame([(u, i) for u, items in enumerate(sessions) for i in items], columns=["user_id", "item_id"])
    log = Dataset("fashion", frame.assign(event="view"), has_times=False)
    asked = Histories.from_lists([["a"]])
    first = SessionWalk(recency_decay=0.1, repeat_weight=0.0).fit(log)
    scores = dict(zip(first.items, first._score(asked.encode(first.items)).toarray()[0], strict=True))
    even = SessionWalk(recency_decay=0.0, repeat_weight=0.0).fit(log)
    plain = dict(zip(even.items, even._score(asked.encode(even.items)).toarray()[0], strict=True))
    assert (
        np.isclose(plain["b"], plain["d"])
        and MIN_RECENCY_WEIGHT * 0.9 < scores["b"] / scores["d"] < MIN_RECENCY_WEIGHT * 1.1
    )
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
    assert np.diff(RP3beta(n_neighbors=3).fit(LOG).state["weights"].indptr).max() <= 3
