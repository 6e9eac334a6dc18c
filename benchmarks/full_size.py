"""The shop of the published log's size: making it, reading it, and looking values up in it; each step in a process of its own.

Needs no real data. Beside it the same work with pandas alone: read_csv, and merge_asof.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import record

from recsys_lab import catalogue, datasets, loading, simulator
from recsys_lab.readers import formats

PAIRS = 10_000_000


def make_events(folder: Path) -> dict[str, Any]:
    """Simulate, and write the events."""
    shop = simulator.simulate(simulator.SIZES["full"])
    shop.events.to_csv(folder / "only_events.csv", index=False)
    return {"events": len(shop.events)}


def make_shop(folder: Path) -> dict[str, Any]:
    """All files."""
    simulator.make_shop(folder / "shop", "full")
    files = {p.name: p.stat().st_size for p in sorted((folder / "shop").iterdir())}
    parts = [folder / "shop" / f"item_properties_part{n}.csv" for n in (1, 2)]
    return {"bytes": files, "property_rows": sum(part.read_bytes().count(b"\n") - 1 for part in parts)}


def read_events(folder: Path) -> dict[str, Any]:
    """The lab's reader, on events alone."""
    (folder / "alone").mkdir(exist_ok=True)
    if not (folder / "alone" / "events.csv").exists():
        os.link(folder / "shop" / "events.csv", folder / "alone" / "events.csv")
    return {"rows": len(formats.read_retailrocket(folder / "alone"))}


def pandas_events(folder: Path) -> dict[str, Any]:
    """pandas alone: no line is named when something is wrong."""
    frame = pd.read_csv(folder / "shop" / "events.csv", dtype={"transactionid": "Int64", "event": "category"})
    frame["timestamp"] = pd.to_datetime(frame["timestamp"], unit="ms", utc=True)
    return {"rows": len(frame.drop_duplicates().sort_values("timestamp", kind="stable"))}


def read_properties(folder: Path) -> dict[str, Any]:
    """All property rows streamed, those of the lab's properties kept."""
    kept = formats.read_retailrocket_properties(folder / "shop", formats.PROPERTIES)
    return {"kept": 0 if kept is None else len(kept)}


def load(folder: Path) -> dict[str, Any]:
    """`loading.load`'s way: text the first time, Parquet the second."""
    os.environ["RECSYS_LAB_CACHE"] = str(folder / "cache")
    return {"rows": len(loading.read_cached(folder / "shop", "shop"))}


def questions(folder: Path) -> tuple[datasets.Dataset, np.ndarray, np.ndarray]:
    """The log, and items and moments to look up."""
    os.environ["RECSYS_LAB_CACHE"] = str(folder / "cache")
    log, rng = loading.read_cached(folder / "shop", "shop"), np.random.default_rng(0)
    return log, rng.integers(0, 417_053, PAIRS), rng.integers(log.moments[0], log.moments[-1], PAIRS)


def look_up(folder: Path) -> dict[str, Any]:
    """The category of 10 million (item, time) pairs, the index included."""
    log, items, moments = questions(folder)
    start = time.perf_counter()
    found = catalogue.AsOf(log.properties, "categoryid").codes(items, moments)
    return {"own_seconds": time.perf_counter() - start, "known": int((found >= 0).sum())}


def merge_asof(folder: Path) -> dict[str, Any]:
    """The same with pandas.merge_asof."""
    log, items, moments = questions(folder)
    start = time.perf_counter()
    rows = log.properties[log.properties["property"] == "categoryid"].sort_values("timestamp")
    asked = pd.DataFrame({"item_id": items, "timestamp": pd.to_datetime(moments, unit="ms", utc=True).as_unit("ms")})
    joined = pd.merge_asof(
        asked.sort_values("timestamp"), rows, on="timestamp", by="item_id", allow_exact_matches=False
    )
    return {"own_seconds": time.perf_counter() - start, "known": int(joined["value"].notna().sum())}


def facts(folder: Path) -> dict[str, Any]:
    """What the simulator's chapter shows beside the published facts."""
    return simulator.shop_facts(questions(folder)[0])


STEPS: dict[str, Callable[[Path], dict[str, Any]]] = {
    f.__name__: f
    for f in (make_events, make_shop, read_events, pandas_events, read_properties, load, look_up, merge_asof, facts)
}


def measured(step: str, folder: Path) -> dict[str, Any]:
    """One step in a process of its own: what it returned, seconds (imports left out) and peak memory."""
    words = [sys.executable, __file__, step, str(folder)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__" and len(sys.argv) > 1:
    start = time.perf_counter()
    told = STEPS[sys.argv[1]](Path(sys.argv[2]))
    seconds = told.pop("own_seconds", time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({**told, "seconds": round(seconds, 2), "peak_gb": round(peak, 2)}))
elif __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        place = Path(home)
        names = [n for n in STEPS if n not in ("load", "facts")]
        result: dict[str, Any] = {n: measured(n, place) for n in names[:5]}
        result |= {"first_load": measured("load", place), "second_load": measured("load", place)}
        result |= {n: measured(n, place) for n in names[5:]}
        assert result["look_up"]["known"] == result["merge_asof"]["known"]
        found = measured("facts", place)
    result["facts"] = {n: v for n, v in found.items() if n not in ("seconds", "peak_gb")}
    record("full_size", result)
