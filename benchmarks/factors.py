"""How long must vectors be? Models of factors and filters with other lengths on six logs, all else as by default.

The logs and what is judged are those of `defaults.py`: NDCG@20 on a random validation part, with the seconds of a fit.

    python benchmarks/factors.py [model ...]      # goes on with what results/factors.json holds
"""

import json
import sys
import time

from common import RESULTS, record
from defaults import LOGS, split_of

from recsys_lab.evaluation import evaluate
from recsys_lab.models.base import model_class

FACTORS = (32, 64, 128, 256, 512, 1024)
MODELS: dict[str, dict] = {  # with the settings that are held
    "als": {},
    "ials": {},
    "graph_filter": {"position_decay": 0.0},
    "spectral_filter": {"position_decay": 0.0},
}


def found_before() -> list[dict]:
    """The rows that the file of results holds."""
    path = RESULTS / "factors.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def shape(log: str) -> list[int]:
    """Users, items and pairs of a log's train part."""
    train = split_of(log).train
    return [len(train.users), len(train.items), len(train)]


def judge(model: str, log: str, factors: int) -> dict:
    """One length of a model's vectors on one log."""
    split = split_of(log)
    fitted, start = model_class(model)(factors=factors, **MODELS[model]), time.perf_counter()
    fitted.fit(split.train)
    seconds = time.perf_counter() - start
    value = evaluate(fitted, split, "given", "any", "valid", "seen", ks=(20,)).mean("ndcg", 20)
    return {"model": model, "log": log, "factors": factors, "ndcg@20": round(value, 5), "seconds": round(seconds, 1)}


if __name__ == "__main__":
    for log in sorted(LOGS, key=lambda name: len(split_of(name).train)):
        fewest = min(len(split_of(log).train.users), len(split_of(log).train.items))
        for model in sys.argv[1:] or MODELS:
            for factors in FACTORS:
                done = {(row["model"], row["log"], row["factors"]) for row in found_before()}
                if factors < fewest and (model, log, factors) not in done:
                    row = judge(model, log, factors)
                    print(row, flush=True)
                    record("factors", {"users, items, pairs": {n: shape(n) for n in LOGS}, "rows": [*found_before(), row]})
