"""How long does a bundle of more than 2 GB take to start, beside a small one? Its arrays are mapped, not read.

Both bundles are of EASE, whose weights are a dense matrix; here they are drawn and not learned, since what they are does not matter for a
start. The servers, with two workers each, are started in turn; the time is from the start of the process to the first answer of /ready.

    python benchmarks/large_bundle.py      # 5 GB on disk, a few minutes
"""

import statistics
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
from common import record
from serving import LIMIT_MB, Limit, server, unshared

from recsys_lab.datasets import Dataset
from recsys_lab.models import linear
from recsys_lab.serving.bundle import pack

ITEMS, USERS, STARTS = {"small": 1_000, "large": 24_000}, 20_000, 5


def drawn_weights(matrix, *_) -> np.ndarray:
    """Weights of the shape of EASE's."""
    n, rng = matrix.shape[1], np.random.default_rng(0)
    out = np.empty((n, n), np.float32)
    for start in range(0, n, 1000):
        out[start : start + 1000] = rng.normal(size=(len(out[start : start + 1000]), n))
    return out


def make_bundle(folder: Path, items: int) -> Path:
    """A bundle of EASE on so many items; every item is met, each user meets ten."""
    rng = np.random.default_rng(0)
    met = np.concatenate([np.arange(items), rng.integers(0, items, max(0, 10 * USERS - items))])
    times = pd.to_datetime(60 * np.arange(len(met)), unit="s", utc=True)
    frame = pd.DataFrame({"user_id": np.arange(len(met)) % USERS, "item_id": met, "event": "view", "timestamp": times})
    log = Dataset("drawn", frame)
    linear.ease_weights = drawn_weights
    model = linear.EASE().fit(log)
    pack(model.save(folder / f"fit-{items}"), log, folder / f"bundle-{items}")
    return folder / f"bundle-{items}"


def start(bundle: Path) -> dict[str, float]:
    """Seconds to ready, milliseconds of the first list, and the memory of the workers that is not shared, in MB."""
    limit = Limit(LIMIT_MB)
    try:
        with server(bundle, limit) as (port, parent, ready):
            began = time.perf_counter()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/recommend/7?k=10") as answer:
                answer.read()
            first = 1000 * (time.perf_counter() - began)
            return {"ready_seconds": ready, "first_list_ms": first, "unshared_mb": max(unshared(parent), default=0)}
    finally:
        limit.remove()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="large-bundle-") as place:
        bundles = {name: make_bundle(Path(place), items) for name, items in ITEMS.items()}
        sizes = {n: round(sum(f.stat().st_size for f in b.rglob("*") if f.is_file()) / 2**30, 2) for n, b in bundles.items()}
        runs = {name: [] for name in bundles}
        for _ in range(STARTS):
            for name, bundle in bundles.items():
                runs[name].append(start(bundle))
    of = {name: {word: round(statistics.median(r[word] for r in rows), 2) for word in rows[0]} for name, rows in runs.items()}
    ratios = [large["ready_seconds"] / small["ready_seconds"] for small, large in zip(runs["small"], runs["large"], strict=True)]
    about = {"items": ITEMS, "gigabytes": sizes, "starts": STARTS, "limit_mb": LIMIT_MB}
    record("large_bundle", {**about, **of, "ratio_of_starts": round(statistics.median(ratios), 2)})
