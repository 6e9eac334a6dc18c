"""Readers, faults, and the algebra of Dataset and Histories."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers import random_log, untimed_sessions
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys_lab import datasets
from recsys_lab.datasets.log import capabilities_of
from recsys_lab.files import DataError
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
    assert datasets.missing_needs(["times", "returning", "categories"], capabilities_of(log)) == ["times", "categories"]
    with pytest.raises(ValueError, match="unknown need"):
        datasets.missing_needs(["wings"], capabilities_of(log))


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


def test_a_foreign_kind_of_event_does_not_reorder_the_funnel():
    """One wishlist sorted all kinds by the alphabet, and a view outranked a transaction."""
    log = datasets.Dataset("log", random_log(3).events.astype({"event": "str"}))
    assert log.event_names == ("view", "addtocart", "transaction")
    odd = log.events.astype({"event": "str"})
    odd.loc[0, "event"] = "wishlist"
    assert datasets.Dataset("odd", odd).event_names == ("wishlist", "view", "addtocart", "transaction")


def test_frames_and_matrices_become_logs_or_say_what_to_pass():
    frame = random_log(1).events
    assert datasets.Dataset("x", frame.drop(columns="event")).events.event.unique().tolist() == ["view"]
    with pytest.raises(DataError, match=r"tz_localize\('UTC'\), or Dataset.from_frame\(events, time_zone"):
        datasets.Dataset("x", frame.assign(timestamp=frame["timestamp"].dt.tz_localize(None)))
    with pytest.raises(DataError, match=r"not a pandas frame; Dataset\.from_frame takes polars"):
        datasets.Dataset("x", pl.from_pandas(frame.astype({"event": "str"})))
    local = frame.assign(timestamp=frame["timestamp"].dt.tz_convert("Europe/Berlin").dt.tz_localize(None))
    read = datasets.Dataset.from_frame(local, time_zone="Europe/Berlin")
    assert read.events["timestamp"].tolist() == frame["timestamp"].tolist()
    polars = datasets.Dataset.from_frame(
        pl.DataFrame({"u": ["a", "b"], "i": [1, 2]}), columns={"user_id": "u", "item_id": "i"}
    )
    assert polars.users.tolist() == ["a", "b"] and not polars.has_times
    with pytest.raises(DataError, match=r"lacks the column\(s\) \['who'\]"):
        datasets.Dataset.from_frame(frame, columns={"user_id": "who"})
    with pytest.raises(DataError, match="say time_unit='s'"):
        datasets.Dataset.from_frame(frame.assign(timestamp=7))
    matrix = sparse.csr_matrix(np.array([[0, 2], [1, 1]]))
    assert datasets.Dataset.from_matrix(matrix).matrix().matrix.toarray().tolist() == [[0, 1], [1, 1]]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=40),
    st.integers(-1, 8),
    st.integers(-1, 8),
)
@settings(max_examples=60, deadline=None)
def test_parts_by_time_are_what_a_mask_would_give(rows, start, stop):
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "t"])
    frame["timestamp"] = pd.to_datetime(frame.pop("t") + 1_700_000_000, unit="s", utc=True)
    log = datasets.Dataset("log", frame)
    a, b = (1000 * (1_700_000_000 + t) for t in (start, stop))
    part = log.between(a, b)
    kept = log.events[(log.moments >= a) & (log.moments < b)]
    assert (
        part.events.reset_index(drop=True).equals(kept.reset_index(drop=True))
        and part.moments.tolist() == log.moments[kept.index].tolist()
    )
    pairs = log.events[["user_id", "item_id"]].drop_duplicates()
    assert len(log.pairs) == len(pairs) and ("returning" in log.offers) == pairs["user_id"].duplicated().any()
    same = log.events.groupby(["user_id", "timestamp"])["item_id"].transform("size") > 1
    assert log.card()["events of unknown order"] == pytest.approx(same.mean())


def test_read_in_one_call(tmp_path):
    (tmp_path / "log.csv").write_text("user,sku,when\n1,007,2024-01-02\n2,7,2024-01-01\n")
    log = datasets.read(tmp_path / "log.csv")
    assert log.events.item_id.tolist() == ["7", "007"] and log.has_times
    assert datasets.read(tmp_path / "log.csv", {"user_id": "user", "item_id": "sku"}).has_times is False
    assert datasets.read(log.events, time_zone="UTC").fingerprint == log.fingerprint
    with pytest.raises(AttributeError, match=r"recsys_lab\.datasets has no .nothing."):
        datasets.nothing  # noqa: B018
    (tmp_path / "train.txt").write_text("a x y\nb y z\n")
    (tmp_path / "test.txt").write_text("a z\n")
    given = datasets.read(tmp_path / "train.txt")
    assert given.events.part.tolist() == ["train"] * 4 + ["test"] and given.users.tolist() == ["a", "b"]
