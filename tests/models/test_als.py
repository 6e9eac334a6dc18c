"""ALS and BPR beside implicit."""

import numpy as np
import pandas as pd
import pytest
from helpers import LOG
from hypothesis import given
from hypothesis import strategies as st

from recsys_lab import evaluation, splits
from recsys_lab.models.als import ALS, BPR, IALS, bm25, bm25_idf, frequency_penalty
from recsys_lab.models.factors import mean_vectors, sized_factors


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
    ours = BPR(factors=8, learning_rate=0.1, epochs=30, seed=3).fit(LOG)
    scores = ours._score(ours.known.encode(ours.items))
    np.testing.assert_allclose(scores, theirs.user_factors @ theirs.item_factors.T, rtol=1e-4, atol=1e-5)


def test_strangers_are_folded_in_near_their_stored_lists(shop_split):
    """The map is fitted on known users, so for them it must say more than popularity does."""
    model = BPR(factors=16, epochs=40).fit(shop_split.known("test"))
    stored, guessed = (
        evaluation.evaluate(model, shop_split, "next_period", ks=(10,), hide_user_ids=s) for s in (False, True)
    )
    cases = splits.make_cases(shop_split, "next_period")
    share = pd.Index(cases.user_ids).isin(model.known.user_ids).mean()  # the others are cold
    assert stored.lists["stored_share", 10] == pytest.approx(share) and 0 < share < 1
    assert (stored.about["scoring"], guessed.about["scoring"]) == ("mixed", "fold_in")
    known = model.known.encode(model.items)
    exact = model.state["user_vectors"]

    left = exact - mean_vectors(known, model.state["item_vectors"]) @ model.state["fold"]
    assert (left**2).sum() < 0.8 * ((exact - exact.mean(0)) ** 2).sum()


def test_ials_solves_its_least_squares():
    """Every vector is the solution of its normal equations given those of the other side, with all items unobserved but its own."""
    for factors in (3, 12):
        model = IALS(
            factors=factors, iterations=30, unobserved_weight=0.3, regularization=0.02, frequency_exponent=0.7
        ).fit(LOG)
        items = model.state["item_vectors"].astype(float)
        known = model.known.encode(model.items)
        trust = model._trust(known, len(model.items)).toarray()
        penalty = frequency_penalty(model.config, (trust > 0).sum(1), len(items))
        users = np.array(
            [
                np.linalg.solve((items.T * t) @ items + 0.3 * items.T @ items + p * np.eye(factors), items.T @ t)
                for t, p in zip(trust, penalty, strict=True)
            ]
        )
        np.testing.assert_allclose(model.fold(known), users, rtol=0, atol=1e-4 * np.abs(users).max())


def test_the_penalty_of_ials_is_by_the_size_of_the_log_unless_it_is_given(tmp_path):
    """`100 / sqrt(users x items)`, at most 0.2; a fit with that penalty given is the same, also where a history is folded in."""
    sizes = [
        (30_000, 40_000, 100 / np.sqrt(1.2e9)),
        (1_000, 13_000, 100 / np.sqrt(1.3e7)),
        (400, 150, 0.2),
        (0, 5, 0.2),
    ]
    for users, items, penalty in sizes:
        assert IALS().config.for_size(users, items).regularization == pytest.approx(penalty)
    assert IALS(regularization=0.07).config.for_size(30_000, 40_000).regularization == 0.07
    log = LOG.where(slice(0, len(LOG)))
    asked = log.histories()
    by_size = IALS(factors=4).fit(log)
    given = IALS(factors=4, regularization=IALS().config.for_size(len(log.users), len(log.items)).regularization).fit(
        log
    )
    stored = IALS.load(by_size.save(tmp_path / "fit"))
    for model in (by_size, stored):
        np.testing.assert_array_equal(model.fold(asked.encode(model.items)), given.fold(asked.encode(given.items)))
    assert by_size.sized.regularization == given.config.regularization and by_size.config.regularization == 0


@given(users=st.integers(0, 10**8), items=st.integers(0, 10**7))
def test_vectors_by_size_are_powers_of_two_within_bounds_and_memory(users, items):
    length = sized_factors(users, items, 64, 256)
    assert length in (16, 32, 64, 128, 256)
    assert length == 16 or length * (users + items) <= 2**27
    assert length >= 64 or 2 * length * (users + items) > 2**27
    assert sized_factors(2 * users, items, 64, 256) >= length or 2 * length * (2 * users + items) > 2**27


def test_vectors_are_longer_for_a_larger_catalogue():
    """Nearest power of two to sqrt(users x items) / 64; 1.4 million visitors leave room for the shortest alone."""
    sizes = {(400, 150): 64, (24_000, 4_300): 128, (30_000, 41_000): 256, (1_400_000, 235_000): 64}
    assert {size: ALS().config.for_size(*size).factors for size in sizes} == sizes
    assert IALS().config.for_size(1_400_000, 235_000).factors == 64
    assert IALS().config.for_size(30_000, 41_000).factors == 512 and IALS().config.for_size(400, 150).factors == 256
    assert (
        ALS(factors=7).config.for_size(30_000, 41_000).factors == IALS(factors=7).config.for_size(30, 40).factors == 7
    )
    log = LOG.where(slice(0, len(LOG)))
    assert ALS(iterations=1).fit(log).state["item_vectors"].shape[1] == 64
    assert ALS()._memory(30_000, 41_000, 10**6) > 3 * ALS(factors=64)._memory(30_000, 41_000, 0)


def test_ials_lowers_its_loss_in_every_turn():
    """Weighted squares of events and of all pairs, and the penalties by frequency, as Rendle et al. write it."""

    def loss(model):
        items, users = (
            model.state["item_vectors"].astype(float),
            model.fold(model.known.encode(model.items)).astype(float),
        )
        trust = model._trust(model.known.encode(model.items), len(items)).toarray()
        scores = users @ items.T
        penalties = [
            frequency_penalty(model.config, (trust > 0).sum(axis), n) for axis, n in ((1, len(items)), (0, len(users)))
        ]
        squares = sum((p * (v**2).sum(1)).sum() for p, v in zip(penalties, (users, items), strict=True))
        return (trust * (1 - scores) ** 2).sum() + model.config.unobserved_weight * (scores**2).sum() + squares

    for factors in (3, 30):
        losses = [
            loss(IALS(factors=factors, iterations=n, unobserved_weight=0.3, regularization=0.02).fit(LOG))
            for n in (1, 2, 4, 8, 16)
        ]
        assert losses == sorted(losses, reverse=True) and losses[-1] < 0.95 * losses[0]
