"""Search among 100,000 products: what the service takes for a query, in time and memory, and what the lab takes to make the index.

Texts are put together from those of the office products, and so are the vectors (a real one and some noise), since encoding as many
products takes the better part of an hour; how many are encoded in a second is measured on real ones. The bundle is of a hybrid fitted on
a random log of some of these products. Queries come at a steady rate from this process, half of them written ones and half with a code;
the server is one worker within a memory limit of 512 MB where this machine lets one set it.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import load, record
from serving import LIMIT_MB, Limit, ask

from recsys_lab import encoders, products, search
from recsys_lab.datasets import Dataset
from recsys_lab.ranking.hybrid import Hybrid
from recsys_lab.serving.bundle import pack
from recsys_lab.serving.lean import server_process, unshared_mb

MANY, QUERIES, MET = 100_000, 400, 20_000
RATE, SECONDS = 20, 20  # queries a second, and for how long


def office() -> pd.DataFrame:
    """The catalogue of the office products."""
    with tempfile.TemporaryDirectory() as folder:
        products.store(load("amazon-office"), f"sqlite:///{folder}/products.db")
        return search.catalogue(f"sqlite:///{folder}/products.db")


def many(goods: pd.DataFrame, vectors: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    """`MANY` products with the title of one, the description of another and a code of their own, and their vectors."""
    rng = np.random.default_rng(0)
    title, text = rng.integers(0, len(vectors), MANY), rng.integers(0, len(goods), MANY)
    table = goods.iloc[title].reset_index(drop=True)
    table["title"] = table["title"] + [f" X{n:06d}" for n in range(MANY)]
    table["description"] = goods["description"].to_numpy()[text]
    table["price"] = rng.lognormal(2, 1, MANY).round(2)
    own = vectors[title] + rng.normal(0, 0.03, (MANY, vectors.shape[1])).astype(np.float32)
    return table, own / np.linalg.norm(own, axis=1, keepdims=True)


def log_of(table: pd.DataFrame) -> Dataset:
    """Random events on the first `MET` products; all products with their texts."""
    rng, n = np.random.default_rng(0), 200_000
    times = pd.to_datetime(rng.integers(1_700_000_000, 1_702_600_000, n), unit="s", utc=True)
    kinds = rng.choice(["view", "addtocart", "transaction"], n, p=[0.9, 0.06, 0.04])
    items = (MET * rng.random(n) ** 2).astype(int)
    events = pd.DataFrame({"user_id": rng.integers(0, 30_000, n), "item_id": items, "event": kinds, "timestamp": times})
    columns = {name: table[name].astype(str) for name in ("title", "description", "brand", "price")}
    told = pd.concat([pd.DataFrame({"item_id": range(MANY), "property": n, "value": v}) for n, v in columns.items()])
    return Dataset("many", events, told.assign(timestamp=pd.Timestamp("2023-01-01", tz="UTC")))


def bundle(folder: Path, table: pd.DataFrame, vectors: np.ndarray) -> dict[str, Any]:
    """A bundle whose catalogue has the products with these vectors; returns its manifest, and the seconds it took without encoding."""
    log, encode = log_of(table), encoders.encoder()
    few = {"sources": {"revisits": 20, "session_walk": 40, "item_knn": 40, "popularity": 20}, "num_boost_round": 40}
    fit = Hybrid(**few, max_requests=500, n_windows=2, window_fraction=0.1).fit(log).save(folder / "fit")
    real = encoders.Encoder.__call__
    texts = products.catalogue_rows(log)  # in the order in which the bundle has them
    met = log.items.to_numpy()
    order = np.append(met, np.setdiff1d(np.arange(MANY), met)).astype(int)
    assert texts["title"].iloc[order[0]] == table["title"].iloc[order[0]]
    encoders.Encoder.__call__ = lambda self, asked, kind="document": vectors[order][: len(asked)]  # type: ignore[method-assign]
    began = time.perf_counter()
    manifest = pack(fit, log, folder / "bundle", encode=encode)
    encoders.Encoder.__call__ = real  # type: ignore[method-assign]
    return manifest | {"seconds": round(time.perf_counter() - began, 1)}


async def steadily(port: int, bodies: list[dict[str, Any]]) -> np.ndarray:
    """Milliseconds from the moment at which each request is due to its answer."""
    taken: list[float] = []
    free: asyncio.Queue[Any] = asyncio.Queue()
    for _ in range(8):
        free.put_nowait(await asyncio.open_connection("127.0.0.1", port))
    began = time.perf_counter() + 0.2

    async def one(number: int, body: dict[str, Any]) -> None:
        due = began + number / RATE
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        line = await free.get()
        status, _ = await ask(*line, "/search", body)
        free.put_nowait(line)
        assert status == 200
        taken.append((time.perf_counter() - due) * 1000)

    await asyncio.gather(*(one(n, body) for n, body in enumerate(bodies)))
    return np.array(taken)


def served(folder: Path) -> dict[str, Any]:
    """Start, memory, and latency by mode of one worker of a bundle."""
    written = pd.read_csv(Path(__file__).parent / "queries.csv")["query"].sample(frac=1, random_state=0).tolist()
    codes = [f"X{n:06d}" for n in np.random.default_rng(1).integers(0, MANY, QUERIES)]
    queries = [q for pair in zip(written, codes, strict=False) for q in pair][: RATE * SECONDS]
    limit, told = Limit(LIMIT_MB), {}
    try:
        began = time.perf_counter()
        with server_process(folder, "--workers", "1", "--quiet", preexec_fn=limit.enter) as (url, done):
            told |= {
                "ready_seconds": round(time.perf_counter() - began, 2),
                "limit_mb": LIMIT_MB if limit.folder else None,
            }
            port = int(url.rpartition(":")[2])
            for mode in search.MODES:
                some = [{"query": f"{q} {mode[0]}" if mode != "hybrid" else q, "mode": mode} for q in queries]
                asyncio.run(steadily(port, some[:RATE]))
                taken = asyncio.run(steadily(port, some))
                told[mode] = {f"p{p}_ms": round(float(np.quantile(taken, p / 100)), 1) for p in (50, 95, 99)}
            narrow = [{"query": q, "max_price": 5.0} for q in queries]
            told["filtered"] = {"p95_ms": round(float(np.quantile(asyncio.run(steadily(port, narrow)), 0.95)), 1)}
            told["own_mb"] = round(max(unshared_mb(p) for p in processes(done.pid)))
    finally:
        limit.remove()
    return told


def processes(pid: int) -> list[int]:
    """A process and those below it."""
    import psutil

    return [pid, *(p.pid for p in psutil.Process(pid).children(recursive=True))]


def query_ms(folder: str) -> dict[str, float]:
    """Milliseconds to encode a query on one thread; in a process of its own."""
    encode, taken = encoders.Encoder(folder, threads=1), []
    for query in pd.read_csv(Path(__file__).parent / "queries.csv")["query"]:
        began = time.perf_counter()
        encode([query], "query")
        taken.append((time.perf_counter() - began) * 1000)
    return {f"p{p}_ms": round(float(np.quantile(taken, p / 100)), 1) for p in (50, 95)}


if __name__ == "__main__" and len(sys.argv) > 1:
    print(json.dumps(query_ms(sys.argv[1])))
elif __name__ == "__main__":
    goods, encode = office(), encoders.encoder()
    some = goods.iloc[:600]
    search_texts = search.product_texts(some)
    encode(search_texts[:40])
    began = time.perf_counter()
    few = encode(search_texts)
    result: dict[str, Any] = {"encoder": {n: encode.facts[n] for n in ("name", "precision", "cosine", "max_tokens")}}
    result |= {"encoded_a_second": round(len(some) / (time.perf_counter() - began), 1), "goal_a_second": 150}
    one = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")}
    words = [sys.executable, __file__, str(encode.folder)]
    result["query"] = json.loads(
        subprocess.run(words, check=True, capture_output=True, text=True, env=one).stdout.splitlines()[-1]
    )
    with tempfile.TemporaryDirectory() as folder:
        made = bundle(Path(folder), *many(goods, few))
        sizes = {name: told["bytes"] for name, told in made["files"].items() if name.startswith("catalogue/")}
        result |= {
            "products": MANY,
            "bundle_seconds_without_encoding": made["seconds"],
            "index_mb": round(sum(sizes.values()) / 1e6),
        }
        result |= {
            "vectors": made["search"]["vectors"],
            "goals": {"hybrid_p95_ms": 40, "own_mb": 300, "ready_seconds": 4},
        }
        result |= served(Path(folder) / "bundle")
    record("search", result)
