"""From rows to events: each rule says what it left out, and adds up."""

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab.readers.shaping import only_days, read_table, shop_kind, tree_of_paths

events = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40
)  # visitor, item, microseconds / 300, step


@given(events)
@settings(max_examples=60, deadline=None)
def test_a_known_order_is_kept_and_an_unknown_one_is_not_made_up(rows):
    """A visitor's history is in the order of (time, step); rows that agree in both share a moment; nothing moves further than ties ask."""
    frame = pd.DataFrame(rows, columns=["who", "what", "t", "step"])
    frame["when"] = pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(frame["t"] * 300, unit="us")
    log = read_table(frame, {"user_id": "who", "item_id": "what", "timestamp": "when"}, order="step", duplicates="keep")
    frame["key"] = list(zip(frame["t"], frame["step"], strict=True))
    for user, mine in frame.groupby("who"):
        history = log.histories([user])
        wanted = mine.sort_values("key", kind="stable")
        assert history.items.tolist() == wanted["what"].tolist()
        steps = np.unique(np.asarray([k[0] * 10 + k[1] for k in wanted["key"]]), return_inverse=True)[1]
        assert (np.diff(history.times) > 0).tolist() == (np.diff(steps) > 0).tolist()
        assert history.times.max() - history.times.min() <= len(mine) + 2


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.sampled_from("ab")),
        min_size=1,
        max_size=30,
    )
)
@settings(max_examples=60, deadline=None)
def test_duplicates_are_rows_that_repeat_in_every_column(rows):
    frame = pd.DataFrame(rows, columns=["who", "what", "s", "colour"]).assign(when=lambda f: 1_700_000_000 + f["s"])
    log = read_table(frame, {"user_id": "who", "item_id": "what", "timestamp": "when"}, time_unit="s")
    assert len(log) == len(frame.drop_duplicates())
    assert log.notices.get("exact duplicate rows removed", 0) == len(frame) - len(log)


def test_days_in_a_zone_are_days():
    frame = pd.DataFrame({"who": [1, 1], "what": [1, 1], "when": ["2024-07-01", "2024-07-01"]})
    columns = {"user_id": "who", "item_id": "what", "timestamp": "when"}
    assert len(read_table(frame, columns, time_zone="Europe/Berlin")) == 2  # a day there is no midnight in UTC
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        con.execute('CREATE TABLE staged AS SELECT 86400000000000 * i AS "#ns" FROM range(3) t(i)')
        assert only_days(con)
        con.execute("INSERT INTO staged VALUES (86400000000001000)")
        assert not only_days(con)


def test_paths_become_a_tree_and_flat_ids_do_not_invent_one():
    tree = tree_of_paths(["a > b > c", "a > d", "7"])
    parents = tree.set_index("category").parent
    assert parents.dropna().to_dict() == {"a > b > c": "a > b", "a > b": "a", "a > d": "a"}
    assert set(parents[parents.isna()].index) == {"a", "7"}
    assert tree_of_paths([]) is None


def test_what_people_call_the_events_of_a_shop():
    assert [shop_kind(k) for k in ("PURCHASE", "add to cart", "page_view", "wishlist", "remove_from_cart")] == [
        "transaction", "addtocart", "view", None, None,
    ]  # fmt: skip


def test_an_option_without_what_it_needs_says_so(tmp_path):
    frame = pd.DataFrame({"who": [1], "what": [1], "n": [1]})
    with pytest.raises(ValueError, match="returns='cancel' needs a column of times"):
        read_table(frame, {"user_id": "who", "item_id": "what", "quantity": "n"}, returns="cancel")
    with pytest.raises(ValueError, match="since and until need a column of times"):
        read_table(frame, {"user_id": "who", "item_id": "what"}, since="2024-01-01")
