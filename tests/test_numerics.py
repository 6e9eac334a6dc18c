"""Sums that do not depend on their order, grids, and numbers that belong to what they are drawn for."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys_lab import intervals, topk
from recsys_lab.models.als import solve_users
from recsys_lab.numerics import (
    FEATURE_STEP,
    SCORE_BITS,
    exact_pairs,
    exact_product,
    fixed_point_bits,
    hash_uniform,
    round_scores,
    round_to_grid,
    sparse_product,
    sum_rows,
    to_fixed_point,
    weigh_columns,
    weighted_sums,
)

seeds = st.integers(0, 100_000)


def drawn(seed, n, m, f):
    """Queries and vectors whose rows lie many powers of two apart."""
    rng = np.random.default_rng(seed)
    scale = [2.0 ** rng.integers(-20, 20, size) for size in (n, m)]
    a, b = (rng.normal(size=(size, f)) * s[:, None] for size, s in zip((n, m), scale, strict=True))
    return a, to_fixed_point(b).astype(np.float32)


@given(seeds, st.integers(1, 5), st.integers(1, 70), st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_products_are_exact_whatever_the_order_and_the_batch(seed, n, m, f):
    queries, vectors = drawn(seed, n, m, f)
    whole = exact_product(queries, vectors)
    order = np.random.default_rng(seed).permutation(f)
    assert (exact_product(queries[:, order], vectors[:, order]) == whole).all()
    for row in range(n):
        assert (exact_product(queries[row : row + 1], vectors, block=1) == whole[row]).all()
    row, column = np.indices(whole.shape).reshape(2, -1)
    assert (exact_pairs(queries, vectors, row, column).astype(np.float32) == whole.ravel()).all()
    fixed = to_fixed_point(queries)
    true = sum(Fraction(float(q)) * Fraction(float(v)) for q, v in zip(fixed[-1], vectors[-1], strict=True))
    assert np.float32(float(true)) == whole[-1, -1]  # no sum was rounded before the last step


@given(seeds, st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_fixed_point_keeps_what_it_gives_and_moves_by_half_a_step(seed, f):
    rows = drawn(seed, 4, 1, f)[0]
    fixed = to_fixed_point(rows)
    most = np.abs(rows).max(1, keepdims=True)
    assert (np.abs(fixed - rows) <= most * 2.0 ** -fixed_point_bits(f)).all()
    np.testing.assert_array_equal(to_fixed_point(fixed), fixed)
    single = fixed.astype(np.float32)  # a cast keeps it fixed: exact for long rows, coarser for short ones
    np.testing.assert_array_equal(to_fixed_point(single), single.astype(float))
    assert (to_fixed_point(np.zeros((2, f))) == 0).all() and to_fixed_point(np.zeros((0, f))).shape == (0, f)


def test_a_single_precision_product_would_not_do():
    """The check that can fail: in single precision the order of the factors does change results."""
    queries, vectors = drawn(0, 20, 200, 64)
    order = np.random.default_rng(0).permutation(64)
    single = queries.astype(np.float32)
    assert (
        np.cumsum(single[:, None] * vectors, axis=2)[..., -1]
        != np.cumsum((single[:, None] * vectors)[..., order], axis=2)[..., -1]
    ).any()


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_sparse_products_are_those_of_double_precision(seed):
    rng = np.random.default_rng(seed)
    a, b = (
        sparse.random_array(shape, density=0.3, rng=rng, dtype=np.float32, format="csr")
        for shape in ((6, 30), (30, 20))
    )
    found = sparse_product(a, b)
    wanted = a.astype(float).toarray() @ b.astype(float).toarray()
    np.testing.assert_allclose(found.toarray(), wanted, rtol=1e-7)
    assert found.dtype == np.float32 and (sparse_product(a[2:3], b) != found[2:3]).nnz == 0
    vectors = rng.normal(size=(30, 4)).astype(np.float32)
    np.testing.assert_allclose(weighted_sums(a, vectors), a.astype(float).toarray() @ vectors, rtol=1e-12, atol=1e-15)
    assert (weighted_sums(a[3:4], vectors) == weighted_sums(a, vectors)[3:4]).all()
    assert (
        sparse_product(a[:0], b).shape == (0, 20)
        and not sparse_product(sparse.csr_matrix((2, 30), dtype=np.float32), b).nnz
    )


@given(seeds, st.integers(1, 3000))
@settings(max_examples=30, deadline=None)
def test_row_sums_do_not_depend_on_the_rows_beside(seed, m):
    block = np.random.default_rng(seed).normal(size=(5, m)).astype(np.float32)
    for squared in (False, True):
        whole = sum_rows(block, squared)
        assert (np.concatenate([sum_rows(block[r : r + 1], squared) for r in range(5)]) == whole).all()
        assert (sum_rows(np.asfortranarray(block), squared, most=m) == whole).all()
        exact = [sum(Fraction(float(x)) ** (2 if squared else 1) for x in row) for row in block]
        np.testing.assert_allclose(whole, [float(x) for x in exact], atol=1e-10 * m)
    weights = np.random.default_rng(seed + 1).normal(size=m)
    np.testing.assert_allclose(weigh_columns(block, weights), block @ weights, atol=1e-9 * m)
    assert (weigh_columns(block[2:3], weights) == weigh_columns(block, weights)[2:3]).all()


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40))
def test_rounding_never_turns_scores_round(values):
    scores = np.array(sorted(values), np.float32)
    near = round_scores(scores)
    assert (np.diff(near) >= 0).all() and (round_scores(near) == near).all() and (round_scores(-scores) == -near).all()
    normal = np.abs(scores) > 1e-37
    assert (np.abs(near - scores)[normal] <= np.abs(scores)[normal] * 2.0**-SCORE_BITS).all()
    assert scores.tolist() == sorted(values)  # the argument is left alone


def test_rounding_keeps_what_is_no_number():
    odd = round_scores(np.array([np.inf, -np.inf, np.nan, 0.0]))
    assert odd[:2].tolist() == [np.inf, -np.inf] and np.isnan(odd[2]) and odd[3] == 0
    assert round_scores(np.zeros((0, 3))).shape == (0, 3) and round_scores(np.ones((2, 2), int)).tolist() == [
        [1, 1],
        [1, 1],
    ]
    assert np.isnan(round_scores(np.array([np.uint32(0xFFFFFFFF)]).view(np.float32)))[
        0
    ]  # every payload stays no number


@given(st.lists(st.floats(-1000, 1000), min_size=1, max_size=40))
def test_the_grid_moves_by_half_a_step_at_most(values):
    before = np.array(values)
    after = round_to_grid(before.copy())
    assert (np.abs(after - before) <= FEATURE_STEP / 2).all() and (round_to_grid(after.copy()) == after).all()
    assert ((after / FEATURE_STEP) % 1 == 0).all()


def test_near_ties_break_by_code_in_dense_and_sparse_lists():
    """The same sums in another order: without rounding the last bit would order them."""
    rng = np.random.default_rng(3)
    terms = rng.random((40, 12)).astype(np.float32)
    dense = np.empty((40, 10), np.float32)
    for item in range(10):  # ten items with equal scores, each added up in an order of its own
        dense[:, item] = np.cumsum(terms[:, rng.permutation(12)], axis=1, dtype=np.float32)[:, -1]
    assert (dense.max(1) > dense.min(1)).any()
    tied = round_scores(dense).max(1) == round_scores(dense).min(1)  # a few lie across an edge of the rounding
    assert tied.mean() > 0.7
    for codes in (topk.top_k(dense, 10)[0], topk.top_k_sparse(sparse.csr_matrix(dense), 10)[0]):
        assert (codes[tied] == np.arange(10)).all()


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_drawn_numbers_belong_to_their_names(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 10**9, (2, 50))
    whole = hash_uniform(seed, a, b)
    order = rng.permutation(50)
    assert (hash_uniform(seed, a[order], b[order]) == whole[order]).all() and ((whole >= 0) & (whole < 1)).all()
    assert (hash_uniform(seed, b, a) != whole).mean() > 0.9 and (hash_uniform(seed + 1, a, b) != whole).all()


def test_drawn_numbers_are_even():
    found = hash_uniform(0, np.repeat(np.arange(200), 200), np.tile(np.arange(200), 200))
    counts = np.histogram(found, 50, (0, 1))[0]
    assert ((counts - 800) ** 2 / 800).sum() < 100  # chi squared with 49 degrees of freedom: 85 in one of a thousand
    assert (
        abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.02 and abs(np.corrcoef(found.reshape(200, 200))[0, 1]) < 0.3
    )


def test_known_numbers_of_splitmix():
    """The first outputs of SplitMix64 seeded with 0, as its authors' code gives them: 0xE220A8397B1DCDAF first."""
    assert hash_uniform(0)[()] == (0xE220A8397B1DCDAF >> 11) * 2.0**-53


@pytest.mark.parametrize("penalty", [0.0, 0.1])
def test_users_are_solved_alone_as_in_a_batch(penalty):
    rng = np.random.default_rng(1)
    vectors = to_fixed_point(rng.normal(size=(30, 6))).astype(np.float32)
    met = sparse.random_array((40, 30), density=0.25, rng=rng, format="csr")
    met.data = rng.choice([-2.0, 1.0, 3.0, 9.0], met.nnz)
    gram = vectors.T.astype(float) @ vectors
    whole = solve_users(met, vectors, gram, penalty)
    for row in range(40):
        alone = solve_users(met[row : row + 1], vectors, gram, penalty)[0]
        np.testing.assert_allclose(alone, whole[row], rtol=1e-12, atol=1e-14)
        y, c = vectors[met[[row]].indices].astype(float), met[[row]].data
        left = gram + penalty * np.eye(6) + (y.T * (np.abs(c) - 1)) @ y
        wanted = np.linalg.solve(left, y.T @ np.maximum(c, 0))
        np.testing.assert_allclose(whole[row], wanted, rtol=1e-8, atol=1e-10)
    assert (solve_users(met, vectors, gram, penalty, most=1) == whole).all()


def test_the_bootstrap_does_not_depend_on_the_order_of_columns_or_blocks():
    rng = np.random.default_rng(0)
    means = rng.random((2500, 3)) * 7
    means[rng.random((2500, 3)) < 0.1] = np.nan
    whole = intervals.bootstrap(means, 60, 5)
    assert (intervals.bootstrap(means, 60, 5, block=7)[:7] == whole[:7]).all()
    assert (intervals.bootstrap(means[:, ::-1], 60, 5) == whole[:, ::-1]).all()


def test_standard_errors_agree_with_the_bootstrap():
    rng = np.random.default_rng(2)
    users = rng.integers(0, 300, 2000)
    good = rng.random((2000, 3)) * np.array([1.0, 1.05, 0.9]) + rng.random(300)[users][:, None]
    means = intervals.user_means(good, users)
    mean, behind, error = intervals.gaps_to_best(means)
    samples = intervals.bootstrap(means, 4000, 0)
    assert mean == pytest.approx(np.nanmean(means, 0)) and mean.argmax() == 1 and behind[1] == error[1] == 0
    assert error[[0, 2]] == pytest.approx((samples[:, [1]] - samples)[:, [0, 2]].std(0), rel=0.1)


def test_a_last_bit_changes_no_choice():
    """Settings that cannot be told apart, whichever is luckier: the first stays, and noise far below theirs moves nothing."""
    rng = np.random.default_rng(4)
    users, base = np.arange(300), rng.random(300)
    first_is_last = 0
    for _ in range(20):
        noisy = [base + rng.normal(0, 0.05, 300) for _ in range(3)]
        first_is_last += np.argmax([v.mean() for v in noisy]) != intervals.choose_within_error(noisy, users)
        first = intervals.choose_within_error(noisy, users)
        for _ in range(5):
            moved = [v + rng.normal(0, 1e-9, 300) for v in noisy]
            assert intervals.choose_within_error(moved, users) == first
    assert first_is_last  # the rule does not take the largest mean
    assert intervals.choose_within_error([base, base + 0.1, base + 0.1], users) == 1  # surely worse is left behind
