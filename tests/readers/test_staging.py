"""Staged rows: what is wrong is matched with its line, whatever stands around it, and nothing is lost in between."""

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_lab.files import DataError
from recsys_lab.readers.staging import Rejects, read_rows
from recsys_lab.readers.tables import TEXT, WHOLE, Table

RULES = {"a": WHOLE, "b": TEXT}
good = st.tuples(st.integers(0, 10**9).map(str), st.sampled_from(["x", '"x, y"', '"two\nlines"', "", '5" pipe']))
bad = st.sampled_from(["x,1", "1", "1,2,3", "1,2,3,4", "1,2,", '1,"x"y', "a,b", '"1",2,"3"'])


@given(
    st.lists(st.one_of(good.map(",".join), bad, st.just("")), min_size=1, max_size=25), st.sampled_from(["\n", "\r\n"])
)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_good_and_bad_records_are_all_records_and_each_has_its_line(tmp_path, records, end):
    path = tmp_path / "log.csv"
    path.write_bytes(end.join(["a,b", *records, ""]).replace("two\n", f"two{end}").encode())
    valid = [
        r for r in records if r and r not in ("x,1", "1", "1,2,3", "1,2,3,4", "1,2,", '1,"x"y', "a,b", '"1",2,"3"')
    ]
    wrong, line = [], 1
    for record in records:
        line += 1 + record.count("\n")
        if record and record not in valid:
            wrong.append(line)
    aside = Rejects("quarantine")
    if not valid:
        if wrong:
            with pytest.raises(DataError, match="no row is good"):
                read_rows(Table(path), RULES, rejects=aside)
        return
    rows = read_rows(Table(path), RULES, rejects=aside)
    assert rows["a"].tolist() == [r.split(",")[0] for r in valid]
    side = tmp_path / "log.csv.rejected.csv"
    assert (pd.read_csv(side).line.tolist() if side.exists() else []) == wrong
    assert sum(aside.counts.values()) == len(wrong)
    if wrong:
        with pytest.raises(DataError, match=f"line {wrong[0]}[:,]"):
            read_rows(Table(path), RULES)


def test_times_are_made_where_they_are_checked(tmp_path):
    (tmp_path / "log.csv").write_text("a,b\n1433193132535,x\n")
    rows = read_rows(Table(tmp_path / "log.csv"), RULES, times={"a": "({x}::BIGINT * 1000000)"})
    assert rows["a"].dt.tz is not None and rows["a"][0] == pd.Timestamp("2015-06-01T21:12:12.535Z")


def test_rows_that_are_not_kept_are_checked_all_the_same(tmp_path):
    (tmp_path / "log.csv").write_text("a,b\n1,x\n2,y\nz,y\n")
    with pytest.raises(DataError, match="line 4, column 'a': 'z'"):
        read_rows(Table(tmp_path / "log.csv"), RULES, keep="{b} = 'x'")
    assert len(read_rows(Table(tmp_path / "log.csv"), {"b": TEXT}, keep="{b} = 'x'")) == 1


@pytest.mark.parametrize("separator", ["::", ";", "\t", "||"])
def test_lines_are_named_with_any_separator(tmp_path, separator):
    (tmp_path / "log.dat").write_text(
        separator.join(["1", "x"]) + "\n" + separator.join(["q", '"a' + separator + 'b"']) + "\n7\n"
    )
    table = Table(tmp_path / "log.dat", separator=separator, header=False, names=("a", "b"))
    with pytest.raises(DataError, match="line 2, column 'a': 'q'"):
        read_rows(table, RULES)
    with pytest.raises(DataError, match="line 3: 1 field"):
        read_rows(table, {"b": TEXT})


def test_a_record_longer_than_expected_is_read_at_a_second_try(tmp_path):
    long = "x" * 3_000_000
    (tmp_path / "log.csv").write_text(f"a,b\n1,{long}\n2,y\n3\n")
    aside = Rejects("quarantine")
    assert read_rows(Table(tmp_path / "log.csv"), RULES, rejects=aside)["b"].str.len().tolist() == [3_000_000, 1]
    assert sum(aside.counts.values()) == 1
