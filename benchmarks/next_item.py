"""Next item with item–item CF on real sessions: predictions a second, histories cut, scored, ranked and judged."""

import statistics

from common import load, record, seconds

from recsys_lab import evaluation, splits
from recsys_lab.models.neighbours import ItemKNN

split = splits.make(load("retailrocket-sessions"))
model = ItemKNN().fit(split.known("test"))
cases = evaluation.make_cases(split, "next_item")
whole = [seconds(lambda: evaluation.evaluate(model, split, "next_item", ks=(20,))) for _ in range(5)]
ranking = [seconds(lambda: evaluation.rank_cases(model, cases, 20, 512)) for _ in range(5)]
record(
    "next_item",
    {
        "predictions": len(cases),
        "fit_seconds": round(model.fit_seconds, 2),
        "predictions_a_second": round(len(cases) / statistics.median(ranking)),
        "predictions_a_second_with_all_metrics": round(len(cases) / statistics.median(whole)),
        "goal_predictions_a_second": 2000,
    },
)
