"""Readers, faults, and the algebra of Dataset and Histories."""

import pytest
from helpers import random_log, untimed_sessions

from recsys_lab import datasets
from recsys_lab.histories import Histories


def test_order_of_a_log_without_times_survives_parts():
    log = untimed_sessions(0)
    later = log.where(log.moments >= 500)
    assert later.moments[0] == 500 and later.events.timestamp.isna().all()
    assert later.fingerprint != log.fingerprint


def test_fingerprint_depends_on_content_alone():
    log = random_log(1)
    changed = log.events
    changed.loc[0, "item_id"] = 77
    assert datasets.Dataset("x", log.events).fingerprint == log.fingerprint
    assert datasets.Dataset("x", changed).fingerprint != log.fingerprint


def test_weights_count_events():
    log = random_log(2)
    matrix, users, items = log.matrix({"view": 1, "transaction": 5})
    events = log.events[log.events.event != "addtocart"]
    wanted = (
        events.assign(w=events.event.map({"view": 1.0, "transaction": 5.0}).astype(float))
        .groupby(["user_id", "item_id"])
        .w.sum()
    )
    assert matrix.nnz == len(wanted) and matrix.sum() == wanted.sum()
    assert matrix[users.get_loc(wanted.index[3][0]), items.get_loc(wanted.index[3][1])] == wanted.iloc[3]
    with pytest.raises(ValueError, match="unknown event"):
        log.matrix({"clik": 1})


def test_what_is_missing_is_named():
    log = untimed_sessions(0)
    assert datasets.missing_needs(["times", "returning", "categories"], log) == ["times", "categories"]
    with pytest.raises(ValueError, match="unknown need"):
        datasets.missing_needs(["wings"], log)


def test_a_matrix_leaves_its_histories_alone():
    """Summing duplicates in place once changed the arrays that the histories and the matrix shared."""
    history = Histories.from_lists([[2, 0, 2, 1], [1, 1]])
    before = history.indptr.copy(), history.items.copy()
    first = history.matrix(3, {"view": 2.0})
    assert first.toarray().tolist() == [[2, 2, 4], [0, 4, 0]]
    assert (history.indptr == before[0]).all() and (history.items == before[1]).all()
    assert (history.matrix(3, {"view": 2.0}) != first).nnz == 0


def test_what_is_kept_with_a_log_goes_with_it():
    """Made once for a key; of each kind the latest used; nothing outlives the log."""
    import gc
    import weakref

    log, made = datasets.Dataset("kept", random_log(1).events), []

    class Fit:
        pass

    def make(n):
        made.append(n)
        return Fit()

    first = log.kept(("fit", 0), lambda: make(0))
    assert log.kept(("fit", 0), lambda: make(0)) is first and made == [0]
    for n in range(1, 5):  # the fifth puts out the one that was used longest ago
        log.kept(("fit", n), lambda n=n: make(n))
    log.kept(("other", 0), lambda: make("other"))
    assert log.kept(("fit", 0), lambda: make(0)) is not first and made == [0, 1, 2, 3, 4, "other", 0]
    alive = weakref.ref(log.kept(("fit", 4), lambda: make(4)))
    del log, first
    gc.collect()
    assert alive() is None
