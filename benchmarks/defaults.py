"""Which settings serve a model where it is not tuned? Each log's best settings, judged on every other log.

Logs are made alike: distinct pairs of users with five items or more, a fifth of them at random in test, which is not touched. On each
a model is searched (`tuning.propose_next`, the defaults first) for NDCG@20 on validation. A setting's share is its value divided by the
best value found on that log. Starts are chosen one after the other, each so that the best of the defaults and the starts has the highest
mean share; they are checked by leaving one log out: what do starts from the other logs reach there, beside the defaults alone?

    python benchmarks/defaults.py [model ...]      # goes on with what results/defaults.json holds
"""

import json
import sys
from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
from common import RESULTS, record

from recsys_lab import loading, splits
from recsys_lab.datasets import Dataset
from recsys_lab.evaluation import evaluate
from recsys_lab.models.base import model_class
from recsys_lab.tuning import propose_next

LOGS = ("gowalla", "retailrocket-sessions", "retailrocket-buyers", "amazon-office", "amazon-gift-cards", "shop")
MODELS: dict[str, dict] = {  # with the settings that are held
    "rp3beta": {},
    "item_knn": {},
    "user_knn": {},
    "graph_filter": {"factors": 256, "position_decay": 0.0},
    "spectral_filter": {"factors": 256, "position_decay": 0.0},
    "als": {"factors": 64},
    "ials": {"factors": 128},
}
TRIALS, STARTS, JUDGED = 14, 4, 3000


def core(pairs: pd.DataFrame, fewest: int = 5) -> pd.DataFrame:
    """The pairs of users with so many items or more, of items that two or more met."""
    size = -1
    while size != len(pairs):
        size = len(pairs)
        pairs = pairs[pairs.groupby("item_id")["user_id"].transform("size") >= 2]
        pairs = pairs[pairs.groupby("user_id")["item_id"].transform("size") >= fewest]
    return pairs


@cache
def split_of(name: str) -> splits.Split:
    """The split of a log, made alike."""
    log = loading.load(name, **({"size": "small"} if name == "shop" else {}))
    if name != "gowalla":  # which arrived so
        pairs = core(log.events.drop_duplicates(["user_id", "item_id"])[["user_id", "item_id"]]).reset_index(drop=True)
        part = np.where(np.random.default_rng(0).random(len(pairs)) < 0.2, "test", "train")
        frame = pairs.assign(event="view", part=pd.Categorical(part, ["train", "test"]))
        log = Dataset(name, frame, has_times=False)
    return splits.make(log, seed=0, judged=JUDGED)


def judge(model: str, setting: dict, log: str) -> float:
    """NDCG@20 of a setting on the validation part of a log."""
    split = split_of(log)
    found = evaluate(model_class(model)(**setting).fit(split.train), split, "given", "any", "valid", "seen", ks=(20,))
    return found.mean("ndcg", 20)


def search(model: str, log: str, value: Callable[[dict, str], float]) -> list[dict]:
    """The settings that are tried on a log."""
    kind, tried = model_class(model), []
    for _ in range(TRIALS):
        setting = propose_next(kind().config, kind.search_space(), tried, 0, MODELS[model])
        tried.append((setting, value(setting, log)))
    return [setting for setting, _ in sorted(tried, key=lambda t: -t[1])]


def starts_of(shares: np.ndarray, candidates: list[int], most: int) -> list[int]:
    """Rows of `shares` `[settings, logs]` to try after the defaults (row 0), each of which raises the mean share of the best most."""
    chosen = [0]
    while len(chosen) <= most and (left := [c for c in candidates if c not in chosen]):
        gains = {c: shares[[*chosen, c]].max(0).mean() for c in left}
        best = max(left, key=lambda c: gains[c])
        if gains[best] <= shares[chosen].max(0).mean() + 1e-4:
            break
        chosen.append(best)
    return chosen[1:]


def worth(model: str) -> dict:
    """The best settings of each log, their shares on all logs, the starts, and what starts of the other logs reach on the one left out."""
    kept: dict[tuple[str, str], float] = {}

    def value(setting: dict, log: str) -> float:
        if (key := (repr(sorted(setting.items())), log)) not in kept:
            kept[key] = judge(model, setting, log)
        return kept[key]

    tops, usual = {}, {n: getattr(model_class(model)().config, n) for n in model_class(model).search_space()} | MODELS[model]
    for log in LOGS:
        tops[log] = search(model, log, value)[0]
        print(model, log, tops[log], round(value(tops[log], log), 4), "defaults", round(value(usual, log), 4), flush=True)
    settings = [usual, *tops.values()]
    values = np.array([[value(setting, log) for log in LOGS] for setting in settings])
    shares = values / np.array([max(v for (_, of), v in kept.items() if of == log) for log in LOGS])
    left_out = {"defaults": shares[0].tolist()}
    for most in (1, STARTS):
        chosen = [starts_of(np.delete(shares, i, 1), [n for n in range(1, len(settings)) if n != i + 1], most) for i in range(len(LOGS))]
        left_out[f"with {most} starts"] = [float(shares[[0, *rows], i].max()) for i, rows in enumerate(chosen)]
    starts = [settings[row] for row in starts_of(shares, list(range(1, len(settings))), STARTS)]
    plain = [{n: v for n, v in setting.items() if n not in MODELS[model]} for setting in starts]
    return {
        "best": {log: {"settings": top, "ndcg@20": round(value(top, log), 5)} for log, top in tops.items()},
        "shares": shares.round(4).tolist(),
        "starts": [{n: round(v, 4) if isinstance(v, float) else v for n, v in setting.items()} for setting in plain],
        "left_out": {name: np.round(row, 4).tolist() for name, row in left_out.items()},
    }


def found_before() -> dict:
    """What the file of results holds of these logs."""
    path = RESULTS / "defaults.json"
    held = json.loads(path.read_text()) if path.exists() else {}
    return held["models"] if held.get("logs") == list(LOGS) else {}


if __name__ == "__main__":
    for model in sys.argv[1:] or [m for m in MODELS if m not in found_before()]:
        result = worth(model)
        record("defaults", {"logs": LOGS, "trials": TRIALS, "models": found_before() | {model: result}})
