"""Top-k lists."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys_lab import topk


@given(st.integers(0, 100_000), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_top_k_is_a_sort_with_ties_by_code(seed, k):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (6, 9)).astype(float)
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    codes, best = topk.top_k(scores, k)
    stored = sparse.csr_matrix(np.where(np.isfinite(scores), scores + 1, 0))
    thin, _ = topk.top_k_sparse(stored, k)
    for row in range(6):
        wanted = [i for i in sorted(range(9), key=lambda i: (-scores[row, i], i)) if np.isfinite(scores[row, i])][:k]
        assert codes[row][codes[row] >= 0].tolist() == wanted == thin[row][thin[row] >= 0].tolist()
        assert (
            best[row][: len(wanted)].tolist() == scores[row, wanted].tolist()
            and np.isnan(best[row][len(wanted) :]).all()
        )


@given(
    st.integers(0, 100_000), st.integers(1, 4), st.sampled_from([1, 63, 520, 777]), st.sampled_from([0.0, 0.3, 0.999])
)
@settings(max_examples=60, deadline=None)
def test_top_k_of_long_rows_is_a_sort_too(seed, k, width, gone):
    """Long rows are first cut by the maxima of groups of columns."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, (4, width)).astype(np.float32)
    scores[rng.random(scores.shape) < gone] = rng.choice([-np.inf, np.nan])
    codes, _ = topk.top_k(scores, k)
    for row in range(4):
        there = np.flatnonzero(np.isfinite(scores[row]))
        wanted = sorted(there.tolist(), key=lambda i, row=row: (-scores[row, i], i))[:k]
        assert codes[row][codes[row] >= 0].tolist() == wanted


def test_top_k_frame_speaks_the_users_ids():
    top = topk.TopK(
        np.array([[1, 0], [0, -1]]),
        np.array([[0.5, 0.2], [0.1, np.nan]]),
        pd.Index(["tea", "cup"]),
        np.array(["ann", "bob"]),
    )
    assert top.frame().to_dict("list") == {
        "user_id": ["ann", "ann", "bob"],
        "item_id": ["cup", "tea", "tea"],
        "rank": [1, 2, 1],
        "score": [0.5, 0.2, 0.1],
    }
