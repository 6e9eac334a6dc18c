"""What the benchmarks share: paired timing, the real data, and the file of results."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recsys_lab import datasets, loading

RESULTS = Path(__file__).parent / "results"


def load(name: str) -> datasets.Dataset:
    """A real dataset from RECSYS_LAB_DATA."""
    return loading.load(name)


def seconds(work: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired(ours: Callable[[], Any], theirs: Callable[[], Any], runs: int = 5) -> dict[str, Any]:
    """Both in turn after one warm-up each: medians, and the median of the ratios pair by pair."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(runs)]
    ratios = [a / b for a, b in pairs]
    return {
        "ours_seconds": round(statistics.median(a for a, _ in pairs), 3),
        "theirs_seconds": round(statistics.median(b for _, b in pairs), 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "runs": runs,
    }


def record(name: str, result: dict[str, Any]) -> None:
    """Write `results/NAME.json` and print it."""
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    text = json.dumps({**result, "machine": machine}, indent=1)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(name, text)
