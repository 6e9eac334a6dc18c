"""The collaborative models on Gowalla: ALS beside bare implicit, seconds of user KNN and RP3beta, one user's list at 41,000 items."""

import statistics
import time
import warnings

import numpy as np
from common import load, paired, record, seconds
from implicit.cpu.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits

from recsys_lab import splits
from recsys_lab.models.als import ALS
from recsys_lab.models.linear import RP3beta
from recsys_lab.models.neighbours import UserKNN

warnings.simplefilter("ignore", RuntimeWarning)  # implicit's advice on BLAS threads, which is followed while it fits
known = splits.make(load("gowalla")).known("test")
matrix, histories = known.matrix().matrix, known.histories()
users = np.arange(matrix.shape[0])


def our_als() -> np.ndarray:
    """Fit and top 20 of all users."""
    return ALS(factors=64, regularization=0.1, alpha=4.0).fit(known).rank(histories, 20, "seen").codes


def their_als() -> np.ndarray:
    """The same with nothing but implicit."""
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(64, 0.1, 4.0, iterations=15, random_state=0)
        model.fit(matrix, show_progress=False)
        return model.recommend(users, matrix, N=20, filter_already_liked_items=True)[0]


def overhead(model, tries: int = 100) -> dict[str, float]:
    """Milliseconds of `recommend` for one user, and of the model's own scoring of that history, medians."""
    whole, own = [], []
    for user in np.random.default_rng(0).choice(known.users, tries, replace=False):
        history = known.histories([user]).encode(model.items)
        own.append(seconds(lambda h=history: model._score(h)))
        whole.append(seconds(lambda u=user: model.recommend([u], 20)))
    told = {"recommend_ms": 1000 * statistics.median(whole), "own_ms": 1000 * statistics.median(own)}
    return {k: round(v, 2) for k, v in (told | {"above_ms": told["recommend_ms"] - told["own_ms"]}).items()}


shared = np.mean(
    [len(set(a) & set(b)) for a, b in zip(our_als()[:500].tolist(), their_als()[:500].tolist(), strict=True)]
)
result = {"als": {**paired(our_als, their_als, 3), "goal_ratio": 1.1, "shared_items_of_20": round(float(shared), 2)}}
for name, kind in (("user_knn", UserKNN), ("rp3beta", RP3beta)):
    start = time.perf_counter()
    model = kind().fit(known)
    model.rank(histories, 20, "seen")
    result[name] = {"seconds": round(time.perf_counter() - start, 1), "goal_seconds": 60}
    result[name]["one_user"] = overhead(model)
result["als"]["one_user"] = overhead(ALS(factors=64, iterations=2).fit(known))
record("collaborative", {**result, "users": len(users), "items": matrix.shape[1], "goal_above_ms": 5})
