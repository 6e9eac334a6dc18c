"""A month of a large shop in REES46's layout: writing it, importing it, opening and splitting it; each step in a process of its own.

Needs no real data. Goals: the import within 5 minutes and 4 GB, opening, the card and the split within 60 seconds and 6 GB. Beside it the
same file with pandas alone.
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

import duckdb
import pandas as pd
import pyarrow.parquet as pq
from common import record

from recsys_lab import importing, loading, splits

EVENTS = int(os.environ.get("IMPORT_EVENTS", 42_448_764))  # of October 2019 in that log
USERS, ITEMS, DAYS = EVENTS // 14, 166_794, 31


def make_file(folder: Path) -> dict[str, Any]:
    """Write the events: visitors with a long tail, sessions, prices and categories of items, a few carts and purchases."""
    with duckdb.connect() as con:
        con.execute(f"SET memory_limit = '3GB'; SET temp_directory = '{folder / 'made'}'")
        draw = "abs(hash(i * {n})) % 1000000 / 1000000.0"
        rows = f"""
            SELECT i, CAST(pow({draw.format(n=7)}, 3) * {ITEMS} AS INT) AS p, CAST(pow({draw.format(n=11)}, 1.5) * {USERS} AS INT) AS u,
                   abs(hash(i * 13)) % 1000 AS c, i * {DAYS * 86400} // {EVENTS} AS s,
                   i * {DAYS} // {EVENTS} AS day FROM range({EVENTS}) t(i)
        """
        columns = f"""
            SELECT strftime(TIMESTAMP '2019-10-01' + INTERVAL (s) SECOND, '%Y-%m-%d %H:%M:%S UTC') AS event_time,
                   CASE WHEN c < 960 THEN 'view' WHEN c < 982 THEN 'cart' ELSE 'purchase' END AS event_type,
                   1000000 + p AS product_id, 2053013550000000000 + p % 624 AS category_id,
                   CASE WHEN p % 3 > 0 THEN 'group' || p % 13 || '.kind' || p % 120 END AS category_code,
                   'brand' || p % 3445 AS brand, round(10 + p % 2500 + day // 10, 2) AS price,
                   512000000 + u AS user_id, md5(u::VARCHAR || day) AS user_session
            FROM ({rows})
        """
        con.execute(f"COPY ({columns}) TO '{folder / '2019-Oct.csv'}' (HEADER, DELIMITER ',')")
    return {"events": EVENTS, "gb": round((folder / "2019-Oct.csv").stat().st_size / 1e9, 2)}


def import_file(folder: Path) -> dict[str, Any]:
    """`recsys-lab data import`: look at the file, write dataset.toml, order the log as Parquet."""
    os.environ["RECSYS_LAB_CACHE"] = str(folder / "cache")
    proposal = importing.propose([folder / "2019-Oct.csv"])
    words = proposal.words
    place = folder / "data" / "month"
    place.mkdir(parents=True)
    (place / "dataset.toml").write_text(importing.toml_text(words))
    loading.prepare(place, "month")
    made = next((folder / "cache").glob("month-*/*/events.parquet"))
    return {
        "layout": proposal.layout.name if proposal.layout else "",
        "rows": pq.read_metadata(made).num_rows,
        "parquet_gb": round(made.stat().st_size / 1e9, 2),
    }


def open_and_split(folder: Path) -> dict[str, Any]:
    """Open the log, describe it, split it by time."""
    os.environ["RECSYS_LAB_CACHE"] = str(folder / "cache")
    start = time.perf_counter()
    log = loading.read_cached(folder / "data" / "month", "month")
    opened = time.perf_counter() - start
    card = log.card()
    described = time.perf_counter() - start - opened
    split = splits.make(log)
    parts = [len(part) for part in (split.train, split.valid, split.test)]
    assert sum(parts) == len(log)
    return {
        "opened": round(opened, 1),
        "described": round(described, 1),
        "users": int(card["users"]),
        "items": int(card["items"]),
        "parts": parts,
    }


def pandas_alone(folder: Path) -> dict[str, Any]:
    """pandas reading the same columns of the file, and ordering them."""
    columns = ["event_time", "event_type", "product_id", "user_id"]
    frame = pd.read_csv(folder / "2019-Oct.csv", usecols=columns, dtype={"event_type": "category"})
    frame["event_time"] = pd.to_datetime(frame["event_time"], format="%Y-%m-%d %H:%M:%S UTC", utc=True)
    return {"rows": len(frame.sort_values("event_time", kind="stable"))}


STEPS: dict[str, Callable[[Path], dict[str, Any]]] = {
    f.__name__: f for f in (make_file, import_file, open_and_split, pandas_alone)
}


def measured(step: str, folder: Path) -> dict[str, Any]:
    """One step in a process of its own: what it returned, seconds (imports left out) and peak memory."""
    words = [sys.executable, __file__, step, str(folder)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__" and len(sys.argv) > 1:
    begun = time.perf_counter()
    told = STEPS[sys.argv[1]](Path(sys.argv[2]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({**told, "seconds": round(time.perf_counter() - begun, 1), "peak_gb": round(peak, 2)}))
elif __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        record("import_size", {name: measured(name, Path(home)) for name in STEPS})
