"""A log of ten times RetailRocket's size on two workers of 2 GB each: reading, cutting, fitting, features, LightGBM and judging.

The shop of the published log's size is simulated ten times with other seeds and other visitors, on one catalogue, and written as Parquet
files that are dealt out to files of whole visitors. Beside it the same models on one machine without a limit, as far as it gets: the
comparison of what both have to keep in memory. Steps that are done are kept, so that a run that was broken off goes on.

    python benchmarks/large_log.py --place /somewhere/with/20/GB
    python benchmarks/large_log.py --shops 1 --judged 2000      # the same at a tenth
"""

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from common import record

from recsys_lab import simulator, splits
from recsys_lab.datasets import Dataset
from recsys_lab.evaluation import evaluate
from recsys_lab.files import peak_mb
from recsys_lab.models.base import model_class
from recsys_lab.scale.cluster import Cluster
from recsys_lab.scale.running import run_on_cluster
from recsys_lab.scale.store import MANIFEST, PartitionedLog, write_partitions

MODELS = ("popularity", "item_knn", "session_knn", "session_walk", "lightgbm")
NAMES = {"visitorid": "user_id", "itemid": "item_id", "transactionid": "transaction_id"}


def write_shop(place: Path, number: int) -> None:
    """The events of a shop of the published log's size, of visitors that no other number has."""
    path = place / f"events-{number}.parquet"
    if not path.exists():
        events = simulator.simulate(replace(simulator.SIZES["full"], seed=number)).events.rename(columns=NAMES)
        events["user_id"] += 10**8 * number
        events["timestamp"] = pd.to_datetime(events["timestamp"], unit="ms", utc=True)
        events.astype({"event": "str"}).to_parquet(path.with_suffix(".partial"), index=False)
        path.with_suffix(".partial").rename(path)


def on_one_machine(place: Path, shops: int, judged: int) -> dict[str, Any]:
    """Seconds and memory of one process that reads, splits, fits the models without trees, and judges their first question."""
    start = time.perf_counter()
    frames = [pd.read_parquet(place / f"events-{n}.parquet") for n in range(shops)]
    log = Dataset("large", pd.concat(frames, ignore_index=True).sort_values("timestamp", kind="stable", ignore_index=True))
    del frames
    split = splits.make(log, judged=judged)
    for name in MODELS[:-1]:
        evaluate(model_class(name)().fit(split.known("test")), split, "next_item", exclude="none")
    return {"seconds": round(time.perf_counter() - start, 1), "peak_mb": round(peak_mb())}


class Memory:
    """The most that this process and each worker have held, in MB, looked at every second."""

    def __init__(self, cluster: Cluster):
        self.most, self.over = {"client": 0.0, "worker": 0.0}, threading.Event()
        client, me = cluster.client, psutil.Process()
        workers = [psutil.Process(pid) for pid in client.run(lambda: __import__("os").getpid()).values()]

        def look() -> None:
            while not self.over.wait(1.0):
                for kind, processes in (("client", [me]), ("worker", workers)):
                    for one in processes:
                        if one.is_running():
                            self.most[kind] = max(self.most[kind], one.memory_info().rss / 2**20)

        threading.Thread(target=look, daemon=True).start()


def on_workers(place: Path, o: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each step, and the memory of the client and of the workers."""
    with Cluster(o.address, o.memory) as cluster:
        memory, store = Memory(cluster), place / "store"
        start = time.perf_counter()
        if not (store / MANIFEST).exists():
            shutil.rmtree(store, ignore_errors=True)
            write_partitions([str(place / f"events-{n}.parquet") for n in range(o.shops)], store, o.files, "large", cluster, place / "way")
        cut = time.perf_counter()
        values = run_on_cluster(PartitionedLog(store), place / "run", cluster, MODELS, judged=o.judged)
        memory.over.set()
        spent = pd.DataFrame(cluster.spent).groupby("step", sort=False)["seconds"].sum().round(1)
    return {
        "partition_seconds": round(cut - start, 1),
        "run_seconds": round(time.perf_counter() - cut, 1),
        "steps": spent[spent >= 1].to_dict(),
        "client_mb": round(memory.most["client"]),
        "worker_mb": round(memory.most["worker"]),
        "ndcg@10": {question: {name: round(v, 4) for name, v in models.items()} for question, models in values.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--place", type=Path, default=Path("build/large-log"), help="folder for some 20 GB; what is there is used")
    parser.add_argument("--shops", type=int, default=10, help="times the published log's size")
    parser.add_argument("--files", type=int, default=64)
    parser.add_argument("--judged", type=int, default=5000)
    parser.add_argument("--memory", type=float, default=2.0, help="gigabytes of each worker")
    parser.add_argument("--address", default="local:2")
    parser.add_argument("--alone", action="store_true", help="one machine's part, in a process of its own")
    o = parser.parse_args()
    o.place = o.place.resolve()
    o.place.mkdir(parents=True, exist_ok=True)
    if o.alone:
        print(json.dumps(on_one_machine(o.place, o.shops, o.judged)))
        return
    for number in range(o.shops):
        write_shop(o.place, number)
    rows = sum(len(pd.read_parquet(o.place / f"events-{n}.parquet", columns=["item_id"])) for n in range(o.shops))
    facts = {"events": rows, "files": o.files, "judged": o.judged, "address": o.address, "memory_gb": o.memory}
    facts |= {"workers": on_workers(o.place, o)}
    words = [sys.executable, __file__, "--alone", "--place", o.place, "--shops", o.shops, "--judged", o.judged]
    alone = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
    facts["one_machine"] = json.loads(alone.stdout.splitlines()[-1]) if not alone.returncode else f"ended with {alone.returncode}"
    record("large_log", facts)


if __name__ == "__main__":
    main()
