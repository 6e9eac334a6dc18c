"""The service without and with a log of what it serves and places left to chance, in turns on one bundle: latency, throughput, memory, and
whether every list that was served is in the log after SIGTERM.

The bundle is that of `serving.py`, or the one that is named: `python benchmarks/feedback_log.py bundle`.
"""

import asyncio
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

from common import record
from serving import LIMIT_MB, PLACE, Limit, as_fast_as_it_goes, at_a_rate, bundle, known_ids, server, told, unshared

from recsys_lab.lifecycle.feedback import read_rows

ROUNDS = 3


def measure(folder: Path, limit: Limit, asked: list[Any], place: Path | None) -> dict[str, Any]:
    """One service, with a log at a place or without: latency at 50 a second, answers a second, memory of a worker, lists written."""
    words = ["--log", str(place), "--explore", "0.05"] if place else []
    with server(folder, limit, *words) as (port, pid, _):
        first, _ = asyncio.run(as_fast_as_it_goes(port, asked[:500], 4, 30))
        steady = asyncio.run(at_a_rate(port, asked[500:1500], 50))
        answers, seconds = asyncio.run(as_fast_as_it_goes(port, asked[1500:], 8, 10))
        found = {
            **told(steady),
            "a_second": round(len(answers) / seconds),
            "unshared_mb": max(unshared(pid), default=0),
        }
    if place:
        found |= {"served": len(first) + len(steady) + len(answers), "written": len(read_rows(place, "lists"))}
        shutil.rmtree(place, ignore_errors=True)  # the process that makes Parquet may be at work there still
    return found


def main() -> None:
    """Measure and record."""
    folder, manifest = bundle(*sys.argv[1:2])
    limit, rng = Limit(LIMIT_MB), random.Random(0)
    users, _ = known_ids(folder)
    asked = [(f"/recommend/{rng.choice(users)}?n=10",) for _ in range(30_000)]
    result: dict[str, Any] = {"items": manifest["facts"]["unique_items"], "without": [], "with": []}
    try:
        for number in range(ROUNDS):
            result["without"].append(measure(folder, limit, asked, None))
            result["with"].append(measure(folder, limit, asked, PLACE / f"log-{os.getpid()}-{number}"))
    finally:
        limit.remove()
    record("feedback_log", result)


if __name__ == "__main__":
    main()
