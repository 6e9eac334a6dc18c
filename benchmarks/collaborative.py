"""The collaborative models on Gowalla: ALS beside bare implicit, seconds of user KNN and RP3beta, one user's list at 41,000 items."""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from common import load, paired, record, seconds
from implicit.cpu.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits

from recsys_lab import loading, splits
from recsys_lab.models.als import ALS
from recsys_lab.models.linear import RP3beta
from recsys_lab.models.neighbours import UserKNN
from recsys_lab.runs import Run

warnings.simplefilter("ignore", RuntimeWarning)  # implicit's advice on BLAS threads, which is followed while it fits
known = splits.make(load("gowalla")).known("test")
matrix, histories = known.matrix().matrix, known.histories()
users = np.arange(matrix.shape[0])


def our_als() -> np.ndarray:
    """Fit and top 20 of all users."""
    return ALS(factors=64, regularization=0.1, alpha=4.0, bm25=False).fit(known).rank(histories, 20, "seen").codes


def their_als(dtype: type = np.float32) -> np.ndarray:
    """The same with nothing but implicit, in single precision as is usual there."""
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(64, 0.1, 4.0, dtype=dtype, iterations=15, random_state=0)
        model.fit(matrix, show_progress=False)
        return model.recommend(users, matrix, N=20, filter_already_liked_items=True)[0]


def batch_lists(n: int = 1_000_000, k: int = 20) -> dict[str, float]:
    """`recsys-lab recommend` for `n` users of the shop in a process of its own: seconds and peak memory."""
    shop = splits.make(loading.load("shop", size="small")).known("test")
    with tempfile.TemporaryDirectory() as folder:
        Run(folder, "24_als").fit(ALS(), shop)
        users = np.resize(shop.users.to_numpy(), n)
        Path(folder, "users.csv").write_text("user_id\n" + "\n".join(map(str, users)) + "\n")
        words = ["recommend", "--run", folder, "--model", "als", "--users", f"{folder}/users.csv", "-k", str(k)]
        command = [str(Path(sys.executable).parent / "recsys-lab"), *words, "--out", f"{folder}/recs.parquet"]
        spent = seconds(lambda: subprocess.run(command, check=True))
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        size = Path(folder, "recs.parquet").stat().st_size / 1e6
    told = {"seconds": round(spent, 1), "peak_gb": round(peak, 2), "megabytes": round(size)}
    return {"users": n, "k": k, "items": len(shop.items), **told}


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
    [len(set(a) & set(b)) for a, b in zip(our_als()[:500].tolist(), their_als(np.float64)[:500].tolist(), strict=True)]
)  # in double precision, as ours: another precision draws other first vectors
result = {"als": {**paired(our_als, their_als, 3), "goal_ratio": 1.1, "shared_items_of_20": round(float(shared), 2)}}
for name, kind in (("user_knn", UserKNN), ("rp3beta", RP3beta)):
    start = time.perf_counter()
    model = kind().fit(known)
    model.rank(histories, 20, "seen")
    result[name] = {"seconds": round(time.perf_counter() - start, 1), "goal_seconds": 60}
    result[name]["one_user"] = overhead(model)
result["als"]["one_user"] = overhead(ALS(factors=64, iterations=2).fit(known))
result["batch"] = batch_lists()
record("collaborative", {**result, "users": len(users), "items": matrix.shape[1], "goal_above_ms": 5})
