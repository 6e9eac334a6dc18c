"""Graph models: a step of LightGCN beside plain PyTorch and PyTorch Geometric, and all of them as the log doubles.

The plain ways get their negatives for nothing; ours draws them inside the measured time. The log that doubles is the simulated
shop of the published log's size, each time in a process of its own.
"""

import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import load, paired, record, seconds
from torch_geometric.nn import LightGCN as TheirLightGCN

from recsys_lab import datasets, simulator, splits
from recsys_lab.models.graph_filter import GFCF, GraphFilter
from recsys_lab.models.lightgcn import Learner, LightGCN, LightGCNConfig, normalize_adjacency, step

BATCH, STEPS = 2048, 5
SHARES = (0.25, 0.5, 1.0)


def plain_steps(weights: Any, config: LightGCNConfig, sparse: bool) -> Callable[[], None]:
    """`STEPS` steps as published code takes them: COO adjacency (or PyTorch Geometric's messages), autograd and Adam over all of it."""
    users, n = weights.shape[0], sum(weights.shape)
    pairs = Learner(weights, config).pairs
    edges = normalize_adjacency(weights).tocoo()
    row, column = (torch.from_numpy(a.astype(np.int64)) for a in (edges.row, edges.col))
    both = torch.stack([torch.cat([row, column + users]), torch.cat([column + users, row])])
    rng, model = np.random.default_rng(0), TheirLightGCN(n, config.factors, config.layers)
    adam = torch.optim.Adam(model.parameters(), config.learning_rate)
    values = torch.from_numpy(np.concatenate([edges.data, edges.data]))
    adjacency = torch.sparse_coo_tensor(both, values, (n, n), check_invariants=False).coalesce()

    def table() -> Any:
        if not sparse:
            return model.get_embedding(both)
        layers = [model.embedding.weight]
        for _ in range(config.layers):
            layers.append(torch.sparse.mm(adjacency, layers[-1]))
        return torch.stack(layers).mean(0)

    def steps() -> None:
        for _ in range(STEPS):
            rows = rng.integers(0, len(pairs.users), BATCH)
            user, item = (torch.from_numpy(a[rows]) for a in (pairs.users, pairs.items + users))
            other = torch.from_numpy(rng.integers(0, weights.shape[1], BATCH) + users)
            out, own = table(), model.embedding.weight
            loss = torch.nn.functional.softplus((out[user] * (out[other] - out[item])).sum(1)).mean()
            penalty = own[torch.cat([user, item, other])].square().sum() * config.regularization / (2 * BATCH)
            adam.zero_grad()
            (loss + penalty).backward()
            adam.step()

    return steps


def our_steps(weights: Any, config: LightGCNConfig) -> Callable[[], None]:
    """The same number of our steps, draws included."""
    learner = Learner(weights, config)
    rng = np.random.default_rng(0)
    batches: Iterator[np.ndarray] = (rng.integers(0, len(learner.pairs.users), BATCH) for _ in itertools.count())

    def steps() -> None:
        for _ in range(STEPS):
            step(learner, next(batches), rng)

    return steps


def beside_others() -> dict[str, Any]:
    """Seconds of `STEPS` steps on Gowalla and ratios in turn: ours to plain PyTorch, and to PyTorch Geometric."""
    weights = splits.make(load("gowalla")).known("test").matrix().matrix.astype(np.float32)
    config = LightGCNConfig(batch_size=BATCH)
    told: dict[str, Any] = {"steps": STEPS, "batch": BATCH, "factors": config.factors, "layers": config.layers}
    ours = our_steps(weights, config)
    for name, sparse in (("plain", True), ("pytorch_geometric", False)):
        told[name] = paired(ours, plain_steps(weights, config, sparse), 9 if sparse else 3)
        told[name]["times_faster"] = round(1 / told[name]["ratio"], 1)
    without = our_steps(weights, LightGCNConfig(batch_size=BATCH, layers=0))
    told["bpr_mf"] = paired(without, ours, 5)
    learner = Learner(weights, config)
    steps = -(-len(learner.pairs.users) // BATCH)
    told["epoch"] = {"steps": steps, "ours_seconds": round(seconds(learner.epoch), 1)}
    told["epoch"]["plain_seconds"] = round(steps * told["plain"]["theirs_seconds"] / STEPS, 1)
    return told


MODELS: dict[str, Callable[[], Any]] = {
    "lightgcn": lambda: LightGCN(
        epochs=1, batch_size=65_536
    ),  # every step costs a pass over the whole graph, so few of them
    "gf_cf": lambda: GFCF(),
    "graph_filter": lambda: GraphFilter(),
    "gowalla": lambda: GraphFilter(factors=768),
}


def one_fit(name: str, share: float) -> dict[str, Any]:
    """Seconds and peak memory of a model on the first `share` of the full shop's events: a fit, and lists for 1,000 users.

    A share of 0 is Gowalla's train part, with lists for all its users.
    """
    if share:
        events = simulator.simulate(simulator.SIZES["full"]).events
        events = events.head(int(len(events) * share)).rename(columns={"visitorid": "user_id", "itemid": "item_id"})
        times = pd.to_datetime(events["timestamp"], unit="ms", utc=True)
        log = datasets.Dataset("full", events[["user_id", "item_id", "event"]].assign(timestamp=times))
    else:
        log = splits.make(load("gowalla")).known("test")
    model = MODELS[name]().fit(log)
    start = time.perf_counter()
    model.rank(model.known if not share else model.known.take(slice(0, 1000)), 20)
    told = {"events": len(log), "users": len(log.users), "items": len(log.items), "fit_seconds": model.fit_seconds}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # of this process, or of its parent at the fork
    return told | {"rank_seconds": time.perf_counter() - start, "peak_gb": peak}


def measured(name: str, share: float) -> dict[str, Any]:
    """`one_fit` in a process of its own."""
    words = [sys.executable, __file__, name, str(share)]
    told = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return {k: round(v, 2) if isinstance(v, float) else v for k, v in told.items()}


if __name__ == "__main__" and len(sys.argv) > 1:
    print(json.dumps(one_fit(sys.argv[1], float(sys.argv[2]))))
elif __name__ == "__main__":
    # what is measured in other processes comes first: a child's peak begins with the memory of its parent
    result: dict[str, Any] = {"goal_times_faster": 6, "goal_peak_gb": 8}
    result |= {"gowalla": measured("gowalla", 0.0), "goal_gowalla_gb": 6, "goal_gowalla_seconds": 300}
    for name in ("lightgcn", "gf_cf", "graph_filter"):
        result[name] = [measured(name, share) for share in SHARES]
    result["step"] = beside_others()
    record("graph", result)
