"""A model that is updated with the newest day or week of the full shop, beside one that is fitted anew: seconds, in turns; equal states.

Of item KNN the rows of items are made again that share a visitor with one whose visitors have changed.
"""

import time
from typing import Any

import numpy as np
from common import record
from scipy import sparse

from recsys_lab import loading
from recsys_lab.models.base import growth_of, model_class

ROUNDS, DAY = 3, 86_400_000


def equal(a: Any, b: Any) -> bool:
    """Whether two states are the same to the bit."""
    return all(
        (a[n] != b[n]).nnz == 0 if sparse.issparse(a[n]) else np.array_equal(a[n], b[n]) for n in a.keys() | b.keys()
    )


def main() -> None:
    """Measure and record."""
    log = loading.load("shop", size="full")
    log.matrix()
    log.histories()
    rows = []
    for days in (1, 7):
        before = log.before(int(log.moments[-1]) - days * DAY)
        for name in ("popularity", "item_knn"):
            taken: dict[str, list[float]] = {"fit": [], "update": []}
            for _ in range(ROUNDS):
                model = model_class(name)().fit(before)
                began = time.perf_counter()
                model.update(log)
                taken["update"].append(time.perf_counter() - began)
                began = time.perf_counter()
                fresh = model_class(name)().fit(log)
                taken["fit"].append(time.perf_counter() - began)
                assert equal(model.state, fresh.state)
            growth = growth_of(model_class(name)().fit(before), log)
            ratios = [u / f for u, f in zip(taken["update"], taken["fit"], strict=True)]
            row = {"model": name, "days": days, "new_events": len(log) - len(before)}
            row |= {"changed_visitors": int(growth.changed.sum()) if growth else None}
            rows.append(
                row
                | {n: round(float(np.median(v)), 2) for n, v in taken.items()}
                | {"ratio": round(float(np.median(ratios)), 3)}
            )
            print(rows[-1], flush=True)
    record("updates", {"rounds": ROUNDS, "rows": rows})


if __name__ == "__main__":
    main()
