"""Next item on real sessions: predictions a second (histories cut, scored, ranked), and how good they are, with and without repeats."""

import statistics

from common import load, record, seconds

from recsys_lab import evaluation, splits
from recsys_lab.models.base import model_class

GOALS = {"item_knn": 2000, "session_knn": 1000, "session_walk": 1000, "sequential_rules": 1000}

split = splits.make(load("retailrocket-sessions"))
result = {}
for name, goal in GOALS.items():
    model = model_class(name)().fit(split.known("test"))
    cases = splits.make_cases(split, "next_item")
    whole = [seconds(lambda m=model: evaluation.evaluate(m, split, "next_item", ks=(20,))) for _ in range(3)]
    ranking = [seconds(lambda m=model, c=cases: evaluation.rank_cases(m, c, 20, 512)) for _ in range(3)]
    result[name] = {
        "predictions": len(cases),
        "fit_seconds": round(model.fit_seconds, 2),
        "predictions_a_second": round(len(cases) / statistics.median(ranking)),
        "predictions_a_second_with_all_metrics": round(len(cases) / statistics.median(whole)),
        "goal_predictions_a_second": goal,
    }
    for asked, exclude in (("as_it_happened", "none"), ("without_repeats", "seen")):
        table = evaluation.evaluate(model, split, "next_item", exclude=exclude, ks=(20,)).summary(1000, 0)
        result[name][asked] = {
            row.metric: {"value": round(row.value, 4), "low": round(row.low, 4), "high": round(row.high, 4)}
            for row in table.query("metric in ['hit_rate', 'mrr']").itertuples()
        }
record("next_item", result)
