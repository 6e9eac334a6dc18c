"""How time and memory grow with the log: reading, splitting, fitting, judging, features, training and bundling.

The shop of the published log's size, a quarter and a half of its visitors, and four such shops side by side (visitors and items of their
own), each step in a process of its own whose peak memory is its own. A model that should grow about linearly has the exponent of its
time between sizes beside it; what needs more than the memory that it may take says so with the figure. Needs no real data.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import RESULTS, record

from recsys_lab import budget, datasets, loading, runs, splits
from recsys_lab.datasets.log import Dataset
from recsys_lab.evaluation import evaluate
from recsys_lab.files import peak_mb
from recsys_lab.models.base import model_class
from recsys_lab.ranking.features import item_statistics

SIZES = {"quarter": 0.25, "half": 0.5, "one": 1.0, "four": 4.0}
JUDGED = 10_000
BOUNDED = {"ease": {"items": 8_000}, "graph_filter": {"items": 8_000, "factors": 64}}
MODELS = {
    **{name: {} for name in ("popularity", "revisits", "item_knn", "user_knn", "session_knn", "session_walk")},
    **{name: {} for name in ("sequential_rules", "rp3beta", "als")},
    **BOUNDED,
}
STAGE = {"n_windows": 1, "max_requests": 6000, "sources": {"revisits": 20, "session_walk": 60, "item_knn": 40}}


def place() -> Path:
    return Path(os.environ["GROWTH_FOLDER"])


def grown(size: float) -> Dataset:
    """The shop of the published size; a part of its visitors, or several such shops."""
    log = loading.load("shop", "full")
    if size < 1:
        return budget.visitor_part(log, round(1 / size))
    copies = []
    for copy in range(round(size)):
        events = log.events[["user_id", "item_id", "event", "timestamp"]]
        copies.append(events.assign(user_id=events["user_id"] + copy * 10**8, item_id=events["item_id"] + copy * 10**8))
    return log if size == 1 else datasets.Dataset("shops", pd.concat(copies, ignore_index=True))


def stored(size: str) -> Dataset:
    return datasets.Dataset("shop", pd.read_parquet(place() / f"{size}.parquet"))


def make(size: str) -> dict[str, Any]:
    """Written once; not measured."""
    log = grown(SIZES[size])
    log.events[["user_id", "item_id", "event", "timestamp"]].to_parquet(place() / f"{size}.parquet")
    return {"events": len(log), "users": len(log.users), "items": len(log.items)}


def read(size: str) -> dict[str, Any]:
    stored(size)
    return {}


def split(size: str) -> dict[str, Any]:
    log = stored(size)
    start = time.perf_counter()
    runs.asked_table(splits.make(log, judged=JUDGED))
    return {"seconds": time.perf_counter() - start}


def features(size: str) -> dict[str, Any]:
    log = stored(size)
    log.matrix()
    start = time.perf_counter()
    item_statistics(log)
    return {"seconds": time.perf_counter() - start}


def model(size: str, name: str) -> dict[str, Any]:
    """Fitting on what is known before test, and judging a sample of visitors on the first question."""
    parts = splits.make(stored(size), judged=JUDGED)
    known = parts.known("test")
    known.matrix()
    splits.make_cases(parts, "next_item")
    before, start = peak_mb(), time.perf_counter()
    fitted = model_class(name)(**MODELS[name]).fit(known)
    fit = time.perf_counter() - start
    estimate = fitted._memory(len(known.users), len(known.items), len(known)) / 2**20
    start = time.perf_counter()
    judged = evaluate(fitted, parts, "next_item")
    facts = {"fit": fit, "judge": time.perf_counter() - start, "ndcg": judged.mean("ndcg", 10)}
    recall = fitted.near.get("facts", {}).get("recall")
    return facts | {"before_mb": before, "estimate_mb": estimate} | ({} if recall is None else {"recall": recall})


def train(size: str) -> dict[str, Any]:
    """A hybrid with a few sources: its sources, its rows, its trees; kept for the bundle."""
    known = splits.make(stored(size)).known("test")
    start = time.perf_counter()
    hybrid = model_class("hybrid_tuned")(**STAGE).fit(known)
    seconds = time.perf_counter() - start
    hybrid.save(place() / f"{size}-hybrid")
    return {"seconds": seconds}


def bundle(size: str) -> dict[str, Any]:
    from recsys_lab.serving.bundle import pack

    log, start = stored(size), time.perf_counter()
    manifest = pack(place() / f"{size}-hybrid", log, place() / f"{size}-bundle")
    mb = sum(file["bytes"] for file in manifest["files"].values()) / 2**20
    return {"seconds": time.perf_counter() - start, "bundle_mb": mb}


STEPS: dict[str, Callable[..., dict[str, Any]]] = {f.__name__: f for f in (make, read, split, features, train, bundle)}


def run_step(step: str, size: str) -> dict[str, Any]:
    """A step in a process of its own: its facts, seconds and peak memory; `refused` with the reason where it did not run."""
    done = subprocess.run([sys.executable, __file__, step, size], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if done.returncode == 0 else {"refused": done.stderr.strip().splitlines()[-1][:300]}


def exponents(rows: dict[str, dict[str, Any]], word: str) -> dict[str, float]:
    """log(time ratio) / log(size ratio) between neighbouring sizes: 1 for what is linear."""
    names = [n for n in SIZES if word in rows.get(n, {})]
    return {
        f"{a} to {b}": round(float(np.log(rows[b][word] / rows[a][word]) / np.log(SIZES[b] / SIZES[a])), 2)
        for a, b in itertools.pairwise(names)
    }


def main(chosen: list[str]) -> None:
    """Measure all steps, or those that are named beside what the results hold already."""
    every = [*list(STEPS)[1:], *MODELS]
    if unknown := set(chosen) - set(every):
        raise SystemExit(f"there is no step {sorted(unknown)[0]!r}; there are {', '.join(every)}")
    path = RESULTS / "growth.json"
    kept = json.loads(path.read_text())["steps"] if chosen and path.exists() else {}
    result: dict[str, Any] = {"judged": JUDGED, "sizes": {}, "steps": kept}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GROWTH_FOLDER"] = folder
        for size in SIZES:
            result["sizes"][size] = run_step("make", size)
        for step in chosen or every:
            rows = {size: run_step(step, size) for size in SIZES}
            word = "fit" if step in MODELS else "seconds"
            result["steps"][step] = rows | {"exponents": exponents(rows, word)}
            print(step, json.dumps(result["steps"][step]), flush=True)
            record("growth", result)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[2] in SIZES:
        begun = time.perf_counter()
        found = model(sys.argv[2], sys.argv[1]) if sys.argv[1] in MODELS else STEPS[sys.argv[1]](sys.argv[2])
        seconds = {"seconds": time.perf_counter() - begun} | found
        facts = {k: round(v, 3) if isinstance(v, float) else v for k, v in seconds.items()}
        print(json.dumps(facts | {"peak_mb": round(peak_mb())}))
    else:
        main(sys.argv[1:])
