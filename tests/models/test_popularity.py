"""Popularity, and the popularity of late."""

import pandas as pd
from helpers import make_quick

from recsys_lab import datasets
from recsys_lab.histories import Histories


def test_recent_popularity_prefers_what_is_new():
    days = pd.date_range("2024-01-01", periods=40, tz="UTC")
    frame = pd.DataFrame({"user_id": range(40), "item_id": [1] * 30 + [2] * 10, "event": "view", "timestamp": days})
    log = datasets.Dataset("fashion", frame)
    assert make_quick("popularity").fit(log).rank(Histories.from_lists([[]]), 1).frame().item_id.item() == 1
    recent = make_quick("popularity_recent", half_life=0.05).fit(log)
    assert recent.rank(Histories.from_lists([[1]]), 1, "none").frame().item_id.item() == 2
    assert make_quick("popularity_recent", half_life=0.05).fit(log).state["scores"].argmax() == 1
