"""Which settings serve a model best where it is not tuned? The same settings on several logs, judged on their validation parts.

For each log a setting's NDCG@10 (next item or given split, items already met left out) is divided by the best of all settings there; a
setting's worth is the mean of these shares over the logs, beside the least one. The first setting is the model's default. The test parts
are not touched. A default that another setting beats on average, and on its worst log, deserves to be looked at again.

    python benchmarks/defaults.py [model ...]      # minutes for each model; goes on with what results/defaults.json holds
"""

import json
import sys

import numpy as np
from common import RESULTS, record

from recsys_lab import loading, splits
from recsys_lab.models.base import model_class
from recsys_lab.tuning import tune

LOGS = ("shop", "amazon-gift-cards", "amazon-office", "retailrocket-sample", "gowalla")
MODELS = ("rp3beta", "bpr", "item_knn", "user_knn", "als", "popularity_recent", "session_walk", "graph_filter")
TRIALS = 12


def load(name: str) -> splits.Split:
    """The usual split of a log; the shop is the small one."""
    return splits.make(loading.load(name, **({"size": "small"} if name == "shop" else {})), seed=0)


def worth(model: str) -> dict:
    """Shares of the best value, by setting: the default first, and the setting that is best on average over the logs."""
    values, settings = [], []
    for name in LOGS:
        split = load(name)
        table = tune(model_class(model), split, split.protocols[0], TRIALS, seed=0, k=10, exclude="seen")
        names = list(model_class(model).search_space())
        settings = table[names].to_dict(
            "records"
        )  # the proposals depend on the seed alone, so they are the same on each log
        values.append(table["ndcg@10"].to_numpy())
    shares = np.stack(values) / np.max(values, axis=1, keepdims=True)
    best = int(shares.mean(0).argmax())

    def told(i: int) -> dict:
        by_log = dict(zip(LOGS, shares[:, i].round(4).tolist(), strict=True))
        return {"settings": settings[i], "mean_share": round(float(shares[:, i].mean()), 4), "shares": by_log}

    return {"default": told(0), "best_on_average": told(best), "is_default": best == 0}


if __name__ == "__main__":
    path = RESULTS / "defaults.json"
    found = json.loads(path.read_text())["models"] if path.exists() else {}
    for model in sys.argv[1:] or [m for m in MODELS if m not in found]:
        found[model] = worth(model)
        record("defaults", {"logs": LOGS, "trials": TRIALS, "models": found})
