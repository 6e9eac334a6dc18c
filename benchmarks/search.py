"""Search among 100,000 products: time of a query on one thread, recall of the graph against comparing all, what an index takes.

Texts are put together from those of the office products, and so are the vectors (a real one and some noise), since encoding as many
products takes the better part of an hour; how many products are encoded in a second is measured on real ones.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import load, record

from recsys_lab import products, search

MANY, QUERIES = 100_000, 200


def office() -> pd.DataFrame:
    """The catalogue of the office products."""
    with tempfile.TemporaryDirectory() as folder:
        products.store(load("amazon-office"), f"sqlite:///{folder}/products.db")
        return search.catalogue(f"sqlite:///{folder}/products.db")


def many(goods: pd.DataFrame, vectors: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    """`MANY` products with the title of one, the description of another and a code of their own, and their vectors."""
    rng = np.random.default_rng(0)
    title, text = rng.integers(0, len(goods), (2, MANY))
    table = goods.iloc[title].reset_index(drop=True)
    table["product_id"] = [f"m{n}" for n in range(MANY)]
    table["title"] = table["title"] + [f" X{n:06d}" for n in range(MANY)]
    table["description"] = goods["description"].to_numpy()[text]
    own = vectors[title] + rng.normal(0, 0.03, (MANY, vectors.shape[1])).astype(np.float32)
    return table, own / np.linalg.norm(own, axis=1, keepdims=True)


def answering(folder: str) -> dict[str, Any]:
    """Milliseconds of queries to an index, by kind of search, and memory; in a process of its own."""
    found = search.Search(folder)
    asked = pd.read_csv(Path(__file__).parent / "queries.csv")["query"].tolist()
    asked = (asked + [f"X{n:06d}" for n in range(QUERIES)])[:QUERIES]
    told: dict[str, Any] = {}
    for how in search.MODES:
        found.find("a first query", 10, how)
        found.meaning.cache_clear()  # every query is new
        taken = []
        for query in asked:
            start = time.perf_counter()
            found.find(query, 10, how)
            taken.append((time.perf_counter() - start) * 1000)
        told[how] = {
            "median_ms": round(float(np.median(taken)), 1),
            "p95_ms": round(float(np.quantile(taken, 0.95)), 1),
        }
    encode, exact, shared = search.encoder(), 0, 0
    for vector in encode(asked[:100]):
        best, _ = search.semantic(found.vectors, None, vector, 10, None)
        near, _ = search.semantic(found.vectors, found.graph, vector, 10, None)
        exact, shared = exact + len(best), shared + len(set(best) & set(near))
    return told | {
        "recall_of_graph": round(shared / exact, 4),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }


if __name__ == "__main__" and len(sys.argv) > 1:
    print(json.dumps(answering(sys.argv[1])))
elif __name__ == "__main__":
    goods = office()
    some = goods.iloc[:400]
    search.product_vectors(some.iloc[:20], search.encoder())
    start = time.perf_counter()
    few = search.product_vectors(some, search.encoder())
    result: dict[str, Any] = {"encoded_a_second": round(len(some) / (time.perf_counter() - start), 1), "goal_ms": 30}
    with tempfile.TemporaryDirectory() as folder:
        table, vectors = many(some, few)
        real = search.product_vectors
        search.product_vectors = lambda products, encode: vectors  # type: ignore[assignment]
        start = time.perf_counter()
        search.build_index(table, f"{folder}/index")
        search.product_vectors = real
        result |= {"products": MANY, "build_seconds_without_encoding": round(time.perf_counter() - start, 1)}
        result["index_mb"] = round(sum(p.stat().st_size for p in Path(folder, "index").iterdir()) / 1e6)
        words = [sys.executable, __file__, f"{folder}/index"]
        one = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")}
        done = subprocess.run(words, check=True, capture_output=True, text=True, env=one)
        result |= json.loads(done.stdout.splitlines()[-1])
    record("search", result)
