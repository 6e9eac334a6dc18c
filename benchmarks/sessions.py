"""What it does to models of sessions to learn from sessions instead of whole histories: quality, and the time of a fit.

Histories stay whole in both. Sessions end after 30 minutes without an event.
"""

from typing import Any

from common import record

from recsys_lab import evaluation, loading, splits
from recsys_lab.models.neighbours import SequentialRules, SessionKNN, SessionWalk

GAP = 30.0  # minutes
QUESTIONS = (("next_item", "any", "none"), ("next_item", "any", "seen"), ("next_period", "any", "seen"))


def compare(split: splits.Split, kind: Any) -> list[dict[str, Any]]:
    """A row for each question: NDCG@10 of both, the paired difference, and how many times as fast the fit is."""
    rows = []
    for protocol, target, exclude in QUESTIONS:
        whole, cut = kind(), kind(session_gap=GAP)
        a, b = (evaluation.evaluate(m, split, protocol, target, "test", exclude, ks=(10,)) for m in (cut, whole))
        row = a.compare(b, "ndcg", 10)
        figures = {name: round(row[name], 4) for name in ("difference", "low", "high")}
        means = {"whole": round(b.mean("ndcg", 10), 4), "sessions": round(a.mean("ndcg", 10), 4)}
        rows.append(
            {
                "question": [protocol, exclude],
                **means,
                **figures,
                "fit_times_as_fast": round(whole.fit_seconds / cut.fit_seconds, 1),
            }
        )
    return rows


if __name__ == "__main__":
    result = {}
    for name in ("shop", "retailrocket-buyers"):
        parts = splits.make(loading.load(name, size="small"))
        result[name] = {kind.name: compare(parts, kind) for kind in (SessionKNN, SequentialRules, SessionWalk)}
    record("sessions", result)
