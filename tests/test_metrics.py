"""Metrics against their definitions, against other libraries, and on known answers."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys_lab import metrics, topk

PEERS = Path(__file__).resolve().parents[1] / ".venv-peers" / "bin" / "python"


KS = (1, 3, 5, 10)


def random_lists(seed, n=40, items=30, k=10):
    """Ranked lists (some short), and one to eight relevant items for each."""
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.permutation(items)[:k] for _ in range(n)]).astype(np.int32)
    for row in range(0, n, 7):
        codes[row, rng.integers(0, k) :] = -1
    relevant = [
        np.sort(rng.permutation(items + 5)[: rng.integers(1, 9)]) for _ in range(n)
    ]  # codes beyond the catalogue too
    indptr = np.concatenate([[0], np.cumsum([len(r) for r in relevant])])
    return codes, indptr, np.concatenate(relevant), relevant


def by_definition(ranked, relevant, k):
    """The formulas, one list at a time."""
    top = [i for i in ranked[:k] if i >= 0]
    gains = [1.0 if i in relevant else 0.0 for i in top]
    dcg = sum(g / np.log2(r + 2) for r, g in enumerate(gains))
    ideal = sum(1 / np.log2(r + 2) for r in range(min(k, len(relevant))))
    precisions = [sum(gains[: r + 1]) / (r + 1) for r, g in enumerate(gains) if g]
    first = next((r + 1 for r, g in enumerate(gains) if g), None)
    return {
        "recall": sum(gains) / len(relevant),
        "precision": sum(gains) / k,
        "ndcg": dcg / ideal,
        "map": sum(precisions) / min(k, len(relevant)),
        "mrr": 1 / first if first else 0.0,
        "hit_rate": float(bool(first)),
    }


@given(st.integers(0, 100_000))
@settings(max_examples=40, deadline=None)
def test_formulas(seed):
    codes, indptr, flat, relevant = random_lists(seed, n=8)
    found = metrics.accuracy(codes, indptr, flat, KS)
    for row in range(len(codes)):
        for k in KS:
            for name, value in by_definition(codes[row].tolist(), set(relevant[row].tolist()), k).items():
                assert found[name, k][row] == pytest.approx(value, abs=1e-12), (name, k, row)


def test_metrics_never_fall_as_lists_grow():
    codes, indptr, flat, _ = random_lists(3, n=300)
    found = metrics.accuracy(codes, indptr, flat, KS)
    for name in ("recall", "hit_rate", "mrr"):
        assert (found[name, 3] <= found[name, 5]).all() and (found[name, 5] <= found[name, 10]).all()
    assert all(((0 <= v) & (v <= 1 + 1e-12)).all() for v in found.values())


def as_dicts(codes, relevant):
    run = {
        f"u{r}": {f"i{c}": float(len(row) - p) for p, c in enumerate(row) if c >= 0} or {"i-none": 1.0}
        for r, row in enumerate(codes)
    }
    return run, {f"u{r}": {f"i{c}": 1 for c in rel} for r, rel in enumerate(relevant)}


@pytest.mark.slow
def test_agrees_with_ranx():
    from ranx import Qrels, Run, evaluate

    codes, indptr, flat, relevant = random_lists(11, n=200)
    run, qrels = as_dicts(codes, relevant)
    found = metrics.accuracy(codes, indptr, flat, KS)
    theirs = {"recall": "recall", "precision": "precision", "ndcg": "ndcg", "mrr": "mrr", "hit_rate": "hit_rate"}
    for name, other in theirs.items():
        for k in KS:
            value = evaluate(Qrels(qrels), Run(run), f"{other}@{k}")
            assert found[name, k].mean() == pytest.approx(value, abs=1e-9), (name, k)
    # ranx divides MAP by |R|: the same where no user has more relevant items than places
    few = np.flatnonzero(np.diff(indptr) <= 10)
    small_run, small_qrels = as_dicts(codes[few], [relevant[i] for i in few])
    assert found["map", 10][few].mean() == pytest.approx(
        evaluate(Qrels(small_qrels), Run(small_run), "map@10"), abs=1e-9
    )


def test_agrees_with_scikit_learn():
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(0)
    scores = rng.random((50, 30))
    labels = (rng.random((50, 30)) < 0.15).astype(int)
    labels[:, 0] = 1
    codes, _ = topk.top_k(scores, 10)
    indptr = np.concatenate([[0], np.cumsum(labels.sum(1))])
    found = metrics.accuracy(codes, indptr, np.nonzero(labels)[1], (10,))
    assert found["ndcg", 10].mean() == pytest.approx(ndcg_score(labels, scores, k=10), abs=1e-9)


def test_agrees_with_implicit_in_its_dialect():
    """implicit's precision divides the hits of all users by the sum of min(k, likes); its NDCG and MAP are ours."""
    from implicit.evaluation import ranking_metrics_at_k

    rng = np.random.default_rng(4)
    users, items, k = 60, 40, 10
    test = sparse.random(users, items, 0.12, "csr", random_state=1, data_rvs=np.ones)
    lists = np.stack([rng.permutation(items)[:k] for _ in range(users)]).astype(np.int32)

    class Fixed:
        def recommend(self, ids, rows, N, **options):
            return lists[ids][:, :N], np.tile(np.arange(N, 0, -1.0), (len(ids), 1))

    theirs = ranking_metrics_at_k(Fixed(), sparse.csr_matrix((users, items)), test, K=k, show_progress=False)
    asked = np.flatnonzero(np.diff(test.indptr) > 0)
    rows = test[asked]
    found = metrics.accuracy(lists[asked], rows.indptr, rows.indices, (k,))
    likes = np.diff(rows.indptr)
    dialect = (found["recall", k] * likes).sum() / np.minimum(k, likes).sum()
    assert theirs["precision"] == pytest.approx(dialect, abs=1e-9)
    assert theirs["map"] == pytest.approx(found["map", k].mean(), abs=1e-9)
    assert theirs["ndcg"] == pytest.approx(found["ndcg", k].mean(), abs=1e-9)


def test_agrees_with_rectools_in_its_own_environment(tmp_path):
    """RecTools' pins clash with ours; its NDCG divides by the ideal of k places unless told otherwise."""
    if not PEERS.exists():
        pytest.skip("no .venv-peers; `make test` makes it")
    codes, indptr, flat, relevant = random_lists(21, n=150)
    lists = [(r, int(c), p + 1) for r, row in enumerate(codes) for p, c in enumerate(row) if c >= 0]
    likes = [(r, int(c)) for r, rel in enumerate(relevant) for c in rel]
    (tmp_path / "in.json").write_text(json.dumps({"lists": lists, "likes": likes}))
    code = """
import json, sys, pandas as pd
from rectools.metrics import HitRate, MAP, MRR, NDCG, Precision, Recall
told = json.load(open(sys.argv[1]))
reco = pd.DataFrame(told["lists"], columns=["user_id", "item_id", "rank"])
likes = pd.DataFrame(told["likes"], columns=["user_id", "item_id"])
kinds = {"recall": Recall, "precision": Precision, "hit_rate": HitRate, "mrr": MRR, "ndcg": NDCG}
out = {f"{n}@{k}": m(k=k).calc(reco, likes) for n, m in kinds.items() for k in (1, 3, 5, 10)}
out["ndcg_achievable@10"] = NDCG(k=10, divide_by_achievable=True).calc(reco, likes)
print(json.dumps(out))
"""
    done = subprocess.run(
        [PEERS, "-W", "ignore", "-c", code, tmp_path / "in.json"], capture_output=True, text=True, check=True
    )
    theirs = json.loads(done.stdout)
    found = metrics.accuracy(codes, indptr, flat, KS)
    n_relevant = np.diff(indptr)
    for k in KS:
        for name in ("recall", "precision", "hit_rate", "mrr"):
            assert found[name, k].mean() == pytest.approx(theirs[f"{name}@{k}"], abs=1e-9), (name, k)
        ideal = np.cumsum(metrics.discounts(k))
        dialect = found["ndcg", k] * ideal[np.minimum(n_relevant, k) - 1] / ideal[-1]
        assert dialect.mean() == pytest.approx(theirs[f"ndcg@{k}"], abs=1e-9)
    assert found["ndcg", 10].mean() == pytest.approx(theirs["ndcg_achievable@10"], abs=1e-9)


def test_krichene_and_rendle():
    """10,000 items, five users: with all items C wins, with 99 sampled negatives A does."""
    ranks = {"A": [100] * 5, "B": [40, 40, 8437, 9266, 4482], "C": [212, 2, 743, 5342, 1548]}
    full = {m: metrics.ndcg_of_ranks(np.array(r)).mean() for m, r in ranks.items()}
    assert {m: round(v, 3) for m, v in full.items()} == {"A": 0.150, "B": 0.122, "C": 0.208}
    sampled = {m: metrics.expected_sampled(np.array(r), 10_000, 99).mean() for m, r in ranks.items()}
    assert max(full, key=full.get) == "C" and max(sampled, key=sampled.get) == "A"
    rng = np.random.default_rng(0)  # the expectation against draws, within four standard errors
    for m, r in ranks.items():
        drawn = metrics.ndcg_of_ranks(1 + rng.binomial(99, (np.array(r) - 1) / 9999, (4000, 5))).mean(1)
        assert abs(drawn.mean() - sampled[m]) < 4 * drawn.std() / np.sqrt(4000)


def test_beyond_accuracy_by_hand():
    codes = np.array([[0, 1, 2], [0, 1, -1], [0, -1, -1]])
    assert metrics.exposure(codes, 4).tolist() == [3, 2, 1, 0]
    assert metrics.gini(codes, 4) == pytest.approx(((-3) * 0 + (-1) * 1 + 1 * 2 + 3 * 3) / (4 * 6))
    bits = metrics.self_information(np.array([8, 4, 2, 2]), 16)
    assert bits.tolist() == [1, 2, 3, 3]
    assert metrics.mean_over_list(codes, bits).tolist() == [2, 1.5, 1]
    assert metrics.intra_list_diversity(codes, np.array([1, 1, -1, 2]))[:2].tolist() == [pytest.approx(2 / 3), 0]
    assert np.isnan(metrics.intra_list_diversity(codes, np.array([1, 1, -1, 2]))[2])
    assert metrics.long_tail(np.array([5, 5, 5, 5]), 0.5).tolist() == [False, False, True, True]


def test_classification_agrees_with_its_definition():
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 2, 300), rng.random(300)
    pairs = scores[labels == 1][:, None] - scores[labels == 0]
    assert metrics.classification(labels, scores)["roc_auc"] == pytest.approx(
        (pairs > 0).mean() + (pairs == 0).mean() / 2
    )
    table = metrics.precision_recall_table(labels, scores)
    chosen = scores >= table.threshold[50]
    assert table.precision[50] == pytest.approx(labels[chosen].mean()) and table.recall[50] == pytest.approx(
        labels[chosen].sum() / labels.sum()
    )


def test_wrong_k_is_refused():
    with pytest.raises(ValueError, match="k must be between 1 and the lists' length 2"):
        metrics.accuracy(np.array([[0, 1]]), np.array([0, 1]), np.array([0]), (3,))


def test_the_long_tail_is_what_the_head_leaves():
    counts = np.array([5, 80, 10, 5])
    assert metrics.long_tail(counts).tolist() == [True, False, True, True]
    assert metrics.long_tail(counts, 0.9).tolist() == [True, False, False, True]
    assert metrics.long_tail(np.array([3, 3, 3, 3]), 0.5).tolist() == [False, False, True, True]  # ties by code


def test_self_information_in_bits():
    assert metrics.self_information(np.array([0, 1, 4]), 4).tolist() == [3.0, 2.0, 0.0]  # nobody counts as half a user


@given(st.integers(0, 2**32 - 1))
def test_miscalibration_is_zero_for_ones_own_shares_and_grows_with_distance(seed):
    rng = np.random.default_rng(seed)
    rows, kinds = np.repeat(np.arange(6), 8), rng.integers(-1, 5, 48)
    own = metrics.category_shares(rows, kinds, (6, 5))
    assert np.nanmax(metrics.miscalibration(own, own), initial=0) == pytest.approx(0, abs=1e-12)
    other = metrics.category_shares(rows, rng.permutation(kinds), (6, 5))
    p, q = own.toarray(), other.toarray()
    mixed = 0.99 * q + 0.01 * p
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted = np.where(p > 0, p * np.log(p / mixed), 0).sum(1)
    wanted[(p.sum(1) == 0) | (q.sum(1) == 0)] = np.nan
    np.testing.assert_allclose(metrics.miscalibration(own, other), wanted, atol=1e-9)
