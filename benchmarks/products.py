"""Products: a million reviews and a hundred thousand products into a database, as a process of its own.

The files are made first, in Amazon's layout of 2018 with texts of a usual length; their making is not measured.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import record

from recsys_lab import products

REVIEWS, PRODUCTS, USERS = 1_000_000, 100_000, 200_000
WORDS = "a fine pen that writes blue and does not leak in the bag which I like much more than the old one".split()


def write_files(folder: Path) -> tuple[Path, Path]:
    """The two files of JSON lines."""
    rng = np.random.default_rng(0)
    reviews, meta = folder / "reviews.json", folder / "meta.json"
    users, stars = rng.integers(0, USERS, REVIEWS), rng.integers(1, 6, REVIEWS)
    items = (PRODUCTS * rng.random(REVIEWS) ** 3).astype(int)  # some much more than others
    text = [" ".join(rng.choice(WORDS, 40)) for _ in range(1000)]
    with open(reviews, "w") as file:
        for n, (user, item, star) in enumerate(zip(users, items, stars, strict=True)):
            told = {"overall": float(star), "verified": True, "reviewerID": f"A{user:013d}", "asin": f"B{item:09d}"}
            told |= {"reviewText": text[n % 1000], "summary": "Stars", "unixReviewTime": 1_400_000_000 + n}
            file.write(json.dumps(told) + "\n")
    with open(meta, "w") as file:
        for item in range(PRODUCTS):
            told = {"asin": f"B{item:09d}", "title": text[item % 1000][:60], "description": [text[(item + 7) % 1000]]}
            told |= {
                "category": ["Office", f"Kind {item % 50}"],
                "brand": f"Brand {item % 300}",
                "price": f"${item % 90}.99",
            }
            file.write(json.dumps(told) + "\n")
    return reviews, meta


def one_load(reviews: str, meta: str, url: str) -> dict[str, Any]:
    """Seconds, rows a second and peak memory of a load, and of reading it all back as a log."""
    start = time.perf_counter()
    done = products.load_products(url, reviews, meta)
    taken = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    rows = done.counts["reviews"] + done.counts["products"]
    return {
        "rows": rows,
        "seconds": round(taken, 1),
        "rows_a_second": round(rows / taken),
        "peak_mb": round(peak),
        "ratings": done.counts["ratings"],
    }


if __name__ == "__main__" and len(sys.argv) > 1:
    print(json.dumps(one_load(*sys.argv[1:])))
elif __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder))
        result: dict[str, Any] = {"goal_rows_a_second": 30_000, "goal_mb": 300}
        for name in ("first", "again"):  # into an empty database, and once more into the full one
            words = [sys.executable, __file__, *map(str, files), f"sqlite:///{folder}/products.db"]
            result[name] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        result["megabytes"] = round((Path(folder) / "products.db").stat().st_size / 1e6)
        record("products", result)
