"""Steps: what a task may return, and what is not done twice. Real worker processes: cluster_checks.py."""

import json

import pytest
from helpers import random_log

from recsys_lab.scale import cluster, running, store
from recsys_lab.scale.cluster import Cluster


def test_a_task_may_not_return_what_grows(tmp_path):
    """A result that is too large is refused, so that nothing grows on the client; results of steps are found again."""
    with pytest.raises(ValueError, match="results belong in files"):
        Cluster().map("large", bytes, {"a": (cluster.RESULT_BYTES + 1,)})
    kept = store.write_partitions(random_log(4), tmp_path / "store", 3)
    here = Cluster()
    running.run_on_cluster(kept, tmp_path / "run", here, ["item_knn"], tell=lambda line: None)
    recorded = {row["protocol"] for row in json.loads((tmp_path / "run" / "metrics.json").read_text())}
    assert recorded == {"next_item", "next_period"}
    again = Cluster()
    running.run_on_cluster(kept, tmp_path / "run", again, ["item_knn"], tell=lambda line: None)
    first, second = ({row["step"].split("-")[0] for row in cluster_.spent} for cluster_ in (here, again))
    kept_steps = {"counts", "known", "dealt", "similar", "lists", "cases"}
    assert kept_steps <= first and not kept_steps & second
