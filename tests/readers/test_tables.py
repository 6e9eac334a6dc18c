"""Files as broken as people's are: each fault is refused by name or set aside, and nothing is lost in between."""

import csv
import gzip
import io
import lzma
import zipfile

import numpy as np
import pandas as pd
import pytest
from helpers import HEADER, write_log
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_lab import files, histories, loading
from recsys_lab.files import DataError
from recsys_lab.readers import formats, shaping, staging, tables
from recsys_lab.readers.staging import Rejects
from recsys_lab.readers.tables import Table

GOOD = "1433193132535,5,view,11,\n1433193133000,6,addtocart,12,\n1433193134000,6,transaction,12,901\n"


MINE = {"user_id": "who", "item_id": "what", "timestamp": "when"}


def refused(folder, **more):
    with pytest.raises(DataError) as error:
        formats.read_retailrocket(folder, **more)
    return str(error.value)


@pytest.mark.parametrize(
    "row, told",
    [
        ("1433193132,5,view,11,", "in s it is 2015-06-01: is time_unit='s' meant?"),
        ("1433193132535000,5,view,11,", "in us it is 2015-06-01: is time_unit='us' meant?"),
        ("0,5,view,11,", "'0' is not a time between 1990 and 2100 in ms since 1970"),
        ("253402300800000,5,view,11,", "is not a time between 1990 and 2100"),
        ("-1433193132535,5,view,11,", "column 'timestamp': '-1433193132535'"),
        ("1.43319E+12,5,view,11,", "'1.43319E+12' is not a time"),
        ("1433193132535,5,buy,11,", "column 'event': 'buy' is not one of view, addtocart, transaction"),
        ("1433193132535,5,View,11,", "column 'event': 'View'"),
        ("1433193132535,ann,view,11,", "column 'visitorid': 'ann'"),
        ("1433193132535,5.0,view,11,", "column 'visitorid': '5.0' is not a whole number"),
        ("1433193132535,5,view,11\x00,", "column 'itemid': '11\\x00'"),
        ("1433193132535,99999999999999999999,view,11,", "a whole number of at most 18 digits"),
        ("\x00" * 500, "1 field(s) instead of the header's 5"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, told):
    message = refused(write_log(tmp_path, HEADER + GOOD + row + "\n"))
    assert "events.csv, line 5" in message and told in message and len(message) < 400


def test_a_whole_log_in_seconds_is_read_when_told(tmp_path):
    rows = "1433193132,5,view,11,\n1433193133,6,view,12,\n"
    log = formats.read_retailrocket(write_log(tmp_path, HEADER + rows), time_unit="s")
    assert log.moments.tolist() == [1433193132000, 1433193133000]
    with pytest.raises(DataError, match="is time_unit='ms' meant"):
        formats.read_retailrocket(write_log(tmp_path, HEADER + GOOD), time_unit="s")


def test_iso_times_outside_the_plausible_range(tmp_path):
    (tmp_path / "log.csv").write_text("who,what,when\na,1,2024-01-01\nb,2,0001-01-01\n")
    with pytest.raises(DataError, match=r"line 3, column 'when': '0001-01-01' is not a time in ISO 8601 between 1990"):
        shaping.read_table(tmp_path / "log.csv", MINE)
    (tmp_path / "log.csv").write_text("who,what,when\na,1,1433193132.25\nb,2,1433193133\n")
    assert shaping.read_table(tmp_path / "log.csv", MINE, time_unit="s").moments.tolist() == [
        1433193132250,
        1433193133000,
    ]
    with pytest.raises(DataError, match=r"line 2, column 'when'.*is time_unit='s' meant"):
        shaping.read_table(tmp_path / "log.csv", MINE)


@pytest.mark.parametrize(
    "content", [HEADER + GOOD, HEADER.encode("utf-8-sig") + GOOD.encode(), (HEADER + GOOD).replace("\n", "\r\n")]
)
def test_byte_order_marks_and_line_ends_change_nothing(tmp_path, content):
    plain = formats.read_retailrocket(write_log(tmp_path / "plain", HEADER + GOOD))
    assert formats.read_retailrocket(write_log(tmp_path / "odd", content)).fingerprint == plain.fingerprint


@pytest.mark.parametrize("unit, scale", [("s", 1), ("ms", 1_000), ("us", 10**6), ("ns", 10**9)])
def test_every_unit_is_read_exactly_and_no_number_breaks_it(tmp_path, unit, scale):
    seconds = [1433193132, 1700000001]
    (tmp_path / "log.csv").write_text("who,what,when\n" + "".join(f"a,1,{t * scale}\n" for t in seconds))
    assert shaping.read_table(tmp_path / "log.csv", MINE, time_unit=unit).moments.tolist() == [
        t * 1000 for t in seconds
    ]
    for number in ("9999999999999999999", "99999999999999999999999", "4999999999999999999", "0"):
        (tmp_path / "log.csv").write_text(f"who,what,when\na,1,{number}\n")
        with pytest.raises(DataError, match="column 'when'"):
            shaping.read_table(tmp_path / "log.csv", MINE, time_unit=unit)


def test_columns_that_nobody_needs_may_be_repeated(tmp_path):
    rows = "1433193132535,5,view,11,,,\n"
    log = formats.read_retailrocket(write_log(tmp_path, "timestamp,visitorid,event,itemid,transactionid,,\n" + rows))
    assert len(log) == 1
    assert "['event'] appear more than once" in refused(
        write_log(tmp_path / "b", "timestamp,visitorid,event,itemid,transactionid,event\n")
    )


def test_notices_are_handed_out_as_a_copy(tmp_path):
    log = formats.read_retailrocket(write_log(tmp_path, HEADER + GOOD + GOOD))
    log.notices.clear()
    assert log.notices == {"exact duplicate rows removed": 3}


def test_a_side_file_that_cannot_be_written_is_an_error(tmp_path):
    folder = write_log(tmp_path / "log", BAD)
    message = refused(folder, on_error="quarantine", quarantine=folder / "events.csv" / "no-folder")
    assert "cannot write the rejected rows" in message and "name a folder with quarantine=" in message


def test_a_byte_order_mark_does_not_hide_in_other_files(tmp_path):
    (tmp_path / "sessions.txt").write_bytes("\ufeff1 2\r\n3 4\r\n".encode())
    assert formats.read_sessions(tmp_path / "sessions.txt").events.item_id.tolist() == [1, 2, 3, 4]
    (tmp_path / "log.csv").write_bytes("\ufeffwho,what\r\na,1\r\n".encode())
    assert len(shaping.read_table(tmp_path / "log.csv", {"user_id": "who", "item_id": "what"})) == 1


def test_other_encodings_are_named(tmp_path):
    assert "the file is in UTF-16; save it in UTF-8" in refused(write_log(tmp_path, (HEADER + GOOD).encode("utf-16")))
    (tmp_path / "log.csv").write_bytes("who,what\nann,1\nj\u00f6rg,2\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"line 3, column 'who': .* is not an id: text in UTF-8"):
        shaping.read_table(tmp_path / "log.csv", {"user_id": "who", "item_id": "what"})


@pytest.mark.parametrize("form", ["gz", "xz", "zip"])
def test_files_cut_short_are_refused_never_read_as_short_logs(tmp_path, form):
    rows = "".join(f"{1433193132535 + i * 7919},{i * 31 % 977},view,{i * i % 1013},\n" for i in range(5000))
    content = (HEADER + rows).encode()
    if form == "zip":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as z:
            z.writestr("events.csv", content)
        whole = packed.getvalue()
        middle = len(whole) // 2
        damaged = whole[:middle] + b"\x00" * 40 + whole[middle + 40 :]
    else:
        whole = gzip.compress(content) if form == "gz" else lzma.compress(content)
        damaged = whole[: len(whole) // 2]
    name = "events.zip" if form == "zip" else f"events.csv.{form}"
    assert len(formats.read_retailrocket(write_log(tmp_path / "whole", whole, name))) == 5000
    message = refused(write_log(tmp_path / "cut", damaged, name))
    assert f"{name}: the compressed file is damaged or cut short" in message
    assert "damaged" in refused(tmp_path / "cut", on_error="quarantine")  # a damaged file is never set aside


def test_nothing_in_it(tmp_path):
    assert "the file is empty" in refused(write_log(tmp_path, ""))
    assert "there is no event below the header" in refused(write_log(tmp_path, HEADER))
    assert "the file is empty" in refused(write_log(tmp_path / "z", gzip.compress(b""), "events.csv.gz"))
    (tmp_path / "sessions.txt").write_text("\n\n")
    with pytest.raises(DataError, match="no interaction found"):
        formats.read_sessions(tmp_path / "sessions.txt")


def test_another_separator_is_guessed_in_the_error_and_read_when_told(tmp_path):
    (tmp_path / "log.csv").write_text("who;what;when\na;1,5;2024-01-01\n")
    with pytest.raises(DataError, match="is separator=';' meant"):
        shaping.read_table(tmp_path / "log.csv", MINE)
    assert shaping.read_table(tmp_path / "log.csv", MINE, separator=";").items.tolist() == ["1,5"]


def test_quoted_commas_and_lines(tmp_path):
    (tmp_path / "log.csv").write_text('who,what\n"a,b","cup ""x"""\n"two\nlines",hat\n')
    log = shaping.read_table(tmp_path / "log.csv", {"user_id": "who", "item_id": "what"})
    assert log.events.user_id.tolist() == ["a,b", "two\nlines"] and log.events.item_id.tolist() == ['cup "x"', "hat"]
    (tmp_path / "log.csv").write_text('who,what\n"two\nlines",hat\nbob,\n')
    with pytest.raises(DataError, match="line 4, column 'what': ''"):
        shaping.read_table(tmp_path / "log.csv", {"user_id": "who", "item_id": "what"})


@pytest.mark.parametrize("size", [1 << 24, 64])
def test_a_quote_that_never_closes_does_not_swallow_the_rest(tmp_path, size):
    (tmp_path / "log.csv").write_text('who,what\nann,tea\nbob,"cup\n' + "cid,hat\n" * 50)
    with pytest.raises(DataError, match=r"log.csv, line 3: a quote opens in this record and never closes"):
        staging.read_rows(Table(tmp_path / "log.csv", block_bytes=size), {"who": tables.TEXT, "what": tables.TEXT})
    (tmp_path / "log.csv").write_text('who,what\nann,5" pipe\nbob,tea\n')  # a quote within a field opens nothing
    log = shaping.read_table(tmp_path / "log.csv", {"user_id": "who", "item_id": "what"})
    assert log.events.item_id.tolist() == ['5" pipe', "tea"]


def test_ids_of_mixed_types_are_text_and_the_notice_says_so(tmp_path):
    (tmp_path / "log.csv").write_text("who,what\n1,10\n2,x7\n01,10\n")
    log = shaping.read_table(tmp_path / "log.csv", {"user_id": "who", "item_id": "what"})
    assert log.events.item_id.tolist() == ["10", "x7", "10"] and log.events.user_id.tolist() == ["1", "2", "01"]
    assert [n for told, n in log.notices.items() if "item id" in told and "'x7'" in told] == [1]
    (tmp_path / "log.csv").write_text("who,what\n1,10\n 1,10\n")
    with pytest.raises(DataError, match=r"line 3, column 'who': ' 1' is not an id"):
        shaping.read_table(tmp_path / "log.csv", {"user_id": "who", "item_id": "what"})


def test_ids_beyond_floating_point_stay_exact(tmp_path):
    ids = [2**53, 2**53 + 1, 10**18 - 1]
    (tmp_path / "log.csv").write_text("who,what\n" + "".join(f"{i},{i}\n" for i in ids))
    log = shaping.read_table(tmp_path / "log.csv", {"user_id": "who", "item_id": "what"})
    assert log.users.tolist() == ids and log.events.item_id.tolist() == ids
    rows = "".join(f"1433193132535,{i},view,{i},\n" for i in ids)
    assert formats.read_retailrocket(write_log(tmp_path / "rr", HEADER + rows)).users.tolist() == ids
    (tmp_path / "log.csv").write_text(f"who,what\n{2**64},1\n{2**64 + 1},2\n")  # beyond 64 bits: text
    assert shaping.read_table(tmp_path / "log.csv", {"user_id": "who", "item_id": "what"}).users.tolist() == [
        str(2**64),
        str(2**64 + 1),
    ]
    (tmp_path / "sessions.txt").write_text(f"1 2\n3 {2**64}\n")
    with pytest.raises(DataError, match="line 2: '18446744073709551616' is not a whole number of at most 18 digits"):
        formats.read_sessions(tmp_path / "sessions.txt")


def test_parquet_ids_that_went_through_floating_point(tmp_path):
    path = tmp_path / "log.parquet"
    mapping = {"user_id": "who", "item_id": "what"}
    pd.DataFrame({"who": [1.0, 2.0], "what": [5, 6]}).to_parquet(path)
    assert shaping.read_table(path, mapping).users.tolist() == [1, 2]
    pd.DataFrame({"who": [1.0, 2.0**53 + 2], "what": [5, 6]}).to_parquet(path)
    with pytest.raises(DataError, match=r"column 'who': whole numbers beyond 2.53 stored as floating point"):
        shaping.read_table(path, mapping)
    pd.DataFrame({"who": pd.array([1, None], "Int64"), "what": [5, 6]}).to_parquet(path)
    with pytest.raises(DataError, match="row 2, column 'who': ''"):
        shaping.read_table(path, mapping)
    pd.DataFrame({"who": [2**63 - 1, 1], "what": np.array([2**64 - 1, 6], np.uint64)}).to_parquet(path)
    log = shaping.read_table(path, mapping)
    assert sorted(log.items) == ["18446744073709551615", "6"] and "9223372036854775807" in log.users.tolist()


def test_parquet_times_need_no_unit(tmp_path):
    path, times = tmp_path / "log.parquet", ["2024-05-01T10:00:00.123", "2024-05-01T09:00:00.000"]
    for zone in (None, "Europe/Berlin"):
        stamps = pd.to_datetime(times).tz_localize(zone)
        pd.DataFrame({"who": [1, 2], "what": [5, 6], "when": stamps}).to_parquet(path)
        log = shaping.read_table(path, MINE)
        assert log.events.timestamp.tolist() == sorted(pd.to_datetime(stamps, utc=True))


def test_damaged_parquet_is_refused_by_name(tmp_path):
    whole = io.BytesIO()
    pd.DataFrame({"who": range(500), "what": range(500)}).to_parquet(whole)
    for seed in range(60):
        path = tmp_path / f"{seed}.parquet"
        path.write_bytes(mutate(whole.getvalue(), np.random.default_rng(seed)))
        try:
            shaping.read_table(path, {"user_id": "who", "item_id": "what"})
        except DataError as error:
            assert path.name in str(error)
    path.write_bytes(whole.getvalue()[:-100])
    with pytest.raises(DataError, match=r"59.parquet: the Parquet file is damaged or cut short"):
        shaping.read_table(path, {"user_id": "who", "item_id": "what"})


def test_parquet_text_that_is_no_utf8_is_refused_by_row(tmp_path):
    whole = io.BytesIO()
    pd.DataFrame({"who": ["ann", "bobby", "cid"], "what": [1, 2, 3]}).to_parquet(whole, compression=None)
    damaged = whole.getvalue().replace(b"bobby", b"bo\xffby", 1)
    (tmp_path / "log.parquet").write_bytes(damaged)
    mapping = {"user_id": "who", "item_id": "what"}
    with pytest.raises(DataError, match=r"row 2, column 'who': 'bo\\x00by' is not an id: text in UTF-8"):
        shaping.read_table(tmp_path / "log.parquet", mapping)
    assert len(shaping.read_table(tmp_path / "log.parquet", mapping, on_error="quarantine")) == 2


BAD = (
    HEADER + GOOD + "1433193135000,7,click,11,\n1433193135000,7,view\n\n"
    '"1433193135000",7,view,"12,3",\n1433193135000,8,view,14,\n1433193,8,view,14,\n1433193135000,7,click,9,\n'
)


def test_quarantine_sets_bad_rows_aside_and_counts_them(tmp_path):
    log = formats.read_retailrocket(write_log(tmp_path, BAD), on_error="quarantine")
    assert len(log) == 4 and 14 in log.items
    side = pd.read_csv(tmp_path / "events.csv.rejected.csv", dtype=str)
    assert side.line.tolist() == ["5", "6", "8", "10", "11"]
    assert side.record.tolist()[2] == '1433193135000,7,view,"12,3",'
    told = {reason: n for reason, n in log.notices.items() if reason.startswith("events.csv: rows set aside")}
    assert sum(told.values()) == 5 and sorted(told.values()) == [1, 1, 1, 2]
    assert "event is not one of view" in max(told, key=told.get)
    assert "set aside" in str(log.card()["notices"])
    good = tmp_path / "good"
    whole = HEADER + GOOD + "1433193135000,8,view,14,\n"
    assert formats.read_retailrocket(write_log(good, whole)).fingerprint == log.fingerprint


def test_a_mended_file_loses_its_side_file(tmp_path):
    formats.read_retailrocket(write_log(tmp_path, BAD), on_error="quarantine")
    formats.read_retailrocket(write_log(tmp_path, HEADER + GOOD), on_error="quarantine")
    assert [p.name for p in tmp_path.iterdir()] == ["events.csv"]


def test_quarantine_elsewhere_and_by_dataset_toml(tmp_path):
    folder = write_log(tmp_path / "log", BAD)
    formats.read_retailrocket(folder, on_error="quarantine", quarantine=tmp_path / "aside")
    assert (tmp_path / "aside" / "events.csv.rejected.csv").exists() and len(list(folder.iterdir())) == 1
    (folder / "dataset.toml").write_text('format = "retailrocket"\non_error = "quarantine"\n')
    assert len(loading.read_folder(folder, "log")) == 4
    (folder / "dataset.toml").write_text('format = "retailrocket"\non_error = "ignore"\n')
    with pytest.raises(ValueError, match="on_error must be raise or quarantine, not 'ignore'"):
        loading.read_folder(folder, "log")
    (folder / "dataset.toml").write_text('format = "retailroket"\n')
    with pytest.raises(DataError, match="format must be one of table, matrix, retailrocket"):
        loading.read_folder(folder, "log")


def test_members_of_a_zip_have_side_files_of_their_own(tmp_path):
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as z:
        z.writestr("deep/events.csv", BAD)
        z.writestr("deep/category_tree.csv", "categoryid,parentid\n1,\nx,1\n2,1\n")
    log = formats.read_retailrocket(tmp_path, on_error="quarantine")
    assert (len(log), len(log.categories)) == (4, 2)
    sides = {p.name: len(pd.read_csv(p)) for p in tmp_path.glob("*.rejected.csv")}
    assert sides == {"events.csv.rejected.csv": 5, "category_tree.csv.rejected.csv": 1}


def test_files_with_a_header_only_beside_a_good_log(tmp_path):
    write_log(tmp_path, HEADER + GOOD)
    (tmp_path / "item_properties_part1.csv").write_text("timestamp,itemid,property,value\n")
    (tmp_path / "category_tree.csv").write_text("categoryid,parentid\n")
    log = formats.read_retailrocket(tmp_path)
    assert (len(log), len(log.properties), len(log.categories)) == (3, 0, 0)
    assert not {"categories", "properties"} & log.offers


def test_quarantine_of_everything_is_an_error(tmp_path):
    assert "no row is good" in refused(
        write_log(tmp_path, HEADER + "1433193132,5,view,11,\n1433193132,5,view,12,\n"), on_error="quarantine"
    )


def test_bad_property_rows_sessions_and_parquet_rows_are_set_aside_too(tmp_path):
    write_log(tmp_path, HEADER + GOOD)
    (tmp_path / "item_properties_part1.csv").write_text(
        "timestamp,itemid,property,value\n1433193000000,11,categoryid,7\n1433193000000,x,categoryid,7\n"
    )
    log = formats.read_retailrocket(tmp_path, on_error="quarantine")
    assert len(log.properties) == 1 and (tmp_path / "item_properties_part1.csv.rejected.csv").exists()
    (tmp_path / "sessions.txt").write_text("1 2\n3 four\n5 6\n")
    sessions = formats.read_sessions(tmp_path / "sessions.txt", on_error="quarantine")
    assert sessions.events.user_id.tolist() == [0, 0, 1, 1] and sum(sessions.notices.values()) == 1
    path = tmp_path / "log.parquet"
    pd.DataFrame({"who": ["a", None, "b"], "what": [1, 2, 3]}).to_parquet(path)
    log = shaping.read_table(path, {"user_id": "who", "item_id": "what"}, on_error="quarantine")
    assert log.users.tolist() == ["a", "b"]
    assert pd.read_csv(tmp_path / "log.parquet.rejected.csv").line.tolist() == [2]


values = st.text(
    st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=("Cs",)), min_size=0, max_size=12
)


@given(
    st.lists(st.tuples(values, values), min_size=1, max_size=30), st.sampled_from(["\n", "\r\n"]), st.integers(40, 400)
)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_read_is_what_was_written_whatever_the_block(tmp_path, rows, end, size):
    """Any text, quoted as RFC 4180 says, through blocks of any size."""
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator=end).writerows([("a", "b"), *rows])
    path = tmp_path / "any.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    read = staging.read_rows(Table(path, block_bytes=size), {"a": tables.TEXT, "b": tables.TEXT})
    assert list(zip(read["a"], read["b"], strict=True)) == rows


def test_no_row_is_lost_where_a_letter_lies_across_two_blocks(tmp_path):
    """Arrow drops a row behind a read that comes short, so the stream must never come short before its end."""
    words = ["", "\x80\x80\U00010000", '00"\U00010000', "0", "\x80000\x80\x80", "000000000"]
    rows = [(words[i % 6], words[(i * 5 + i // 6) % 6]) for i in range(60)]
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows([("a", "b"), *rows])
    path = tmp_path / "any.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    for size in range(60, 400):
        assert len(staging.read_rows(Table(path, block_bytes=size), {"a": tables.TEXT, "b": tables.TEXT})) == len(
            rows
        ), size


@given(
    st.lists(
        st.tuples(st.integers(0, 2**60).filter(lambda v: v < 10**18), st.integers(0, 99), st.booleans()),
        min_size=1,
        max_size=60,
    ),
    st.integers(32, 300),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_good_rows_and_bad_rows_together_are_all_rows(tmp_path, rows, size):
    """Quarantine partitions the file, and each side keeps the order and the lines."""
    path = tmp_path / "log.csv"
    path.write_text("user,item\n" + "".join(f"{u},{i if good else 'x'}\n" for u, i, good in rows))
    aside = Rejects("quarantine")
    rules = {"user": tables.WHOLE, "item": tables.WHOLE}
    if not any(good for *_, good in rows):
        with pytest.raises(DataError, match="no row is good"):
            staging.read_rows(Table(path, block_bytes=size), rules, rejects=aside)
        return
    read = staging.read_rows(Table(path, block_bytes=size), rules, rejects=aside)
    assert read["user"].astype(int).tolist() == [u for u, _, good in rows if good]
    bad = [line for line, (*_, good) in enumerate(rows, 2) if not good]
    side = tmp_path / "log.csv.rejected.csv"
    assert (pd.read_csv(side).line.tolist() if side.exists() else []) == bad
    assert sum(aside.counts.values()) == len(bad)


WORDS = b'" , \n \r \r\n \x00 \xff \xef\xbb\xbf - 9999999999999999999999 nan "" \xc3\xa9 1e5 view'


TOKENS = [*WORDS.split(b" "), b" ", b"\n\n"]


def mutate(content, rng):
    """Some bytes inserted, deleted, overwritten, repeated or cut off."""
    out = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 3, 6])):
        at, kind = rng.integers(len(out) + 1), rng.integers(5)
        if kind == 0:
            out[at:at] = TOKENS[rng.integers(len(TOKENS))]
        elif kind == 1:
            del out[at : at + rng.integers(1, 30)]
        elif kind == 2 and at < len(out):
            out[at] = rng.integers(256)
        elif kind == 3:
            out = out[:at]
        else:
            start = rng.integers(len(out) + 1)
            out[at:at] = out[start : start + rng.integers(60)]
    return bytes(out)


MANY = HEADER + "".join(
    f"{1433193132535 + i * 1000},{i % 7},{histories.EVENTS[i % 3]},{i % 5},{i if i % 3 == 2 else ''}\n"
    for i in range(40)
)


@pytest.mark.parametrize("form", ["plain", "gz", "xz", "zip"])
@pytest.mark.slow
def test_whatever_is_broken_is_read_or_refused_by_name(tmp_path, form):
    """Random damage: a log, or a DataError; never another error, and in quarantine no row gets lost."""
    for seed in range(120):
        rng = np.random.default_rng(seed)
        content = mutate(MANY.encode(), rng) if form == "plain" or seed % 2 else MANY.encode()
        name = {"plain": "events.csv", "gz": "events.csv.gz", "xz": "events.csv.xz", "zip": "archive.zip"}[form]
        if form == "zip":
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as z:
                z.writestr("events.csv", content)
            stored = packed.getvalue()
        else:
            stored = {"plain": bytes, "gz": gzip.compress, "xz": lzma.compress}[form](content)
        folder = write_log(tmp_path / str(seed), stored if seed % 2 or form == "plain" else mutate(stored, rng), name)
        for on_error in ("raise", "quarantine"):
            try:
                log = formats.read_retailrocket(folder, on_error=on_error)
            except (DataError, FileNotFoundError):
                continue  # FileNotFoundError: the zip's own list of files was hit
            text = files.open_source(folder / name).read().decode("utf-8-sig", errors="replace")
            records = sum(1 for fields in csv.reader(io.StringIO(text, newline="")) if fields)
            assert len(log) + sum(log.notices.values()) == records - 1, seed
