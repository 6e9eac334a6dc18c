"""Times as people write them: every way gives the same moment, and what is no time is none."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_lab.readers.times import nanoseconds, time_sql

moments = st.integers(631_152_000 + 86_400, 4_102_444_799 - 86_400)


@given(st.lists(st.tuples(moments, st.integers(0, 999_999_999)), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_every_unit_keeps_every_digit(times):
    ns = [s * 10**9 + part for s, part in times]
    assert nanoseconds([str(t) for t in ns], "ns") == ns
    for unit, digits in (("us", 3), ("ms", 6), ("s", 9)):
        written = [f"{t // 10**digits}.{t % 10**digits:0{digits}d}" for t in ns]
        assert nanoseconds(written, unit) == ns
        exponent = len(written[0].split(".")[0]) - 1
        plain = [w.replace(".", "") for w in written]
        assert nanoseconds([f"{p[0]}.{p[1:]}E+{exponent}" for p in plain if len(p) == len(plain[0])], unit)[0] == ns[0]


@given(st.lists(moments, min_size=1, max_size=20), st.sampled_from(["+00:00", "+02:00", "-05:30", "Z", " UTC", ""]))
@settings(max_examples=40, deadline=None)
def test_iso_texts_are_read_as_pandas_reads_them(times, zone):
    stamps = pd.to_datetime(times, unit="s").strftime("%Y-%m-%dT%H:%M:%S") + zone
    wanted = [pd.Timestamp(t.replace(" UTC", "Z")) for t in stamps]
    wanted = [(t.tz_localize("UTC") if t.tzinfo is None else t).value for t in wanted]
    assert nanoseconds(list(stamps)) == wanted


@given(st.lists(st.datetimes(pd.Timestamp("1990-01-01"), pd.Timestamp("2099-12-31")), min_size=1, max_size=10))
@settings(max_examples=40, deadline=None)
def test_formats_are_those_of_strptime(times):
    for pattern in ("%d.%m.%Y %H:%M:%S", "%m/%d/%Y %I:%M:%S %p", "%Y%m%d%H%M%S"):
        written = [t.strftime(pattern) for t in times]
        assert nanoseconds(written, pattern=pattern) == [pd.Timestamp(t.replace(microsecond=0)).value for t in times]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "0001-01-01",
        "2024-02-30",
        "2024-13-01",
        "infinity",
        "1989-12-31T23:59:59Z",
        "2100-01-01",
        "NaT",
        "12:00",
        "2024",
    ],
)
def test_what_is_no_time_is_none(text):
    assert nanoseconds([text]) == [None]


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "0", "1e400", "1_000", "9" * 40, "1433193132 ", "0x10"])
def test_what_is_no_number_of_seconds_is_none(text):
    assert nanoseconds([text], "s") == [None]


def test_local_times_of_a_zone_by_the_stated_rule():
    """The repeated hour is the second of the two; the hour that does not exist is an hour later; a zone in the text counts."""
    texts = [
        "2024-10-27 01:59:59",
        "2024-10-27 02:30:00",
        "2024-10-27 03:00:00",
        "2024-03-31 02:30:00",
        "2024-07-01T12:00:00Z",
    ]
    zone = pd.DatetimeIndex(["2024-10-27 01:59:59"]).tz_localize("Europe/Berlin")[0].value
    assert nanoseconds(texts, zone="Europe/Berlin") == [
        zone,
        pd.Timestamp("2024-10-27T01:30Z").value,
        pd.Timestamp("2024-10-27T02:00Z").value,
        pd.Timestamp("2024-03-31T01:30Z").value,
        pd.Timestamp("2024-07-01T12:00Z").value,
    ]
    assert nanoseconds(["27.10.2024 02:30"], pattern="%d.%m.%Y %H:%M", zone="Europe/Berlin") == [
        pd.Timestamp("2024-10-27T01:30Z").value
    ]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"unit": "h"}, "time_unit must be one of s, ms, us, ns or iso, not 'h'"),
        ({"pattern": "%Q"}, "time_format '%Q'"),
    ],
)
def test_unknown_units_and_formats_are_named(options, told):
    with pytest.raises(ValueError, match=told):
        time_sql(**options)
    with pytest.raises(ValueError, match="time_zone 'Mars/Phobos' is not known"):
        nanoseconds(["2024-01-01"], zone="Mars/Phobos")
