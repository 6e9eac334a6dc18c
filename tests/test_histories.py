"""Histories as arrays."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers import random_log
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys_lab.histories import Histories, distinct_histories, places_of, split_into_sessions
from recsys_lab.models.popularity import Popularity

runs = st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=8)


@given(runs)
def test_histories_survive_a_round_trip(lists):
    h = Histories.from_lists(lists)
    assert [h.items[a:b].tolist() for a, b in zip(h.indptr[:-1], h.indptr[1:], strict=True)] == lists
    backwards = h.take(np.arange(len(h))[::-1])
    assert backwards.take(np.arange(len(h))[::-1]).items.tolist() == h.items.tolist()
    codes = h.encode(pd.Index([0, 2, 4, 6, 8]))
    assert [[2 * i for i in codes.items[a:b]] for a, b in zip(codes.indptr[:-1], codes.indptr[1:], strict=True)] == [
        [i for i in run if i % 2 == 0] for run in lists
    ]
    block = codes.matrix(5).toarray()
    assert block.tolist() == [[float(2 * i in run) for i in range(5)] for run in lists]


@given(st.integers(0, 10_000), st.integers(1_700_000_000, 1_702_600_000), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_cut_history_is_what_came_before(seed, second, text):
    log = random_log(seed, n=120, users=12, text=text)
    at = second * 1000
    events = log.events
    asked = [*log.users[:5], "nobody" if text else 9999]
    h = log.histories(asked, at=at)
    for row, user in enumerate(asked):
        before = events[(events.user_id == user) & (log.moments < at)]
        assert h.items[h.indptr[row] : h.indptr[row + 1]].tolist() == before.item_id.tolist()
    past = log.before(at)
    assert len(past) == (log.moments < at).sum() and len(past) + len(log.between(at)) == len(log)


def test_what_is_no_list_of_ids_is_said(tmp_path):
    """`recommend(1)` was "'int' object is not iterable", a text was taken letter by letter, text ids got popular items."""
    model = Popularity().fit(random_log(2))
    for wrong in (1, "a", np.int64(3)):
        with pytest.raises(ValueError, match="user_ids must be a list of ids"):
            model.recommend(wrong)
    with pytest.raises(ValueError, match="histories are lists of item ids, one list a visitor"):
        Histories.from_lists(["10"])
    with pytest.raises(ValueError, match="histories are lists of item ids"):
        Histories.from_lists([10, 11])
    for history in ([["10", "11"]], [["10", 11]]):
        with pytest.raises(ValueError, match="item id '10' is text, but the ids of this log are whole numbers"):
            model.rank(Histories.from_lists(history))
    with pytest.raises(ValueError, match="user id '1' is text"):
        model.recommend(["1"])
    texts = Popularity().fit(random_log(2, text=True))
    with pytest.raises(ValueError, match="item id 10 is a number, but the ids of this log are text"):
        texts.rank(Histories.from_lists([[10]]))
    with pytest.raises(ValueError, match=r"takes a Dataset, not a csr_matrix: make one by Dataset.from_matrix"):
        Popularity().fit(sparse.csr_matrix(np.eye(3)))
    assert len(model.rank(Histories.from_lists([[]]))) == 1


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 120)), max_size=8), min_size=1, max_size=6),
    st.sampled_from([0.0, 1.0, 30.0]),
)
@settings(max_examples=100, deadline=None)
def test_sessions_cut_histories_and_lose_nothing(runs, gap):
    """Put together, the sessions are the histories; a session ends at a pause and nowhere else."""
    minutes = [np.cumsum([step for _, step in run]) for run in runs]
    flat = np.concatenate(minutes).astype(np.int64) * 60_000 if runs else np.zeros(0, np.int64)
    histories = replace(Histories.from_lists([[item for item, _ in run] for run in runs]), times=flat)
    parts = split_into_sessions(histories, gap)
    assert parts.items.tolist() == histories.items.tolist() and parts.indptr[-1] == len(flat)
    borders, wanted = set(parts.indptr.tolist()), set(histories.indptr.tolist())
    pauses = {i for i in range(1, len(flat)) if gap and flat[i] - flat[i - 1] > gap * 60_000}
    assert borders == wanted | pauses | {0}
    saved = replace(histories, sessions=np.arange(len(flat)))
    assert len(split_into_sessions(saved, gap)) == len(flat)


@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=3), min_size=1, max_size=30))
def test_distinct_histories_are_those_that_differ(lists):
    h = Histories.from_lists(
        [[i for i, _ in run] for run in lists],
        [[("view", "addtocart", "transaction")[e] for _, e in run] for run in lists],
    )
    h = replace(h, items=h.items.astype(np.int32))
    first, same = distinct_histories(h, times=False, ids=False)
    assert len(first) == len({tuple(run) for run in lists})
    assert all(lists[first[same[n]]] == run for n, run in enumerate(lists))
    alone = distinct_histories(replace(h, user_ids=np.arange(len(h))), times=False, ids=True)[0]
    assert len(alone) == len(lists)


@given(st.lists(st.integers(-50, 50), unique=True), st.lists(st.integers(-60, 60)), st.booleans())
def test_ids_are_found_as_pandas_finds_them(known, wanted, text):
    index = pd.Index(sorted(map(str, known))) if text else pd.Index(sorted(known), dtype=np.int64)
    asked = np.array([str(w) for w in wanted], object) if text else np.array(wanted, np.int64)
    found = places_of(index, asked)
    assert found.dtype == np.int64 and found.tolist() == index.get_indexer(asked).tolist()


def test_ids_of_other_types_are_found_exactly():
    """Numbers without a sign beyond 2**53 would be compared as floats."""
    index = pd.Index(np.array([2**60, 2**60 + 1, 2**60 + 2]))
    for kind in (np.uint64, np.int64):
        assert places_of(index, np.array([2**60 + 1, 2**60 + 2, 7], kind)).tolist() == [1, 2, -1]
    assert places_of(index, np.array(["7"])).tolist() == [-1]
