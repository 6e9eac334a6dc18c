"""Where logs are found, how they are told, and what is kept of them."""

import hashlib
import os

import pandas as pd
import pytest
from helpers import HEADER, ROOT, real_data, write_log

from recsys_lab import files, loading
from recsys_lab.files import DataError
from recsys_lab.readers import shaping


def test_missing_folder_lists_what_there_is():
    with pytest.raises(ValueError, match=r"there are .*shop"):
        loading.load("nothing-of-this-name")


def test_unknown_size_is_refused():
    with pytest.raises(ValueError, match="no shop of size 'huge'; there are"):
        loading.load("shop", size="huge")


def test_own_log_described_by_toml(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "log.csv").write_text("who,what\na,1\na,2\nb,1\n")
    (folder / "dataset.toml").write_text('file = "log.csv"\n[columns]\nuser_id = "who"\nitem_id = "what"\n')
    monkeypatch.setenv("RECSYS_LAB_DATA", str(tmp_path))
    log = loading.load("mine")
    assert not log.has_times and log.events.item_id.tolist() == [1, 2, 1] and "mine" in loading.available_datasets()
    (folder / "dataset.toml").write_text('file = "log.csv"\ncolums = 1\n')
    with pytest.raises(DataError, match=r"dataset.toml: \['colums'\] unknown or missing"):
        loading.load("mine")


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


@pytest.mark.parametrize(
    "text, told",
    [
        ('file = "log.csv"\ncolumns = "who"\n', "columns must be dict, not 'who'"),
        ('file = "log.csv"\ntime_unit = 3\n[columns]\nuser_id = "who"\n', "time_unit must be text, not 3"),
        ('file = "log.csv"\n[columns]\nuser_id = "who"\n', "columns must map ['item_id']"),
        ('file = "log.csv"\n[columns\n', "line 2"),
    ],
)
def test_dataset_toml_is_named_when_it_is_wrong(tmp_path, text, told):
    (tmp_path / "log.csv").write_text("who,what\na,1\n")
    (tmp_path / "dataset.toml").write_text(text)
    with pytest.raises(DataError) as error:
        loading.read_folder(tmp_path, "log")
    assert told in str(error.value) and "dataset.toml" in str(error.value)
    right = '\ufefffile = "log.csv"\n[columns]\nuser_id = "who"\nitem_id = "what"\n'  # a byte-order mark is no fault
    (tmp_path / "dataset.toml").write_text(right)
    assert len(loading.read_folder(tmp_path, "log")) == 1


def test_kinds_of_event_that_a_mapping_does_not_name_are_refused(tmp_path):
    (tmp_path / "log.csv").write_text("who,what,did\na,1,look\nb,2,lok\n")
    mapping = {"user_id": "who", "item_id": "what", "event": "did"}
    with pytest.raises(DataError, match="line 3, column 'did': 'lok' is not one of addtocart, look, transaction, view"):
        shaping.read_table(tmp_path / "log.csv", mapping, events={"look": "view"})
    assert shaping.read_table(tmp_path / "log.csv", mapping).event_names == ("lok", "look")


def big_shop(folder, rows=40_000, first=1433193132000):
    text = "".join(f"{first + i},{i % 97},{('view', 'addtocart')[i % 9 == 0]},{i % 89},\n" for i in range(rows))
    return write_log(folder, HEADER + text)


def test_the_cache_is_keyed_by_content(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYS_LAB_CACHE", str(tmp_path / "cache"))
    folder = big_shop(tmp_path / "log")
    fresh = loading.read_cached(folder, "log")
    monkeypatch.setattr(loading, "read_folder", lambda *a: pytest.fail("read the text again"))
    cached = loading.read_cached(folder, "log")
    assert cached.fingerprint == fresh.fingerprint and cached.notices == fresh.notices and cached.source == folder
    pd.testing.assert_frame_equal(cached.events, fresh.events)
    (folder / "events.csv").touch()  # another time, the same content
    assert loading.read_cached(folder, "log").fingerprint == fresh.fingerprint
    monkeypatch.undo()
    monkeypatch.setenv("RECSYS_LAB_CACHE", str(tmp_path / "cache"))
    content = (folder / "events.csv").read_bytes()
    (folder / "events.csv").write_bytes(content.replace(b"1433193132000,0,", b"1433193132000,1,"))  # of the same size
    assert loading.read_cached(folder, "log").fingerprint != fresh.fingerprint
    copies = [p for p in (tmp_path / "cache").iterdir() if p.is_dir()]
    assert len(copies) == 1 and len(list(copies[0].iterdir())) == 1  # the old copy is gone


def test_a_damaged_cache_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYS_LAB_CACHE", str(tmp_path / "cache"))
    folder = big_shop(tmp_path / "log")
    fresh = loading.read_cached(folder, "log")
    for path in (tmp_path / "cache").rglob("events.parquet"):
        path.write_bytes(path.read_bytes()[:1000])
    for path in (tmp_path / "cache").glob("*.json"):
        path.write_text("{")
    assert loading.read_cached(folder, "log").fingerprint == fresh.fingerprint
    assert loading.read_cached(folder, "log").fingerprint == fresh.fingerprint


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("RECSYS_LAB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="is not kept as Parquet"):
        assert len(loading.read_cached(big_shop(tmp_path / "log"), "log")) == 40_000


def test_options_of_the_reader_are_part_of_the_key(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYS_LAB_CACHE", str(tmp_path / "cache"))
    folder = big_shop(tmp_path / "log")
    before = loading.read_cached(folder, "log")
    (folder / "dataset.toml").write_text('format = "retailrocket"\non_error = "quarantine"\n')
    with open(folder / "events.csv", "a") as file:
        file.write("oops\n")
    after = loading.read_cached(folder, "log")
    assert after.fingerprint == before.fingerprint and sum(after.notices.values()) == 1
