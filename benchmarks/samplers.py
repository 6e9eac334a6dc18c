"""Which sampler finds better settings with as many trials? Drawn at random, or by the values of those before (`tuning.propose_next`).

Each model is searched on the validation part of a log, with several seeds; what counts is the best NDCG@20 among the first so many trials,
as a share of the best of all searches of that model. The defaults come first in both, and the test part is not touched.

    python benchmarks/samplers.py      # a quarter of an hour on one core
"""

import numpy as np
from common import load, record

from recsys_lab import splits
from recsys_lab.evaluation import evaluate
from recsys_lab.models.base import model_class
from recsys_lab.tuning import propose, propose_next

SEARCHED = {"rp3beta": {}, "graph_filter": {"factors": 256, "position_decay": 0.0}}  # with the settings that are held
AFTER = (1, 6, 12, 18, 24)  # trials
SEEDS = 3


def search(model: str, held: dict, split: splits.Split, seed: int, learned: bool, known: dict) -> list[float]:
    """The value of each trial; `known` keeps values of settings that were tried before."""
    kind, tried = model_class(model), []
    drawn = propose(kind().config, kind.search_space(), AFTER[-1], seed, held)
    for number in range(AFTER[-1]):
        setting = propose_next(kind().config, kind.search_space(), tried, seed, held) if learned else drawn[number]
        if (key := repr(sorted(setting.items()))) not in known:
            found = evaluate(kind(**setting).fit(split.train), split, "given", "any", "valid", "seen", ks=(20,))
            known[key] = found.mean("ndcg", 20)
        tried.append((setting, known[key]))
    return [value for _, value in tried]


def compared(model: str, held: dict, split: splits.Split) -> dict:
    """Mean share of the best value after so many trials, for both ways."""
    known: dict = {}
    ways = {"random": False, "by the values": True}
    found = {way: [search(model, held, split, seed, learned, known) for seed in range(SEEDS)] for way, learned in ways.items()}
    most = max(known.values())
    shares = {way: np.maximum.accumulate(rows, axis=1)[:, [n - 1 for n in AFTER]] / most for way, rows in found.items()}
    return {"best": round(most, 4)} | {way: share.mean(0).round(4).tolist() for way, share in shares.items()}


if __name__ == "__main__":
    split = splits.make(load("gowalla"), seed=0, judged=3000)
    models = {model: compared(model, held, split) for model, held in SEARCHED.items()}
    record("samplers", {"log": "gowalla", "seeds": SEEDS, "after": AFTER, "models": models})
