"""The formats that are read."""

import gzip
import lzma
import zipfile

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from recsys_lab import splits
from recsys_lab.files import DataError
from recsys_lab.readers import formats, shaping

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


def test_table_and_parquet_agree(tmp_path):
    frame = pd.DataFrame({"who": ["b", "a"], "what": [3, 4], "did": ["buy", "look"], "when": [1700000000, 1600000000]})
    frame.to_csv(tmp_path / "log.csv", index=False)
    frame.to_parquet(tmp_path / "log.parquet")
    mapping = {"user_id": "who", "item_id": "what", "event": "did", "timestamp": "when"}
    kinds = {"buy": "transaction", "look": "view"}
    both = [shaping.read_table(tmp_path / f, mapping, time_unit="s", events=kinds) for f in ("log.csv", "log.parquet")]
    assert both[0].fingerprint == both[1].fingerprint
    assert both[0].events.user_id.tolist() == ["a", "b"] and both[0].events.event.tolist() == ["view", "transaction"]


def test_table_faults(tmp_path):
    (tmp_path / "log.csv").write_text("who,what,when\na,1,2024-01-01\nb,,2024-01-02\n")
    mapping = {"user_id": "who", "item_id": "what", "timestamp": "when"}
    with pytest.raises(DataError, match=r"log.csv, line 3, column 'what'"):
        shaping.read_table(tmp_path / "log.csv", mapping)
    (tmp_path / "log.csv").write_text("who,what,when\na,1,2024-01-01\nb,2,yesterday\n")
    with pytest.raises(DataError, match=r"log.csv, line 3, column 'when': 'yesterday' is not a time"):
        shaping.read_table(tmp_path / "log.csv", mapping)
    with pytest.raises(ValueError, match="columns must map"):
        shaping.read_table(tmp_path / "log.csv", {"user_id": "who"})


def test_adjacency_faults(tmp_path):
    (tmp_path / "train.txt").write_text("0 1 2\n1 5 5\n")
    (tmp_path / "test.txt").write_text("0 3\n1 6\n")
    log = formats.read_adjacency(tmp_path)
    assert len(log) == 5 and log.notices == {"repeated pairs removed": 1}
    (tmp_path / "test.txt").write_text("0 2\n")
    with pytest.raises(DataError, match="user 0 has item 2 in both train and test"):
        formats.read_adjacency(tmp_path)


def test_text_ids_and_pairs_of_two_parts(tmp_path):
    (tmp_path / "train.txt").write_text("ann tea cup\nbob tea\n")
    (tmp_path / "valid.txt").write_text("bob cup\n")
    (tmp_path / "test.txt").write_text("ann cup hat\n")
    with pytest.raises(DataError, match="user ann has item cup in both train and test; on_error='quarantine'"):
        formats.read_adjacency(tmp_path)
    log = formats.read_adjacency(tmp_path, on_error="quarantine")
    assert (
        log.events[["user_id", "item_id", "part"]].to_numpy().tolist()[-1] == ["ann", "hat", "test"] and len(log) == 5
    )
    assert log.notices == {"pairs of an earlier part, set aside from the later one": 1}
    (tmp_path / "test.txt").write_bytes(b"ann h\xfft\n")
    with pytest.raises(DataError, match=r"test.txt, line 1: 'ann h\\x00t' is not text in UTF-8"):
        formats.read_adjacency(tmp_path)


def test_ratings_are_no_adjacency(tmp_path):
    (tmp_path / "train.txt").write_text("196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    (tmp_path / "test.txt").write_text("196\t303\t4\t881250950\n")
    with pytest.raises(DataError, match=r"train.txt, line 1: .* looks like user, item, rating and time"):
        formats.read_adjacency(tmp_path)
    (tmp_path / "train.txt").write_text(
        "196 242 3 881250949\n186 302\n"
    )  # a user with three items, one of them of a large number
    (tmp_path / "test.txt").write_text("196 303\n")
    assert len(formats.read_adjacency(tmp_path)) == 5


def test_sessions_that_arrive_split(tmp_path):
    (tmp_path / "sessions_train.txt").write_text("1 2\n3 4\n5 6 7\n")
    (tmp_path / "sessions_valid.txt").write_text("1 3\n")
    (tmp_path / "sessions_test.txt").write_text("2 4\n4 5\n")
    log = formats.read_session_files(tmp_path)
    assert log.cutoffs == {"valid": 7, "test": 9} and log.events.user_id.tolist()[-4:] == [4, 4, 5, 5]
    split = splits.make(log)
    assert [len(p.users) for p in (split.train, split.valid, split.test)] == [3, 1, 2]
    assert not set(split.train.users) & set(split.test.users)
    with pytest.raises(FileNotFoundError, match=r"no sessions.txt and no sessions_train.txt"):
        formats.read_session_files(tmp_path / "nothing")


def test_a_matrix_of_scipy(tmp_path):
    cells = sparse.random(30, 20, 0.2, "csr", random_state=0)
    cells.data = np.ceil(cells.data * 9)
    sparse.save_npz(tmp_path / "plays.npz", cells)
    log = formats.read_matrix(tmp_path / "plays.npz")
    assert len(log) == cells.nnz and log.events["count"].sum() == cells.sum()
    for data, told in ((cells * -1, "must be positive"), (None, "no sparse matrix")):
        if data is None:
            np.savez(tmp_path / "other.npz", x=np.ones(3))
        else:
            sparse.save_npz(tmp_path / "other.npz", data)
        with pytest.raises(DataError, match=told):
            formats.read_matrix(tmp_path / "other.npz")


def test_transactions_that_went_through_pandas(tmp_path):
    text = "timestamp,visitorid,event,itemid,transactionid\n1433193132535,5,view,11,\n1433193133000,6,transaction,12,901.0\n"
    log = formats.read_retailrocket(write_shop(tmp_path, text))
    assert log.events.transaction_id.tolist()[1] == 901
