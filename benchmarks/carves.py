"""Which validation part chooses the settings that are best on test, where a split arrives and nothing says how it was cut?

Gowalla's test part is as its authors published it; of the other logs it is each user's last fifth, which nobody is told. From train a fifth
of each user's pairs is carved: at random, with more popular or rarer items (drawn by the number of their users to the power .5 or -.5), as
those nearest to one of them (cosine of singular vectors, a stretch of the user's taste), or the last in the order of the file. The regret
of a carve is what test NDCG@20 its choice among some settings loses against the best of them: of one model, or of all models together.

    python benchmarks/carves.py      # half an hour on one core; goes on with what results/carves.json holds
"""

import json

import numpy as np
import pandas as pd
from common import RESULTS, record
from defaults import core
from scipy import sparse
from scipy.sparse.linalg import svds

from recsys_lab import loading, splits
from recsys_lab.best import STARTS
from recsys_lab.datasets import Dataset
from recsys_lab.evaluation import evaluate
from recsys_lab.models.base import model_class
from recsys_lab.tuning import propose

LOGS = ("gowalla", "amazon-gift-cards", "amazon-office", "retailrocket-buyers", "shop")
MODELS = {"rp3beta": {}, "item_knn": {}, "user_knn": {}, "graph_filter": {"factors": 256, "position_decay": 0.0}}
CARVES = ("random", "popular", "rare", "near", "last")
DRAWN, JUDGED, SHARE = 9, 3000, 0.2


def split_of(name: str) -> splits.Split:
    """A log that arrived split; its validation part is carved here."""
    log = loading.load(name, **({"size": "small"} if name == "shop" else {}))
    if name != "gowalla":
        pairs = core(log.events.drop_duplicates(["user_id", "item_id"])[["user_id", "item_id"]]).reset_index(drop=True)
        users = pairs.groupby("user_id")["item_id"]
        size = users.transform("size").to_numpy()
        test = users.cumcount().to_numpy() >= size - np.maximum(1, np.round(SHARE * size))
        part = pd.Categorical(np.where(test, "test", "train"), ["train", "test"])
        log = Dataset(name, pairs.assign(event="view", part=part), has_times=False)
    return splits.given(log, SHARE)


def nearness(train: Dataset, rng: np.random.Generator) -> np.ndarray:
    """How near each row's item is to one of its user's, drawn at random: cosine of 32 singular vectors, float64 `[rows]`."""
    met, user, item = train.matrix().matrix.astype(float), train.user_codes, train.item_codes
    root = [sparse.diags(1 / np.sqrt(np.maximum(1, np.asarray(met.sum(axis)).ravel()))) for axis in (1, 0)]
    _, size, vectors = svds(root[0] @ met @ root[1], k=min(32, min(met.shape) - 2), random_state=0)
    place = vectors.T * size
    place /= np.maximum(1e-12, np.linalg.norm(place, axis=1))[:, None]
    order = np.lexsort((rng.random(len(user)), user))
    one_of = item[order][np.flatnonzero(np.diff(user[order], prepend=-1))]  # of each user
    return (place[item] * place[one_of[user]]).sum(1)


def carve(train: Dataset, how: str, seed: int = 0) -> splits.Split:
    """Train cut in two: a fifth of each user's rows is validation."""
    rng, users = np.random.default_rng(seed), train.item_users(train.items)[train.item_codes]
    first = {  # whose rows are carved first
        "random": lambda: rng.random(len(train)),
        "popular": lambda: -0.5 * np.log(users) - rng.gumbel(size=len(train)),
        "rare": lambda: 0.5 * np.log(users) - rng.gumbel(size=len(train)),
        "near": lambda: -nearness(train, rng),
        "last": lambda: -np.arange(len(train)),
    }[how]()
    order, sizes = np.lexsort((first, train.user_codes)), np.bincount(train.user_codes)
    rank = np.empty(len(train), np.int64)
    rank[order] = np.arange(len(train)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    most = np.minimum((sizes * SHARE + rng.random(len(sizes))).astype(np.int64), sizes - 1)
    held = rank < most[train.user_codes]
    return splits.Split("given", train.where(~held), train.where(held), train.where(slice(0, 0)), train, sample=JUDGED)


def settings_of(model: str) -> list[dict]:
    """The defaults, some drawn at random, and those that a search begins with."""
    kind = model_class(model)
    drawn = propose(kind().config, kind.search_space(), DRAWN, 1, MODELS[model])
    return [*drawn, *({**drawn[0], **start} for start in STARTS[model])]


def judged(name: str) -> list[dict]:
    """Each setting of each model: NDCG@20 on every carve and on test."""
    arrived = split_of(name)
    train = arrived.known_for_test
    cuts = {how: carve(train, how) for how in CARVES}
    whole = splits.Split("given", train, train.where(slice(0, 0)), arrived.test, train, sample=JUDGED)
    rows = []
    for model in MODELS:
        for setting in settings_of(model):
            row = {"model": model}
            for how, split, part in [*((h, s, "valid") for h, s in cuts.items()), ("test", whole, "test")]:
                fitted = model_class(model)(**setting).fit(split.known(part))
                row[how] = round(evaluate(fitted, split, "given", "any", part, "seen", ks=(20,)).mean("ndcg", 20), 6)
            rows.append(row)
    return rows


def regrets(rows: list[dict]) -> dict:
    """Percent of test that is lost by the choice of each carve, and by the defaults: of one model on average, and of all models."""
    table, out = pd.DataFrame(rows), {}
    groups = [group for _, group in table.groupby("model", sort=False)]

    def lost(group: pd.DataFrame, row: int) -> float:
        return 100 * (1 - group["test"].loc[row] / group["test"].max())

    for how in CARVES:
        of_one = float(np.mean([lost(group, group[how].idxmax()) for group in groups]))
        out[how] = {"of one model": round(of_one, 2), "of all": round(lost(table, table[how].idxmax()), 2)}
    out["defaults"] = {"of one model": round(float(np.mean([lost(g, g.index[0]) for g in groups])), 2)}
    return out


if __name__ == "__main__":
    path = RESULTS / "carves.json"
    found = json.loads(path.read_text())["logs"] if path.exists() else {}
    for name in LOGS:
        if name not in found:
            rows = judged(name)
            found[name] = {"regret": regrets(rows), "settings": len(rows), "rows": rows}
            record("carves", {"logs": found})
