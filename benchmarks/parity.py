"""The same bundle under two BLAS kernels: 1,000 visitors of the small shop over HTTP, against the lists of the evaluated pipeline here."""

import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import requests
from common import record
from serving import LIMIT_MB, Limit, server
from threadpoolctl import threadpool_info

from recsys_lab import loading, runs, splits
from recsys_lab.ranking.hybrid import HybridTuned
from recsys_lab.serving.api import replay_requests
from recsys_lab.serving.bundle import pack
from recsys_lab.serving.schemas import MOST_HISTORY

KERNELS = ("Nehalem", "Haswell")
VISITORS = 1000


def main() -> None:
    """Measure and record."""
    log = loading.load("shop", size="small")
    split = splits.make(log)
    hybrid = HybridTuned(alpha=0.1).fit(split.known("test"))
    protocol, target, exclude = runs.questions(split)[0]
    cases = splits.make_cases(split, protocol, target, "test", exclude)
    warm = np.flatnonzero((cases.history > 0) & (cases.history <= MOST_HISTORY))
    first = np.sort(warm[np.unique(cases.user_ids[warm], return_index=True)[1]][:VISITORS])
    asked = cases.subset(first, np.ones(len(cases.relevant), bool)).histories(slice(0, len(first)))
    lists = hybrid.rank(asked, 10, exclude)
    here = sorted({d["architecture"] for d in threadpool_info() if d["user_api"] == "blas" and "architecture" in d})
    result: dict[str, Any] = {"visitors": len(first), "evaluated_under": ", ".join(here), "served_under": {}}
    with tempfile.TemporaryDirectory() as place:
        fit = hybrid.save(Path(place) / "fit")
        pack(fit, log, Path(place) / "bundle", about={"dataset": "shop", "size": "small"})
        for kernel in KERNELS:
            with mock.patch.dict(os.environ, OPENBLAS_CORETYPE=kernel):
                result["served_under"][kernel] = served(Path(place) / "bundle", asked, exclude, hybrid, lists)
    record("parity", result)


def served(folder: Path, asked: Any, exclude: str, hybrid: Any, lists: Any) -> dict[str, Any]:
    """How the answers of a server started in this environment differ from `lists`, and how long one takes."""
    spent, limit = [], Limit(LIMIT_MB)
    with server(folder, limit) as (port, _, _), requests.Session() as session:

        def post(path: str, body: dict[str, Any]) -> Any:
            start = time.perf_counter()
            answer = session.post(f"http://127.0.0.1:{port}{path}", json=body).json()
            spent.append(time.perf_counter() - start)
            return answer

        codes, scores = replay_requests(post, asked, 10, exclude, hybrid.items)
    limit.remove()
    return {
        "other_lists": int((codes != lists.codes).any(axis=1).sum()),
        "largest_difference": float(np.nanmax(np.abs(scores - lists.scores))),
        "median_ms": round(1000 * float(np.median(spent)), 2),
    }


if __name__ == "__main__":
    main()
