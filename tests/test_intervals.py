"""Intervals, families and choices: against textbooks, against simulated truth, and at the edges where little is known."""

import interval_grid
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from recsys_lab import intervals
from recsys_lab.intervals import FEW, compare_family, is_shown, mean_intervals, paired_p


def test_intervals_hold_what_they_say():
    """The short form of `interval_grid.py`: 1,000 worlds of each kind at two sizes; a clustered or percentile interval would be far off."""
    rows = list(interval_grid.grid(1000, (50, 500)))
    assert len(rows) == 2 * (len(interval_grid.MEANS) + len(interval_grid.NULLS) + len(interval_grid.SHIFTED))
    assert not list(interval_grid.faults(rows, 1000))


def test_means_over_cases_would_not_hold():
    """The same worlds with cases for visitors: a mean over events of unequal visitors has intervals that are far too narrow."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        cases = np.minimum(rng.zipf(1.7, 200), 500)
        good = np.repeat(rng.random(200) < 0.3, cases).astype(float)
        low, high = mean_intervals(good[:, None])
        held += low[0] <= 0.3 <= high[0]
    assert held / 300 < 0.8


@given(st.integers(0, 10_000), st.integers(13, 80))
@settings(max_examples=30, deadline=None)
def test_the_paired_test_is_students(seed, n):
    d = np.random.default_rng(seed).normal(0.1, 1, n)
    assert paired_p(d) == pytest.approx(max(stats.ttest_1samp(d, 0).pvalue, 2.0 ** (1 - n)), rel=1e-9)
    low, high = intervals.difference_intervals(d[:, None])
    assert (low[0], high[0]) == pytest.approx(stats.t.interval(0.95, n - 1, d.mean(), stats.sem(d)))


@given(st.lists(st.floats(-1, 1, allow_subnormal=False).map(lambda x: round(x, 3)), min_size=2, max_size=8))
@example([0.544, 0.034, -1.0, -0.578])  # four assignments of signs are equally far, and rounding told two of them apart
@settings(max_examples=60, deadline=None)
def test_few_differences_are_tested_by_all_signs(differences):
    d = np.array(differences)
    found = stats.permutation_test(
        (d,), lambda x, axis: x.mean(axis), permutation_type="samples", n_resamples=10**6, vectorized=True
    )
    assert paired_p(d) == pytest.approx(found.pvalue, abs=1e-9)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_an_interval_never_contradicts_its_p_value(seed):
    """Whatever is shown has a corrected p below 5% and an interval off 0; turning all round turns all round."""
    rng = np.random.default_rng(seed)
    gaps = [rng.normal(rng.choice([0, 0.1, 0.3]), 0.3, rng.integers(1, 60)) * (rng.random() < 0.8) for _ in range(4)]
    rows, back = compare_family(gaps), compare_family([-g for g in gaps])
    for row, other in zip(rows, back, strict=True):
        assert row["low"] <= row["difference"] <= row["high"] and row["p"] <= row["p_adjusted"] <= 1
        assert other["low"] == pytest.approx(-row["high"]) and other["p_adjusted"] == row["p_adjusted"]
        assert is_shown(row) == is_shown(other)
        if row["n_differing"] > intervals.EXACT:
            assert (row["p_adjusted"] < 0.05) == (row["low"] > 0 or row["high"] < 0)


def test_few_visitors_show_nothing():
    for n in (1, 2, 3, FEW - 1):
        [row] = compare_family([np.ones(n)])
        assert not is_shown(row) and row["high"] - row["low"] > 0
    assert is_shown(compare_family([np.ones(FEW)])[0])
    assert not is_shown(compare_family([np.r_[np.ones(FEW - 1), np.zeros(500)]])[0])  # asked, but not told apart
    low, high = mean_intervals(np.ones((9, 1)))
    assert low[0] < 0.75 and high[0] == 1  # nine of nine


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1, max_size=20))
def test_no_interval_leaves_what_is_possible(differences):
    """The mean difference of a metric between 0 and 1 lies between -1 and 1; the rest of the interval is as without bounds."""
    d = np.array(differences)
    [free], [bounded] = compare_family([d]), compare_family([d], 1)
    assert -1 <= bounded["low"] <= bounded["difference"] <= bounded["high"] <= 1
    assert (bounded["low"], bounded["high"]) == (max(free["low"], -1), min(free["high"], 1))


def test_families_are_corrected():
    """The same comparison alone and among nine others: p times ten by Holm's method, and a wider interval."""
    rng = np.random.default_rng(3)
    gap = rng.normal(0.13, 0.4, 60)
    [alone] = compare_family([gap])
    among = compare_family([gap, *(rng.normal(0, 0.4, 60) for _ in range(9))])[0]
    assert alone["p"] == among["p"] and alone["p_adjusted"] == alone["p"] < 0.05
    assert among["p_adjusted"] == pytest.approx(10 * alone["p"]) and among["low"] < 0 < alone["low"]
    assert is_shown(alone) and not is_shown(among)


def test_holm_by_hand():
    assert intervals.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert intervals.holm([0.9, 0.8]) == [1.0, 1.0] and intervals.holm([]) == []
    assert intervals.holm_levels([0.9, 0.001]) == pytest.approx([0.95, 0.975])


def test_the_confidence_set_keeps_the_best():
    """In 95 of 100 worlds (less four standard errors) the best model is in the set; one that is clearly worse is not."""
    rng, kept, dropped = np.random.default_rng(1), 0, 0
    for world in range(120):
        common = rng.normal(0, 0.3, 150)
        means = np.stack([common + rng.normal(gain, 0.2, 150) for gain in (0.0, 0.02, 0.0, -0.2)], axis=1)
        p = intervals.model_confidence_set(means, 300, world)
        kept += p[1] >= 0.05
        dropped += p[3] < 0.05
        assert p[means.mean(0).argmax()] == 1
    assert kept / 120 > 0.95 - 4 * np.sqrt(0.05 * 0.95 / 120) and dropped == 120
    order = [2, 0, 3, 1]
    assert intervals.model_confidence_set(means[:, order], 300, 0) == pytest.approx(
        intervals.model_confidence_set(means, 300, 0)[order]
    )


@pytest.mark.parametrize("n", [30, 2500])
def test_bootstrap_draws_spread_as_the_mean_does(n):
    """Also for many users: the standard deviation of the draws is the standard error, within a tenth."""
    values = np.random.default_rng(0).exponential(size=(n, 2))
    drawn = intervals.bootstrap(values, 2000, 1)
    assert drawn.std(0) == pytest.approx(values.std(0) / np.sqrt(n), rel=0.1)
    assert drawn.mean(0) == pytest.approx(values.mean(0), abs=4 * values.std() / np.sqrt(n * 2000))
