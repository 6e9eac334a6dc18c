"""Histories as arrays."""

import numpy as np
import pandas as pd
from helpers import random_log
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab.histories import Histories

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
