"""A log in many files: what is written, and what is said where a file is missing or another."""

import json

import pandas as pd
import pytest
from helpers import random_log, untimed_sessions, with_crawler

from recsys_lab import splits
from recsys_lab.files import DataError, UserError
from recsys_lab.scale import running, store
from recsys_lab.scale.cluster import Cluster


def test_what_is_missing_or_other_is_named(tmp_path):
    log = random_log(1)
    with pytest.raises(DataError, match="no partitioned log"):
        store.PartitionedLog(tmp_path)
    kept = store.write_partitions(log, tmp_path / "store", 3)
    with pytest.raises(UserError, match="holds a partitioned log"):
        store.write_partitions(log, tmp_path / "store", 3)
    part = tmp_path / "store" / kept.files[1]["file"]
    whole = part.read_bytes()
    part.write_bytes(whole[:-9])
    with pytest.raises(DataError, match=rf"{part.name} has .* bytes instead of"):
        running.run_on_cluster(kept, tmp_path / "run", Cluster(), ["popularity"])
    part.unlink()
    with pytest.raises(DataError, match=f"{part.name} is missing"):
        running.run_on_cluster(kept, tmp_path / "run", Cluster(), ["popularity"])
    part.write_bytes((tmp_path / "store" / kept.files[0]["file"]).read_bytes())  # another file of the same log
    with pytest.raises(DataError, match=f"{part.name} is not what was written"):
        kept.read(1)
    part.write_bytes(whole)
    assert running.run_on_cluster(kept, tmp_path / "run", Cluster(), ["popularity", "ease"], tell=lambda line: None)
    left = json.loads((tmp_path / "run" / "provenance.json").read_text())["cluster"]["left_out"]
    assert "ease cannot be fitted over several files" in left["ease"]
    source = tmp_path / "log.parquet"
    log.events.drop(columns="item_id").to_parquet(source)
    with pytest.raises(DataError, match=r"lacks the column.*item_id"):
        store.write_partitions([str(source)], tmp_path / "other", 2)
    assert not (tmp_path / "other" / store.MANIFEST).exists()
    log.events.assign(timestamp=log.events["timestamp"].where(log.events.index > 3)).to_parquet(source)
    with pytest.raises(DataError, match=r"4 of 400 events .* have no timestamp"):
        store.write_partitions([str(source)], tmp_path / "other", 2)


def test_sources_are_one_log_and_urls_are_places(tmp_path):
    """Several Parquet files are one log, in their order; a store may lie behind any URL that fsspec knows."""
    log = random_log(2)
    half = len(log) // 2
    names = [str(tmp_path / f"{n}.parquet") for n in range(2)]
    for name, rows in zip(names, (slice(0, half), slice(half, None)), strict=True):
        log.events.iloc[rows].assign(event=log.events["event"].astype(str)).to_parquet(name)
    kept = store.write_partitions(names, "memory://lab/store", 3, "log")
    assert len(kept) == len(log) and kept.items.equals(log.items) and kept.event_names == log.event_names
    cut = store.cut_store(Cluster(), kept)
    assert (cut.valid_at, cut.test_at) == splits.make(log).cutoffs
    kept.check()


def test_a_heavy_visitor_has_a_file_of_their_own(tmp_path):
    """One visitor with two of five events does not decide how large the files of all others are; every row is kept once."""
    log = with_crawler(random_log(6, n=8000, users=900))
    heaviest = log.events["user_id"].value_counts().index[0]
    kept = store.write_partitions(log, tmp_path / "store", 4)
    assert len(kept.files) == 5 and len(kept) == len(log)
    owners = [set(kept.read(n).users) for n in kept.numbers]
    assert owners[-1] == {heaviest} and all(heaviest not in others for others in owners[:-1])
    others = [file["rows"] for file in kept.files[:-1]]
    assert max(others) < 1.5 * min(others)


@pytest.mark.parametrize(
    "cutoffs",
    [
        {},
        {"test": 0.2},
        {"test": 0.2, "valid": 0.1},
        {"test": "at"},
        {"test": "at", "valid": 0.3},
        {"test": "at", "valid": "before"},
    ],
)
@pytest.mark.parametrize("timed", [True, False])
def test_the_owner_of_a_log_says_where_parts_begin(tmp_path, cutoffs, timed):
    """Cutoffs named with the log, as shares or moments, and the clock of a part of a longer log without times, are those of one machine."""
    log = random_log(7) if timed else untimed_sessions(7)
    log = log if timed else log.where(log.moments >= 300)  # a part of a longer log
    middle = log.moments[len(log) * 3 // 4], log.moments[len(log) // 2]
    named = {"at": middle[0], "before": middle[1]}
    texts = {
        name: pd.Timestamp(moment, unit="ms").isoformat() if timed else int(moment) for name, moment in named.items()
    }
    log.cutoffs = {part: texts.get(value, value) for part, value in cutoffs.items()}
    kept = store.write_partitions(log, tmp_path / "store", 3)
    cut = store.cut_store(Cluster(), kept)
    assert (cut.valid_at, cut.test_at) == splits.make(log).cutoffs
