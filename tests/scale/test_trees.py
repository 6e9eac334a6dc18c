"""Features and trees over a log in many files."""

import numpy as np
import pytest

from recsys_lab import splits
from recsys_lab.evaluation import evaluate
from recsys_lab.models.base import load_model, model_class
from recsys_lab.ranking.features import item_statistics
from recsys_lab.scale import store, trees
from recsys_lab.scale.cluster import Cluster, ClusterError


def test_features_and_trees(tmp_path, shop):
    """Statistics of items and the features of a file's rows are those of one machine; the trees are as good, within an interval."""
    here, split = Cluster(), splits.make(shop)
    kept = store.write_partitions(shop, tmp_path / "store", 3)
    job, cut, known = store.make_job(kept, tmp_path / "work"), store.cut_store(here, kept), split.known("test")
    ours = load_model(trees.fit_trees(here, job, cut.test_at))
    facts = item_statistics(known)
    for name, value in facts.items():
        mine = ours.state[f"facts/{name}"]
        if name == "similarity":
            assert (mine != value).nnz == 0
        else:
            np.testing.assert_allclose(mine, value, rtol=1e-12, err_msg=name)
    theirs = model_class("lightgbm")(sources=trees.SOURCES).fit(known)
    assert ours.state["names"].tolist() == theirs.state["names"].tolist()
    ours.fitted_on = theirs.fitted_on
    apart = evaluate(ours, split, "next_item").compare(evaluate(theirs, split, "next_item"), "ndcg", 10)
    assert apart["low"] < 0.01 and apart["high"] > -0.01, apart


def test_what_is_wrong_with_the_rows_is_no_lost_worker(monkeypatch):
    """Training begins again only where a worker has gone; anything else is told at once, and losses without end are given up."""
    from lightgbm.basic import LightGBMError

    class Client:
        def scheduler_info(self, n_workers):
            return {"workers": {name: {"nthreads": 1, "memory_limit": 1} for name in ("a", "b")}}

        def wait_for_workers(self, n, timeout):
            raise TimeoutError

    def fail(*_):
        begun.append(1)
        raise LightGBMError("labels must be whole numbers")

    begun, cluster = [], Cluster()
    monkeypatch.setattr(trees, "train_on_workers", fail)
    some_are_gone = trees.some_are_gone
    monkeypatch.setattr(trees, "some_are_gone", lambda cluster, before: some_are_gone(cluster, before, 0.3))
    monkeypatch.setattr(trees, "wait_for_workers", lambda *_: None)
    cluster._client = Client()
    with pytest.raises(LightGBMError, match="labels must be whole numbers"):
        trees.train_trees(cluster, None, [], [], None)
    assert len(begun) == 1
    monkeypatch.setattr(trees, "some_are_gone", lambda cluster, before: True)
    with pytest.raises(ClusterError, match=r"workers were lost 3 times while they trained \(LightGBMError: labels"):
        trees.train_trees(cluster, None, [], [], None)
    assert len(begun) == 4
