"""How long must vectors be? Models of factors and filters with other lengths on six logs, all else as by default.

The logs and what is judged are those of `defaults.py`: NDCG@20 on a random validation part, with the seconds of a fit.

What rule would one have found on five of the logs, and how good is it on the sixth?

    python benchmarks/factors.py [model ...]      # goes on with what results/factors.json holds
"""

import json
import math
import sys
import time

from common import RESULTS, record
from defaults import LOGS, split_of

from recsys_lab.evaluation import evaluate
from recsys_lab.models.base import model_class

FACTORS = (32, 64, 128, 256, 512, 1024)
RULES = [(d, least, most) for d in (16, 32, 64, 128, 256) for least in FACTORS for most in FACTORS if least <= most]
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


def share_of_best(values: dict[int, float], shape_of: list[int], divisor: int, least: int, most: int) -> float:
    """What the length that a rule gives a log reaches of the best of all lengths; the longest measured where the rule's is longer."""
    wanted = 2 ** round(math.log2(max(1.0, math.sqrt(shape_of[0] * shape_of[1]) / divisor)))
    length = min(max(wanted, least), most)
    return values[max(n for n in values if n <= max(length, min(values)))] / max(values.values())


def left_one_out(rows: list[dict], shapes: dict[str, list[int]]) -> dict[str, dict]:
    """For each model the rule that is best on five logs, judged on the sixth, and the rule of the lab on all of them.

    A rule is `sqrt(users x items) / divisor` within two bounds, as `models.factors.sized_factors` has it; of rules that are equally good
    the one with shorter vectors counts.
    """
    out = {}
    for model in MODELS:
        of = {log: {r["factors"]: r["ndcg@20"] for r in rows if (r["model"], r["log"]) == (model, log)} for log in shapes}
        shares = {rule: {log: share_of_best(of[log], shapes[log], *rule) for log in shapes} for rule in RULES}
        chosen = {}
        for left in shapes:
            means = {rule: sum(v for log, v in values.items() if log != left) for rule, values in shares.items()}
            rule = max(RULES, key=lambda one: (round(means[one], 6), -one[2], -one[1], one[0]))
            chosen[left] = {"rule": rule, "share": round(shares[rule][left], 3)}
        own = shares[64, *model_class(model).Config.lengths]
        out[model] = {"left_out": chosen, "rule_of_the_lab": {log: round(v, 3) for log, v in own.items()}}
    return out


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
    shapes = {n: shape(n) for n in LOGS}
    record("factors", {"users, items, pairs": shapes, "rows": found_before(), "rules": left_one_out(found_before(), shapes)})
