"""Any table as a log: nothing is lost, merged or moved without a word."""

import bz2
import gzip
import lzma
import zipfile

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_lab.files import DataError
from recsys_lab.readers.logs import LogOptions, find_files
from recsys_lab.readers.shaping import read_table

MINE = {"user_id": "who", "item_id": "what", "timestamp": "when"}
PAIR = {"user_id": "who", "item_id": "what"}


def write(folder, text, name="log.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(path, columns=MINE, **options):
    with pytest.raises(DataError) as error:
        read_table(path, columns, **options)
    return str(error.value)


ids = st.text(
    st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")),
    min_size=1,
    max_size=6,
)
unusual = st.sampled_from(
    ["007", "7", "07", "2053013555631882655", "1e5", "0", "-0", "+1", "1.0", "0x1F", "é", "☃", "true", "inf", "1_000"]
)
words = st.one_of(ids, unusual).filter(
    lambda v: v.strip().lower() not in ("", "na", "n/a", "nan", "null", "none", "\\n", "<na>", "nat")
)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=25))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ids_never_change_and_no_two_become_one(tmp_path, rows):
    """As CSV, JSON lines, Parquet and a frame: the same ids, each as it was written."""
    frame = pd.DataFrame(rows, columns=["who", "what"], dtype="str")
    paths = [tmp_path / name for name in ("a.csv", "a.jsonl", "a.parquet")]
    frame.to_csv(paths[0], index=False)
    frame.to_json(paths[1], orient="records", lines=True, force_ascii=False)
    frame.to_parquet(paths[2])
    whole = [
        all(v.isascii() and v.lstrip("-").isdigit() and str(int(v)) == v and len(v.lstrip("-")) <= 18 for v in column)
        for column in zip(*rows, strict=True)
    ]
    floats = [all(v.endswith(".0") and v[:-2].isdigit() for v in column) for column in zip(*rows, strict=True)]
    for log in [read_table(p, PAIR) for p in paths] + [read_table(frame, PAIR)]:
        for name, column, numbers, saved in zip(
            ("user_id", "item_id"), zip(*rows, strict=True), whole, floats, strict=True
        ):
            wanted = [int(v) for v in column] if numbers else [int(v[:-2]) for v in column] if saved else list(column)
            assert log.events[name].tolist() == wanted


@pytest.mark.parametrize("form", ["plain", "gz", "xz", "bz2", "zst", "zip"])
def test_every_compression_is_read_and_none_is_read_short(tmp_path, form):
    text = ("who,what\n" + "".join(f"u{i},{i * 7}\n" for i in range(5000))).encode()
    pack = {
        "plain": bytes,
        "gz": gzip.compress,
        "xz": lzma.compress,
        "bz2": bz2.compress,
        "zst": lambda b: pa.compress(b, "zstd", asbytes=True),
    }
    if form == "zip":
        path = tmp_path / "log.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("data/log.csv", text)
            archive.writestr("__MACOSX/._log.csv", b"rubbish")
            archive.writestr(".DS_Store", b"rubbish")
    else:
        path = write(tmp_path, pack[form](text), f"log.csv.{form}")
    log = read_table(path, PAIR)
    assert len(log) == 5000 and log.events.item_id.iloc[-1] == 4999 * 7
    if form != "plain":
        damaged = path.read_bytes()
        middle = len(damaged) // 2
        inside = (
            [] if form == "zst" else [damaged[:middle] + bytes(40) + damaged[middle + 40 :]]
        )  # zstd need not have a checksum
        for broken in (damaged[:middle], *inside):
            path.write_bytes(broken)
            assert "damaged or cut short" in refused(path, PAIR)


def test_a_zip_of_two_names_its_members(tmp_path):
    with zipfile.ZipFile(tmp_path / "log.zip", "w") as archive:
        archive.writestr("a/log.csv", "who,what\na,1\n")
        archive.writestr("b/other.csv", "who,what\nb,2\n")
    assert "say which one with member=" in refused(tmp_path / "log.zip", PAIR)
    assert read_table(tmp_path / "log.zip", PAIR, member="b/other.csv").users.tolist() == ["b"]
    assert read_table(tmp_path / "log.zip", PAIR, member="log.csv").users.tolist() == ["a"]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("a::1::x\nb::2::y\n", {"separator": "::", "header": False, "names": ("who", "what", "z")}),
        ("a 1\nb 2\n", {"separator": " ", "header": False, "names": ("who", "what")}),
        ("# made by hand\nwho,what\n# half-way\na,1\nb,2\n", {"comment": "#"}),
        ("\n# made\n\n# by hand\nwho,what\na,1\n\n#b,3\nb,2\n# end", {"comment": "#"}),
        ("who\twhat\r\na\t1\r\nb\t2\r\n", {"separator": "\t"}),
        ("who,what\r\na,1\nb,2\r\n", {}),  # line ends of two kinds
        ("who;what\n'a';'1'\nb;2\n", {"separator": ";", "quote": "'"}),
        ('who,what\n"a",1\nb,2\n', {}),
        ("\n\nwho,what\n\na,1\n\nb,2\n\n", {}),
    ],
)
def test_dialects(tmp_path, text, options):
    assert read_table(write(tmp_path, text), PAIR, **options).events[["user_id", "item_id"]].to_numpy().tolist() == [
        ["a", 1],
        ["b", 2],
    ]


def test_columns_by_position_and_without_names(tmp_path):
    path = write(tmp_path, "1,a,x\n2,b,y\n")
    log = read_table(path, {"user_id": 2, "item_id": 1}, header=False)
    assert log.users.tolist() == ["a", "b"] and log.items.tolist() == [1, 2]
    assert "column 4 of user_id is not there; there are 3" in refused(path, {"user_id": 4, "item_id": 1}, header=False)
    assert "3 field(s), but names gives 2" in refused(
        path, {"user_id": "a", "item_id": "b"}, header=False, names=("a", "b")
    )


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8-sig"])
def test_encodings(tmp_path, encoding):
    path = write(tmp_path, "who,what\njörg,1\nzoë,2\nx\n".encode(encoding))
    assert read_table(path, PAIR, encoding=encoding, on_error="quarantine").users.tolist() == ["jörg", "zoë"]
    assert f"{path}, line 4: 1 field(s)" in refused(path, PAIR, encoding=encoding)
    with pytest.raises(ValueError, match="encoding 'latin-99' is not known"):
        read_table(path, PAIR, encoding="latin-99")


def test_other_bytes_than_utf8_name_the_option(tmp_path):
    message = refused(write(tmp_path, "who,what\nann,1\njörg,2\n".encode("latin-1")), PAIR)
    assert "line 3, column 'who'" in message and "is encoding='latin-1' (or 'cp1252') meant?" in message


@pytest.mark.parametrize("word", ["NA", "nan", "NULL", "None", r"\N", "", "n/a", "<NA>", "NaN"])
def test_missing_ids_are_no_visitor(tmp_path, word):
    path = write(tmp_path, f"who,what\na,1\n{word},2\nb,3\n")
    message = refused(path, PAIR)
    assert "line 3, column 'who'" in message and "missing_ids='drop'" in message
    log = read_table(path, PAIR, missing_ids="drop")
    assert log.users.tolist() == ["a", "b"] and [n for t, n in log.notices.items() if "without user_id" in t] == [1]
    if word:
        assert word in read_table(path, PAIR, missing_ids="keep").users.tolist()


def test_missing_numbers_in_parquet_are_missing_whatever_the_batch(tmp_path):
    n = 262_144
    users = np.full(n + 4, 1e10)
    users[1::2], users[n + 1] = 123456789012.0, np.nan
    pq.write_table(
        pa.table({"who": pa.array(users, from_pandas=False), "what": np.arange(n + 4) % 7}), tmp_path / "log.parquet"
    )
    assert f"row {n + 2}, column 'who'" in refused(tmp_path / "log.parquet", PAIR)
    assert read_table(tmp_path / "log.parquet", PAIR, missing_ids="drop").users.tolist() == [10**10, 123456789012]


def test_whole_numbers_that_went_through_pandas(tmp_path):
    log = read_table(write(tmp_path, "who,what\n17853.0,1\n17850.0,2\n"), PAIR)
    assert log.users.tolist() == [17850, 17853] and "saved as floating point" in next(iter(log.notices))
    assert read_table(write(tmp_path, "who,what\n17853.0,1\n17853,2\n"), PAIR).users.tolist() == [
        "17853",
        "17853.0",
    ]  # two ids: not of one kind


def test_types_that_cannot_hold_the_values_are_refused(tmp_path):
    path = tmp_path / "log.parquet"
    for column, told in (
        (pa.array([1433193132.0, 1433193133.0], pa.float32()), "beyond 2^24 stored as floating point (FLOAT)"),
        (pa.array([b"x", b"y"]), "the type is BLOB"),
        (pa.array([[1], [2]]), "the type is BIGINT[]"),
        (pa.array([{"a": 1}, {"a": 2}]), "the type is STRUCT"),
    ):
        pq.write_table(pa.table({"who": ["a", "b"], "what": column}), path)
        message = refused(path, PAIR)
        assert str(path) in message and "column 'what'" in message and told in message


def test_true_events_are_not_merged(tmp_path):
    """Kept unless the whole row repeats and times are finer than a day, or somebody asks."""
    orders = "order,who,what,when\n1,a,p,2024-01-01T10:00\n2,a,p,2024-01-01T10:00\n2,a,p,2024-01-01T10:00\n"
    path = write(tmp_path, orders)
    log = read_table(path, MINE)
    assert len(log) == 2 and log.notices == {"exact duplicate rows removed": 1}
    assert len(read_table(path, MINE, duplicates="keep")) == 3
    days = write(tmp_path, orders.replace("T10:00", ""))
    log = read_table(days, MINE)
    assert len(log) == 3 and any("times are days" in notice for notice in log.notices)
    assert len(read_table(days, MINE, duplicates="drop")) == 2
    assert log.card()["events of unknown order"] == 1.0


def test_order_is_kept_to_the_nanosecond(tmp_path):
    rows = [("a", 1, "000100"), ("a", 1, "000900"), ("a", 2, "001100"), ("a", 3, "000900001"), ("b", 9, "000900")]
    path = write(
        tmp_path, "who,what,when\n" + "".join(f"{u},{i},2024-01-01T00:00:00.{t}\n" for u, i, t in reversed(rows))
    )
    log = read_table(path, MINE)
    history = log.histories(["a"])
    assert history.items.tolist() == [1, 1, 3, 2] and (np.diff(history.times) > 0).all() and len(log) == 5
    assert np.ptp(log.moments) <= 4  # nothing is moved by more than the ties ask for


def test_an_order_column_breaks_ties_and_only_ties(tmp_path):
    path = write(
        tmp_path,
        "who,what,when,step\na,1,2024-01-01,10\na,2,2024-01-01,9\na,3,2024-01-01,9\na,4,2023-12-31,99\nb,5,2024-01-01,1\n",
    )
    log = read_table(path, MINE, order="step")
    history = log.histories(["a"])
    assert history.items.tolist() == [4, 2, 3, 1]  # 9 before 10: as numbers
    assert history.times[1] == history.times[2] < history.times[3]  # equal steps stay equal
    at = log.histories(["a"], at=history.times[2:3])
    assert at.items.tolist() == [4]  # of what stands at one moment, nothing is in the other's history
    untimed = read_table(path, PAIR, order=["when", "step"])
    assert untimed.events.item_id.tolist() == [4, 5, 2, 3, 1] and not untimed.has_times


def test_days_are_not_in_each_others_history(tmp_path):
    log = read_table(write(tmp_path, "who,what,when\na,1,2024-01-01\na,2,2024-01-01\na,3,2024-01-02\n"), MINE)
    when = log.moments
    assert log.histories(["a", "a"], at=when[1:3]).items.tolist() == [1, 2]


def test_sessions_beside_or_instead_of_visitors(tmp_path):
    path = write(tmp_path, "who,visit,what\na,s1,1\na,s2,2\nb,s3,1\n")
    both = read_table(path, {**PAIR, "session_id": "visit"})
    assert both.events.session_id.tolist() == [0, 1, 2] and both.users.tolist() == ["a", "b"]
    alone = read_table(path, {"session_id": "visit", "item_id": "what"})
    assert alone.users.tolist() == ["s1", "s2", "s3"]


def test_ratings_become_events_by_the_stated_rule(tmp_path):
    path = write(tmp_path, "who,what,stars\na,1,5\na,2,4\nb,1,3.5\nb,2,2\n")
    columns = {**PAIR, "rating": "stars"}
    log = read_table(path, columns)
    assert log.events.event.tolist() == ["transaction", "transaction", "view"] and log.events.rating.tolist() == [
        5,
        4,
        3.5,
    ]
    assert [n for t, n in log.notices.items() if "below 3" in t] == [1]
    ten = write(tmp_path, "who,what,stars\na,1,10\na,2,7\nb,1,5\n")
    assert "is scale=10 meant?" in refused(ten, columns)
    assert read_table(ten, columns, scale=10).events.event.tolist() == ["transaction", "view"]
    assert "line 2, column 'stars': '0' is not a rating above 0" in refused(
        write(tmp_path, "who,what,stars\na,1,0\n"), columns
    )


def test_goods_given_back(tmp_path):
    text = (
        "who,what,when,n\na,1,2024-01-01,2\na,1,2024-01-03,1\na,1,2024-01-02,-2\nb,1,2024-01-01,1\nb,2,2024-01-05,-1\n"
    )
    path, columns = write(tmp_path, text), {**MINE, "quantity": "n"}
    left = read_table(path, columns, event="transaction")
    assert len(left) == 3 and sum(n for t, n in left.notices.items() if "given back" in t) == 2
    cancelled = read_table(path, columns, event="transaction", returns="cancel")
    assert cancelled.events[["user_id", "quantity"]].to_numpy().tolist() == [["b", 1.0], ["a", 1.0]]


def test_counts_are_weights(tmp_path):
    log = read_table(write(tmp_path, "who,what,plays\na,1,1\na,2,100\n"), {**PAIR, "count": "plays"})
    matrix = log.matrix({"view": 2.0}).matrix.toarray()[0]
    assert matrix == pytest.approx([2.0, 2 * (1 + np.log(100))], rel=1e-6)
    assert log.matrix().matrix.toarray().tolist() == [[1, 1]]
    assert log.histories(["a"]).take([0]).keep(np.array([False, True])).counts == pytest.approx([1 + np.log(100)])


def test_prices_and_categories_in_the_rows_become_properties_as_of_then(tmp_path):
    text = "who,what,when,cost,group\na,1,2024-01-01T10,4.5,home.tea\nb,1,2024-01-02T10,4.5,home.tea\nb,1,2024-01-03T10,5,\na,2,2024-01-01T11,,home.cup\n"  # noqa: E501
    log = read_table(write(tmp_path, text), {**MINE, "price": "cost", "category": "group"})
    rows = log.properties[log.properties.property == "price"]
    assert list(zip(rows.item_id, rows.value, rows.timestamp.dt.day, strict=True)) == [
        (1, "n4.500", 1),
        (1, "n5.000", 3),
    ]
    assert log.before("2024-01-03").item_property("price").to_dict() == {1: "n4.500"}
    assert log.item_property("categoryid").to_dict() == {1: "home > tea", 2: "home > cup"}
    assert log.categories.set_index("category").parent.dropna().to_dict() == {
        "home > tea": "home",
        "home > cup": "home",
    }
    assert "cost" not in log.events and "group" not in log.events


def test_kinds_to_ignore_and_kinds_that_look_like_a_shops(tmp_path):
    path, columns = write(tmp_path, "who,what,did\na,1,view\na,1,remove\nb,2,purchase\n"), {**PAIR, "event": "did"}
    log = read_table(path, columns, events={"purchase": "transaction", "remove": "ignore"})
    assert log.events.event.tolist() == ["view", "transaction"] and [
        n for t, n in log.notices.items() if "'remove'" in t
    ] == [1]
    unmapped = read_table(path, columns)
    assert unmapped.event_names == ("purchase", "remove", "view", "addtocart", "transaction")
    assert any('purchase = "transaction"' in notice for notice in unmapped.notices)


def test_parts_are_understood_or_refused_by_line(tmp_path):
    path, columns = write(tmp_path, "who,what,set\na,1,TRAIN\na,2,Validation\nb,1,test\n"), {**PAIR, "part": "set"}
    assert read_table(path, columns).events.part.tolist() == ["train", "valid", "test"]
    assert "line 3, column 'set': 'later' is not a part: train" in refused(
        write(tmp_path, "who,what,set\na,1,train\na,2,later\n"), columns
    )


def test_a_header_among_the_rows(tmp_path):
    path = write(tmp_path, "who,what\na,x\nwho,what\nb,x\n")
    assert "line 3: the header stands here once more" in refused(path, PAIR)
    assert len(read_table(path, PAIR, on_error="quarantine")) == 2


def test_rounded_times_are_refused(tmp_path):
    path = write(tmp_path, "who,what,when\na,1,1.43319E+12\nb,2,1.43320E+12\n")
    assert "have lost their last digits" in refused(path, time_unit="ms")
    exact = write(tmp_path, "who,what,when\na,1,8.8125E8\nb,2,8.81250949E8\n")
    assert read_table(exact, MINE, time_unit="s").moments.tolist() == [881250000000, 881250949000]


def test_files_of_a_folder_a_pattern_and_a_list(tmp_path):
    for day in (1, 2):
        folder = tmp_path / "log" / f"day={day}"
        folder.mkdir(parents=True)
        pd.DataFrame({"who": [f"u{day}"], "what": [day]}).to_parquet(folder / "part-0.parquet")
    (tmp_path / "log" / "_SUCCESS").write_text("")
    log = read_table(tmp_path / "log", {**PAIR, "day": "day"})
    assert log.events[["user_id", "day"]].to_numpy().tolist() == [["u1", "1"], ["u2", "2"]]
    files = find_files(tmp_path / "log")
    assert len(read_table(files, PAIR)) == 2 and len(read_table(tmp_path / "log" / "day=1" / "*.parquet", PAIR)) == 1
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        read_table(tmp_path / "nothing-*.csv", PAIR)


def test_files_of_one_log_must_agree(tmp_path):
    write(tmp_path, "who,what\na,1\n", "a.csv")
    second = write(tmp_path, "who,item\na,1\n", "b.csv")
    assert str(second) in refused(tmp_path / "*.csv", PAIR)


@pytest.mark.parametrize("make", [lambda f: f, pl.from_pandas, pa.table])
def test_frames_of_pandas_polars_and_arrow(make):
    frame = pd.DataFrame(
        {
            "who": ["007", "7", "07"],
            "what": [205301355563188265, 1, 2],
            "when": pd.to_datetime(["2024-01-02", "2024-01-01", "2024-01-03"]),
        }
    )
    log = read_table(make(frame), MINE)
    assert (
        log.users.tolist() == ["007", "07", "7"]
        and 205301355563188265 in log.items
        and log.events.user_id.tolist() == ["7", "007", "07"]
    )


def test_a_frame_with_ids_of_two_types_is_refused():
    with pytest.raises(DataError, match="give each column one type"):
        read_table(pd.DataFrame({"who": ["a", 1], "what": [1, 2]}), PAIR)


def test_json_lines_keep_digits_and_name_bad_lines(tmp_path):
    path = write(
        tmp_path,
        '{"who": 2053013555631882655, "what": "x,\\"y\\"", "more": {"a": [1]}}\n\n{"what": "z", "who": 7}\n',
        "log.jsonl",
    )
    log = read_table(path, PAIR)
    assert log.events.user_id.tolist() == ["2053013555631882655", "7"] and log.events.item_id.tolist() == ['x,"y"', "z"]
    path.write_text(path.read_text() + "oops\n[1]\n" + '{"who": null, "what": 1}\n')
    assert "line 4: the line is no JSON object: 'oops'" in refused(path, PAIR)
    log = read_table(path, PAIR, on_error="quarantine")
    assert len(log) == 2 and sum(log.notices.values()) >= 3
    assert pd.read_csv(tmp_path / "log.jsonl.rejected.csv").line.tolist() == [4, 5, 6]


def test_cuts_on_the_way_in(tmp_path):
    rows = [(f"u{u}", i, f"2024-01-{1 + i:02d}") for u in range(200) for i in range(5)]
    path = write(tmp_path, "who,what,when\n" + "".join(",".join(map(str, r)) + "\n" for r in rows))
    cut = read_table(path, MINE, since="2024-01-02", until="2024-01-04")
    assert sorted(set(cut.events.item_id)) == [1, 2] and len(cut) == 400
    half = read_table(path, MINE, visitors=0.5)
    assert 70 < len(half.users) < 130 and len(half) == 5 * len(half.users)  # whole visitors
    fewer = read_table(path, MINE, visitors=0.2)
    assert set(fewer.users) <= set(half.users)  # a smaller sample is a part of a larger one
    with pytest.raises(ValueError, match="since and until are times"):
        read_table(path, MINE, since="last week")


def test_what_is_known_of_items_comes_from_a_second_file(tmp_path):
    write(tmp_path, "sku;name;group;cost\n1;Tea;drinks > hot;4,50\n9;Hat;;1\nNA;x;;\n", "items.csv")
    path = write(tmp_path, "who,what,when\na,1,2024-01-02\nb,2,2024-01-03\n")
    items = {
        "file": tmp_path / "items.csv",
        "item_id": "sku",
        "title": "name",
        "category": "group",
        "price": "cost",
        "separator": ";",
        "decimal": ",",
    }
    log = read_table(path, MINE, items=items)
    assert log.item_property("title").to_dict() == {1: "Tea", 9: "Hat"} and log.item_property("price")[1] == "n4.500"
    assert (log.properties.timestamp < log.events.timestamp.min()).all()
    assert any("without an event" in notice for notice in log.notices)
    with pytest.raises(ValueError, match="must name a file and at least one of"):
        read_table(path, MINE, items={"file": tmp_path / "items.csv"})


def test_options_that_mean_nothing_are_named():
    for options, told in (
        ({"columns": {"user_id": "a"}}, r"columns must map \['item_id'\]"),
        ({"columns": {"item_id": "a"}}, "user_id"),
        ({"columns": PAIR, "visitors": 0}, "visitors must be a share"),
        ({"columns": PAIR, "returns": "maybe"}, "returns must be drop or cancel"),
        ({"columns": {**PAIR, "rating": "r", "event": "e"}}, "a rating and an event"),
    ):
        with pytest.raises(ValueError, match=told):
            LogOptions(**options)
