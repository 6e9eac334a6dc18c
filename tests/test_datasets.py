"""Readers, faults, and the algebra of Dataset and Histories."""

import gzip
import hashlib
import lzma
import os
import zipfile

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, random_log, real_data, untimed_sessions
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab import datasets, files, loading
from recsys_lab.files import DataError
from recsys_lab.histories import Histories
from recsys_lab.readers import formats

HEADER = "timestamp,visitorid,event,itemid,transactionid\n"
ROWS = "1433193132535,5,view,11,\n1433193132000,6,addtocart,12,\n1433193133000,6,transaction,12,901\n"
PROPERTIES = (
    "timestamp,itemid,property,value\n1433193000000,11,categoryid,7\n1433193000000,12,283,n552.000\n"
    "1433193132900,11,categoryid,8\n"
)


def write_shop(folder, events=HEADER + ROWS):
    folder.mkdir(exist_ok=True)
    (folder / "events.csv").write_text(events)
    return folder


def test_retailrocket_files(tmp_path):
    (tmp_path / "item_properties_part1.csv").write_text(PROPERTIES)
    (tmp_path / "category_tree.csv").write_text("categoryid,parentid\n7,1\n8,1\n1,\n")
    log = formats.read_retailrocket(write_shop(tmp_path))
    assert log.events.item_id.tolist() == [12, 11, 12]
    assert log.events.timestamp.iloc[1] == pd.Timestamp(1433193132535, unit="ms", tz="UTC")
    assert log.events.transaction_id.tolist()[2] == 901
    assert log.properties["property"].unique().tolist() == ["categoryid"]  # only what was asked for is kept
    assert log.item_property("categoryid").to_dict() == {11: "8"}
    assert log.before(1433193132900).item_property("categoryid").to_dict() == {11: "7"}  # as it was known then
    assert log.categories.parent.isna().tolist() == [False, False, True]
    assert {"times", "carts", "purchases", "categories", "returning"} - log.offers == {"returning"}


@pytest.mark.parametrize("form", ["gzip", "xz", "zip", "zip with a folder"])
def test_compressed_files_read_alike(tmp_path, form):
    plain = formats.read_retailrocket(write_shop(tmp_path / "plain"))
    folder = tmp_path / "packed"
    folder.mkdir()
    content = (HEADER + ROWS).encode()
    if form == "gzip":
        (folder / "events.csv.gz").write_bytes(gzip.compress(content))
    elif form == "xz":
        (folder / "events.csv.xz").write_bytes(lzma.compress(content))
    else:
        with zipfile.ZipFile(folder / "archive.zip", "w") as z:
            z.writestr("deep/events.csv" if "folder" in form else "events.csv", content)
            z.writestr("notes.txt", "not a log")
    assert formats.read_retailrocket(folder).fingerprint == plain.fingerprint
    if form == "zip":
        assert formats.read_retailrocket(folder / "archive.zip").fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    "text, told",
    [
        (HEADER + "1433193132535,x,view,11,\n", "line 2, column 'visitorid': 'x'"),
        (
            HEADER + ROWS + "1433193132535,5,click,11,\n",
            "line 5, column 'event': 'click' is not one of view, addtocart, transaction",
        ),
        (HEADER + ROWS + "\n\n2015-05-03,5,view,11,\n", "line 7, column 'timestamp': '2015-05-03'"),
        (HEADER + "1433193132535,5,view,,\n", "line 2, column 'itemid': ''"),
        (HEADER + "1433193132535,5,view,11\n", "line 2: 4 field(s) instead of the header's 5"),
        (HEADER + "1433193132535,5,view,11,,\n", "line 2: 6 field(s)"),
        ("timestamp,visitorid,event,itemid\n1,2,view,3\n", "line 1: column(s) ['transactionid'] are missing"),
        (
            "timestamp,visitorid,event,itemid,itemid,transactionid\n",
            "line 1: column(s) ['itemid'] appear more than once",
        ),
        ("", "the file is empty"),
    ],
)
def test_malformed_events_name_the_place(tmp_path, text, told):
    with pytest.raises(DataError) as error:
        formats.read_retailrocket(write_shop(tmp_path, text))
    assert told in str(error.value) and "events.csv" in str(error.value)


def test_a_bad_row_far_down_is_named_by_its_line(tmp_path):
    """Blocks are read apart; the row's number within its block is not the line."""
    rows = [f"{1433193132535 + i},{i},view,{i % 7},\n" for i in range(200_000)]
    rows[150_000] = "1433193132535,oops,view,1,\n"
    with pytest.raises(DataError, match=r"line 150002, column 'visitorid': 'oops'"):
        formats.read_retailrocket(write_shop(tmp_path, HEADER + "".join(rows)))


def test_exact_duplicates_are_counted_and_removed(tmp_path):
    log = formats.read_retailrocket(write_shop(tmp_path, HEADER + ROWS + ROWS))
    assert len(log) == 3 and log.notices == {"exact duplicate rows removed": 3}


def test_missing_folder_lists_what_there_is():
    with pytest.raises(ValueError, match=r"there are .*shop"):
        loading.load("nothing-of-this-name")


def test_unknown_size_is_refused():
    with pytest.raises(ValueError, match="no shop of size 'huge'; there are"):
        loading.load("shop", size="huge")


def test_table_and_parquet_agree(tmp_path):
    frame = pd.DataFrame({"who": ["b", "a"], "what": [3, 4], "did": ["buy", "look"], "when": [1700000000, 1600000000]})
    frame.to_csv(tmp_path / "log.csv", index=False)
    frame.to_parquet(tmp_path / "log.parquet")
    mapping = {"user_id": "who", "item_id": "what", "event": "did", "timestamp": "when"}
    kinds = {"buy": "transaction", "look": "view"}
    logs = [formats.read_table(tmp_path / f, mapping, time_unit="s", events=kinds) for f in ("log.csv", "log.parquet")]
    assert logs[0].fingerprint == logs[1].fingerprint
    assert logs[0].events.user_id.tolist() == ["a", "b"] and logs[0].events.event.tolist() == ["view", "transaction"]


def test_table_faults(tmp_path):
    (tmp_path / "log.csv").write_text("who,what,when\na,1,2024-01-01\nb,,2024-01-02\n")
    mapping = {"user_id": "who", "item_id": "what", "timestamp": "when"}
    with pytest.raises(DataError, match=r"log.csv, line 3, column 'what'"):
        formats.read_table(tmp_path / "log.csv", mapping)
    (tmp_path / "log.csv").write_text("who,what,when\na,1,2024-01-01\nb,2,yesterday\n")
    with pytest.raises(DataError, match=r"log.csv, line 3, column 'when': 'yesterday' is not a time"):
        formats.read_table(tmp_path / "log.csv", mapping)
    with pytest.raises(ValueError, match="columns must map"):
        formats.read_table(tmp_path / "log.csv", {"user_id": "who"})


def test_own_log_described_by_toml(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "log.csv").write_text("who,what\na,1\na,2\nb,1\n")
    (folder / "dataset.toml").write_text('file = "log.csv"\n[columns]\nuser_id = "who"\nitem_id = "what"\n')
    monkeypatch.setenv("RECSYS_LAB_DATA", str(tmp_path))
    log = loading.load("mine")
    assert not log.has_times and log.events.item_id.tolist() == [1, 2, 1] and "mine" in loading.available()
    (folder / "dataset.toml").write_text('file = "log.csv"\ncolums = 1\n')
    with pytest.raises(DataError, match=r"dataset.toml: \['colums'\] unknown or missing"):
        loading.load("mine")


def test_adjacency_faults(tmp_path):
    (tmp_path / "train.txt").write_text("0 1 2\n1 5 5\n")
    (tmp_path / "test.txt").write_text("0 3\n1 6\n")
    log = formats.read_adjacency(tmp_path)
    assert len(log) == 5 and log.notices == {"repeated pairs removed": 1}
    (tmp_path / "test.txt").write_text("0 2\n")
    with pytest.raises(DataError, match="user 0 has item 2 in both train and test"):
        formats.read_adjacency(tmp_path)


def test_the_raw_sample_has_three_duplicates():
    log = real_data("retailrocket-sample")
    assert len(log) == 9382 and log.notices == {"exact duplicate rows removed": 3}
    assert len(log.categories) == 1669 and log.categories.parent.isna().sum() == 25


def test_real_logs_are_read_whole():
    buyers = real_data("retailrocket-buyers")
    assert buyers.events.event.value_counts().to_dict() == {"view": 75374, "addtocart": 12456, "transaction": 9551}
    assert (len(buyers.users), len(buyers.items)) == (2174, 29905)
    sessions = real_data("retailrocket-sessions")
    assert (len(sessions), len(sessions.users), len(sessions.items)) == (
        685_984,
        126_168,
        36_968,
    ) and not sessions.has_times
    gowalla = real_data("gowalla")
    assert gowalla.events.part.value_counts().to_dict() == {"train": 810_128, "test": 217_242}
    path = ROOT / os.environ["RECSYS_LAB_DATA"] / "gowalla" / "train.txt.xz"
    assert hashlib.sha256(files.open_source(path).read()).hexdigest().startswith("7244696fdeb23911")


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
