"""Models fitted on a log in many files are those of one machine, to the bit where sums are of whole numbers."""

import numpy as np
import pandas as pd
from helpers import LOGS_IN_FILES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_lab import splits
from recsys_lab.models.base import load_model, model_class
from recsys_lab.ranking.features import item_statistics
from recsys_lab.scale import fitting, store
from recsys_lab.scale.cluster import Cluster

EXACT = ("popularity", "item_knn", "session_knn", "sequential_rules", "session_walk")


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), kind=st.sampled_from(sorted(LOGS_IN_FILES)), files=st.integers(1, 12))
def test_any_number_of_files_is_one_log(tmp_path_factory, seed, kind, files):
    """Property: rows, items, cutoffs, counts, models and lists are those of one machine, with empty files and a crawler too."""
    folder, log, here = tmp_path_factory.mktemp("store"), LOGS_IN_FILES[kind](seed), Cluster()
    kept = store.write_partitions(log, folder / "store", files)
    rows = pd.concat([kept.read(n).events.assign(row=kept.rows(n)) for n in kept.numbers]).sort_values(
        "row", ignore_index=True
    )
    for column in ("user_id", "item_id", "event", *["timestamp"] * log.has_times):
        assert (rows[column].astype(str) == log.events[column].astype(str)).all()
    owners = [set(kept.read(n).users) for n in kept.numbers]
    assert sum(map(len, owners)) == len(set.union(*owners)) == len(log.users)  # whole visitors
    split, cut = splits.make(log), store.cut_store(here, kept)
    assert (cut.valid_at, cut.test_at) == split.cutoffs
    job, known = store.make_job(kept, folder / "work", blocks=3), split.known("test")
    counted = store.count_known(here, job, cut.test_at)
    assert counted.items.equals(known.items) and (counted.n_events, counted.n_users) == (len(known), len(known.users))
    facts = item_statistics(known)
    for name in ("users", "first", "last", "newest", "newer"):
        np.testing.assert_array_equal(counted.counts[name], facts[name])
    asked = split.through("test").histories()
    for name in EXACT:
        ours, theirs = load_model(fitting.fit_model(here, job, cut.test_at, name)), model_class(name)().fit(known)
        a, b = ours.rank(asked, 10, "none"), theirs.rank(asked, 10, "none")
        np.testing.assert_array_equal(a.codes, b.codes, err_msg=name)
        np.testing.assert_array_equal(a.scores, b.scores, err_msg=name)
    quick = {"factors": 6, "iterations": 3}
    ours, theirs = (
        load_model(fitting.fit_model(here, job, cut.test_at, "ials", quick)),
        model_class("ials")(**quick).fit(known),
    )
    a, b = ours.rank(asked, 10, "none").scores, theirs.rank(asked, 10, "none").scores
    assert np.nanmax(np.abs(a - b)) < 1e-4 * np.nanmax(np.abs(b))
