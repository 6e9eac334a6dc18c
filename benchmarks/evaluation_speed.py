"""Eight metrics with 1,000-draw intervals for 30,000 users over 41,000 items, beside the time that the top 20 itself takes."""

import statistics

import numpy as np
from common import record, seconds

from recsys_lab import evaluation, metrics, topk

USERS, ITEMS, K = 30_000, 41_000, 20
EIGHT = ("recall", "precision", "ndcg", "map", "mrr", "hit_rate", "novelty", "long_tail_share")

rng = np.random.default_rng(0)
scores = rng.random((2000, ITEMS), dtype=np.float32)  # one block; the top 20 of all users takes fifteen of them
n_relevant = rng.integers(1, 30, USERS)
indptr = np.concatenate([[0], np.cumsum(n_relevant)])
relevant = np.concatenate([rng.choice(ITEMS, n, replace=False) for n in n_relevant])
codes = np.stack([rng.choice(ITEMS, K, replace=False) for _ in range(USERS)]).astype(np.int32)
counts = rng.zipf(1.3, ITEMS).clip(max=USERS)
users = np.arange(USERS)


def measure() -> int:
    values = metrics.accuracy(codes, indptr, relevant, (K,))
    values["novelty", K] = metrics.mean_over_list(codes, metrics.self_information(counts))
    values["long_tail_share", K] = metrics.mean_over_list(codes, metrics.long_tail(counts).astype(float))
    chosen = {(name, K): values[name, K] for name in EIGHT}
    return len(evaluation.summarise(chosen, users, {}, 1000, 0))


assert measure() == len(EIGHT)
block = statistics.median(seconds(lambda: topk.top_k(scores, K)) for _ in range(3))
measured = [seconds(measure) for _ in range(5)]
record(
    "evaluation_speed",
    {
        "users": USERS,
        "items": ITEMS,
        "metrics": len(EIGHT),
        "draws": 1000,
        "seconds_of_metrics_and_intervals": round(statistics.median(measured), 3),
        "seconds_min_max": [round(min(measured), 3), round(max(measured), 3)],
        "seconds_of_the_top_20": round(block * USERS / len(scores), 2),
        "goal_seconds": 2.0,
    },
)
