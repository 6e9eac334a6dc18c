"""A log in many files beside one machine: seconds and memory of each step with 0, 1 and 2 worker processes, on the same log."""

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd
from common import record

from recsys_lab import loading, splits
from recsys_lab.evaluation import evaluate
from recsys_lab.files import peak_mb
from recsys_lab.models.base import model_class
from recsys_lab.scale.cluster import Cluster
from recsys_lab.scale.running import run_on_cluster
from recsys_lab.scale.store import write_partitions

MODELS = ("popularity", "item_knn", "session_knn", "session_walk")
STEPS = {  # the beginning of a step's name -> what it is of
    "deal out": "partition",
    "write files": "partition",
    "range": "cutoffs and counts",
    "cut": "cutoffs and counts",
    "counts": "cutoffs and counts",
    "known": "cutoffs and counts",
    "dealt": "item KNN",
    "norms": "item KNN",
    "similar": "item KNN",
    "followers": "session walk",
    "graph": "session walk",
    "walks": "session walk",
    "newest": "session walk",
    "ranks": "session walk",
    "sessions": "session KNN",
    "asked": "questions",
    "cases": "questions",
    "lists": "lists",
    "judge": "metrics",
}


def one_machine(log, judged: int) -> dict[str, float]:
    """Seconds that the plain lab takes for the same work."""
    took, start = {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal start
        took[name] = took.get(name, 0.0) + time.perf_counter() - start
        start = time.perf_counter()

    split = splits.make(log, judged=judged)
    known = split.known("test")
    lap("cutoffs and counts")
    fitted = []
    for name in MODELS:
        fitted.append(model_class(name)().fit(known))
        lap({"item_knn": "item KNN", "session_knn": "session KNN", "session_walk": "session walk"}.get(name, "cutoffs and counts"))
    for protocol, exclude in (("next_item", "none"), ("next_item", "seen"), ("next_period", "seen")):
        for model in fitted:
            evaluate(model, split, protocol, exclude=exclude)
    for model in fitted:
        evaluate(model, split, "next_period", "purchase", exclude="purchased")
    lap("questions, lists and metrics")
    return took


def over_files(log, address: str, files: int, judged: int, memory_gb: float) -> tuple[dict[str, float], float]:
    """(seconds of each kind of step, most megabytes that a worker held)."""
    with tempfile.TemporaryDirectory() as folder, Cluster(address, memory_gb) as cluster:
        store = write_partitions(log, Path(folder) / "store", files, cluster=cluster)
        run_on_cluster(store, Path(folder) / "run", cluster, MODELS, judged=judged, tell=lambda line: None)
        spent = pd.DataFrame(cluster.spent)
    kind = [next((STEPS[s] for s in STEPS if name.startswith(s)), "save models") for name in spent["step"]]
    return spent.groupby(kind)["seconds"].sum().round(2).to_dict(), float(spent["peak_mb"].max())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="small", help="of the embedded shop")
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--judged", type=int, default=5000)
    parser.add_argument("--memory", type=float, default=2.0, help="gigabytes of each worker")
    parser.add_argument("--addresses", default=",local:1,local:2", help="where, separated by commas; the first may be empty: this process")
    o = parser.parse_args()
    log = loading.load("shop", o.size)
    plain = one_machine(log, o.judged)
    rounded = {name: round(value, 2) for name, value in plain.items()}
    rows = [{"where": "one machine", **rounded, "seconds": round(sum(plain.values()), 2), "peak_mb": round(peak_mb(), 1)}]
    for address in o.addresses.split(","):
        took, peak = over_files(log, address, o.files, o.judged, o.memory)
        rows.append({"where": address or "files, this process", **took, "seconds": round(sum(took.values()), 2), "peak_mb": round(peak, 1)})
        print(rows[-1])
    by = {row["where"]: row["seconds"] for row in rows}
    facts = {"size": o.size, "events": len(log), "users": len(log.users), "files": o.files, "judged": o.judged}
    facts |= {"memory_gb": o.memory, "rows": rows}
    if {"local:1", "local:2"} <= set(by):
        facts |= {"overhead": round(by["local:1"] / by["one machine"], 2), "speedup_of_two": round(by["local:1"] / by["local:2"], 2)}
    record("cluster" if o.size == "small" else f"cluster_{o.size}", facts)


if __name__ == "__main__":
    main()
