"""Users read and lists written in batches: nothing is lost at a border, and a bad file is refused by its line."""

import numpy as np
import pandas as pd
import pytest
from helpers import random_log
from hypothesis import given
from hypothesis import strategies as st

from recsys_lab.batches import user_batches, write_lists
from recsys_lab.models.popularity import Popularity


@given(st.lists(st.integers(-(10**17), 10**17), min_size=1, max_size=40), st.integers(1, 50))
def test_every_user_is_read_once_and_in_order(tmp_path_factory, users, size):
    path = tmp_path_factory.mktemp("users") / "users.csv"
    pd.DataFrame({"user_id": users, "name": "x"}).to_csv(path, index=False)
    batches = list(user_batches(str(path), np.array([1]), size))
    assert np.concatenate(batches).tolist() == users and all(len(b) == size for b in batches[:-1])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("user_id\n1\n\n3\n", "users.csv:3: user_id must be a whole number"),
        ("user_id\n1\n2.5\n", "users.csv:3: user_id must be a whole number, as the ids of this model, not '2.5'"),
        ("who,when\n1,2\n", "has no column user_id; it has who, when"),
        ("", "is empty; it needs a column user_id"),
    ],
)
def test_bad_files_of_users_are_refused_by_line(text, told, tmp_path):
    (tmp_path / "users.csv").write_text(text)
    with pytest.raises(ValueError, match=told.replace(".", r"\.")):
        list(user_batches(str(tmp_path / "users.csv"), np.array([1]), 2))


def test_files_without_a_header_lose_no_user(tmp_path):
    """The first of three users was taken as the header."""
    path = tmp_path / "users.csv"
    path.write_text("1\n2\n3\n")
    assert np.concatenate(list(user_batches(str(path), np.array([1, 2]), 2))).tolist() == [1, 2, 3]
    path.write_text("ann\nbob\nzoe\n")
    assert np.concatenate(list(user_batches(str(path), np.array(["ann", "bob"], object), 2))).tolist() == [
        "ann",
        "bob",
        "zoe",
    ]
    for text, told in (
        ("zoe\nann\n", ":1: 'zoe' is neither a user"),
        ("user_id\nann\nbob;\n", ":3: user_id must be an id, without blanks or separators"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=told):
            list(user_batches(str(path), np.array(["ann", "bob"], object), 2))
    path.write_text("user_id\nNA\n")  # a user of that name, here
    assert np.concatenate(list(user_batches(str(path), np.array(["NA"], object), 2))).tolist() == ["NA"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_lists_are_those_of_recommend_whatever_the_batch(suffix, tmp_path):
    model = Popularity().fit(random_log(2))
    users = model.known.user_ids[:7]
    for size in (1, 3, 7):
        out = tmp_path / f"lists-{size}{suffix}"
        assert write_lists(model, [users[i : i + size] for i in range(0, 7, size)], 4, "seen", out) == 7
    frames = [(pd.read_csv if suffix == ".csv" else pd.read_parquet)(p) for p in sorted(tmp_path.glob("lists-*"))]
    assert all(f.equals(frames[0]) for f in frames) and len(frames) == 3
    wanted = model.recommend(users, 4, "seen").frame()
    assert frames[0].item_id.tolist() == wanted.item_id.tolist()


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    model = Popularity().fit(random_log(2))
    with pytest.raises(ValueError, match=r"must end in \.parquet or \.csv, not 'lists\.txt'"):
        write_lists(model, [], 4, "seen", tmp_path / "lists.txt")
    with pytest.raises(ValueError, match="no user"):
        write_lists(model, [], 4, "seen", tmp_path / "lists.csv")
    assert not list(tmp_path.iterdir())
