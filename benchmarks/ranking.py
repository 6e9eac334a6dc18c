"""Two-stage ranking on the shop: feature rows a second, one visitor's candidates, and the memory of the ranking chapters."""

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from common import paired, record, seconds

from recsys_lab import loading, metrics, splits
from recsys_lab.evaluation import evaluate
from recsys_lab.models.base import model_class
from recsys_lab.ranking import features
from recsys_lab.ranking.candidates import Candidates, gather
from recsys_lab.ranking.features import feature_block
from recsys_lab.splits import make_cases

split = splits.make(loading.load("shop", size="small"))
known = split.known("test")
model = model_class("hybrid")(alpha=0.3).fit(known)
first = model.first
cases = make_cases(split, "next_item")
asking = cases.histories(slice(0, 12_000)).encode(known.items)


def rows_a_second(threads: int, tries: int = 5) -> dict[str, float]:
    """Feature rows a second for all requests, the median of some tries."""
    candidates = gather(first.sources, first.widths, asking, "none")
    spent = [
        seconds(lambda: feature_block(first.facts, asking, candidates, first.names, threads)) for _ in range(tries)
    ]
    n = len(candidates.items)
    return {"rows": n, "features": len(first.names), "rows_a_second": round(n / statistics.median(spent))}


def grid() -> dict[str, float]:
    """Time of a feature block against the same without its grid, in turn."""
    candidates = gather(first.sources, first.widths, asking.take(slice(0, 4000)), "none")
    words = (first.facts, asking.take(slice(0, 4000)), candidates, first.names)

    def without() -> None:
        with mock.patch.object(features, "round_to_grid", lambda values: values):
            feature_block(*words)

    return paired(lambda: feature_block(*words), without, 9)


def effect() -> dict[str, float]:
    """NDCG@10 of next items by the same trees, with features and scores rounded, and with neither."""
    with_grid = evaluate(model, split, "next_item", ks=(10,)).mean("ndcg", 10)
    with (
        mock.patch.object(features, "round_to_grid", lambda values: values),
        mock.patch.object(metrics, "round_scores", lambda scores: np.asarray(scores, np.float32)),
    ):
        without = evaluate(model, split, "next_item", ks=(10,)).mean("ndcg", 10)
    return {"with_grid": round(with_grid, 6), "without": round(without, 6), "goal": 1e-4}


def one_visitor(size: int = 200, tries: int = 200) -> dict[str, float]:
    """Milliseconds for one visitor's `size` candidates: their features, and trees and blend; medians, one thread."""
    longest = np.argsort(-np.diff(asking.indptr))[:tries]
    features, scoring = [], []
    for row in longest:
        one = asking.take(np.array([row]))
        c = lists_of(one, size)
        block = feature_block(first.facts, one, c, first.names)
        features.append(seconds(lambda one=one, c=c: feature_block(first.facts, one, c, first.names)))
        scoring.append(seconds(lambda one=one, c=c, block=block: model.scored(one, c, block)))
    told = {"features_ms": 1000 * statistics.median(features), "scoring_ms": 1000 * statistics.median(scoring)}
    return {"candidates": size, **{k: round(v, 2) for k, v in told.items()}}


def lists_of(one, size: int):
    """A short list of exactly `size` items for one visitor: the sources' own, and others drawn at random."""
    c = gather(first.sources, first.widths, one, "none")
    rng = np.random.default_rng(0)
    extra = rng.permutation(np.setdiff1d(np.arange(len(known.items)), c.items))[: max(0, size - len(c.items))]
    items = np.sort(np.concatenate([c.items, extra]))[:size].astype(np.int32)
    at = np.searchsorted(c.items, items)
    named = c.items[np.minimum(at, len(c.items) - 1)] == items
    ranks, scores = (np.zeros((size, len(c.sources)), a.dtype) for a in (c.ranks, c.scores))
    ranks[named], scores[named] = c.ranks[at[named]], c.scores[at[named]]
    return Candidates(np.array([0, size]), items, ranks, scores, c.sources)


def chapters(names: str = "30,31,32,33,34,35") -> dict[str, float]:
    """Seconds and peak memory of the ranking chapters on the small shop."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).parent / "recsys-lab"), "run", "--out", folder, "--only", names]
        spent = seconds(lambda: subprocess.run(command, check=True, stderr=subprocess.DEVNULL))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    return {"seconds": round(spent), "peak_gb": round(peak, 2)}


result = {
    "features_one_thread": rows_a_second(1),
    "features_two_threads": rows_a_second(2),
    "grid": grid() | effect(),
    "one_visitor": one_visitor(),
    "chapters": chapters(),
}
goals = {"goal_rows_a_second": 1_000_000, "goal_ms": 5, "goal_peak_gb": 3}
record("ranking", result | goals)
