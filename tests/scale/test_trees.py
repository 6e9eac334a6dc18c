"""Features and trees over a log in many files."""

import numpy as np

from recsys_lab import splits
from recsys_lab.evaluation import evaluate
from recsys_lab.models.base import load_model, model_class
from recsys_lab.ranking.features import item_statistics
from recsys_lab.scale import store, trees
from recsys_lab.scale.cluster import Cluster


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
