"""Item–item CF on Gowalla's given split, settings chosen on a part carved from train, test scored once, beside the published figure.

Published: BARS, ItemCF, Recall@20 .1570 and NDCG@20 .1214, all items ranked.
"""

from itertools import product

from common import load, record

from recsys_lab import evaluation, splits, tuning
from recsys_lab.models.neighbours import ItemKNN

PUBLISHED = {"recall": 0.1570, "ndcg": 0.1214}

split = splits.make(load("gowalla"), seed=0)
grid = [
    {"user_norm": norm, "shrinkage": shrinkage, "neighbours": neighbours}
    for norm, shrinkage, neighbours in product((0.0, 0.5, 1.0), (0.3, 1.0, 3.0), (50, 200, 400))
]
trials = tuning.try_settings(ItemKNN, grid, split, "given", k=20, metric="ndcg")
best = tuning.best_setting(trials)
found = (
    evaluation.evaluate(ItemKNN(**best), split, "given", ks=(20,))
    .summary(1000, 0)
    .query("metric in ['recall', 'ndcg']")
)
measured = {
    row.metric: {
        "published": PUBLISHED[row.metric],
        "ours": round(row.value, 4),
        "low": round(row.low, 4),
        "high": round(row.high, 4),
        "ratio": round(row.value / PUBLISHED[row.metric], 3),
    }
    for row in found.itertuples()
}
record("gowalla", {"settings": best, "trials": trials.round(5).to_dict("records"), "at_20": measured})
