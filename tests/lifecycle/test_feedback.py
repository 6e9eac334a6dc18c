"""The log of lists and feedback loses nothing that it does not own up to."""

import json
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from helpers import eventually
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recsys_lab.files import DataError, UserError
from recsys_lab.lifecycle import feedback
from recsys_lab.lifecycle.feedback import (
    KINDS,
    POOL,
    FeedbackLog,
    compact,
    event_key,
    explore,
    forget,
    hour_of,
    list_outcomes,
    read_rows,
    visitor_key,
)

NOON = 1_764_158_400_000  # 2025-11-26 12:00 UTC
HOUR = 3_600_000


def shown(n, at=NOON, user="u", items=("1", "2"), key=""):
    row = {
        "time": at,
        "request_id": f"r{n}",
        "route": "/recommend",
        "user": visitor_key(user, key),
        "user_type": "warm",
    }
    return row | {"arm": "a", "model": "hybrid", "bundle": "v", "items": list(items), "chances": [1.0] * len(items)}


def done(request, item="1", event="click", at=NOON + 1000, **more):
    row = {"request_id": request, "item_id": item, "event": event, "time": at, "price": None, "quantity": 1} | more
    return {"received": at, "key": event_key(row), **{n: v for n, v in row.items() if n != "id"}}


def opened(folder, at=NOON, **more):
    return FeedbackLog(folder, clock=lambda: at, compacting=False, **more)


def write(folder, lists=(), events=(), at=NOON):
    log = opened(folder, at)
    for kind, rows in (("lists", lists), ("events", events)):
        for row in rows:
            assert log.put(kind, row)
    log.close()


def test_nothing_is_lost_when_it_is_closed_and_threads_may_write_at_once(tmp_path):
    log = opened(tmp_path, most=100_000)
    threads = [
        threading.Thread(target=lambda t=t: [log.put("lists", shown(f"{t}-{n}")) for n in range(500)]) for t in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    lines = read_rows(tmp_path, "lists")
    assert sorted(lines.request_id) == sorted(f"r{t}-{n}" for t in range(4) for n in range(500))
    made = compact(tmp_path)
    assert (made.lists, made.lost) == (2000, 0) and not list((tmp_path / "spool").glob("*~*"))
    pd.testing.assert_frame_equal(read_rows(tmp_path, "lists"), lines)


KILLED = """
import os, signal, sys
from recsys_lab.lifecycle.feedback import FeedbackLog
log = FeedbackLog(sys.argv[1], clock=lambda: 1_764_158_400_000, compacting=False)
row = {"time": 1_764_158_400_000, "request_id": "r", "user": "u", "items": ["1"] * 40}
for n in range(20_000):
    log.put("lists", row | {"request_id": f"r{n}"})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_worker_tells_how_much_it_lost(tmp_path):
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)]).returncode == -signal.SIGKILL
    before = read_rows(tmp_path, "lists")  # of a file that nobody closed
    made = compact(tmp_path)
    worker = json.loads((tmp_path / "workers.json").read_text())[0]
    assert (
        worker["accepted"] == 20_000 == made.lists + made.lost + worker["dropped"] and made.lost == worker["lost"] > 0
    )
    assert before.request_id.tolist() == read_rows(tmp_path, "lists").request_id.tolist() and len(before) == made.lists
    assert compact(tmp_path).lost == 0  # told once


@pytest.mark.skipif(sys.platform != "linux", reason="bounds the size of files")
def test_what_does_not_fit_the_disk_waits_and_is_written_whole_when_there_is_room(tmp_path, monkeypatch):
    bound, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = opened(tmp_path)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, bound[1]))
        for n in range(300):
            log.put("lists", shown(n, items=[str(i) for i in range(20)]))
        assert eventually(lambda: log.state()["failing"] == "File too large")
        whole = [json.loads(line) for p in (tmp_path / "spool").glob("*.open") for line in p.read_text().splitlines()]
        assert len(whole) < 300
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, bound)
        signal.signal(signal.SIGXFSZ, handler)
    assert eventually(lambda: log.state()["written"] == 300) and not log.state()["failing"]
    log.close()
    assert sorted(read_rows(tmp_path, "lists").request_id) == sorted(f"r{n}" for n in range(300))


def test_what_cannot_be_written_until_the_end_is_counted(tmp_path, monkeypatch):
    log = opened(tmp_path)

    def full(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feedback.os, "write", full)
    for n in range(7):
        log.put("lists", shown(n))
    assert eventually(lambda: log.state()["failing"] == "No space left on device")
    log.close()
    monkeypatch.undo()
    assert compact(tmp_path)[:2] == (0, 0)
    worker = json.loads((tmp_path / "workers.json").read_text())[0]
    assert (worker["accepted"], worker["written"], worker["dropped"], worker["lost"]) == (7, 0, 7, 0)


def test_what_comes_when_too_many_wait_is_counted_and_does_not_block(tmp_path, monkeypatch):
    told = []
    log = opened(tmp_path, most=5, told=lambda *row: told.append(row))
    monkeypatch.setattr(log, "_write", lambda *row: time.sleep(0.5))
    start = time.monotonic()
    taken = [log.put("lists", shown(n)) for n in range(2000)]
    assert time.monotonic() - start < 5 and not all(taken)
    assert log.state()["dropped"] == taken.count(False) == sum(n for _, what, n in told if what == "dropped")
    assert log.free() <= 5
    log.close()


def test_a_clock_that_goes_back_loses_and_repeats_nothing(tmp_path):
    now = [NOON + HOUR]
    log = FeedbackLog(tmp_path, clock=lambda: now[0], compacting=False)
    for n, at in enumerate((NOON + HOUR, NOON + HOUR + 5, NOON, NOON + 1, NOON + HOUR + 7, NOON + 2)):
        now[0] = at
        log.put("lists", shown(n, at))
        assert eventually(lambda n=n: log.state()["written"] == n + 1)
    log.close()
    assert compact(tmp_path).lists == 6
    found = read_rows(tmp_path, "lists")
    assert sorted(found.request_id) == [f"r{n}" for n in range(6)] and found.time.is_monotonic_increasing
    for path in tmp_path.glob("lists/*/*"):
        times = pd.concat([pd.read_parquet(p) for p in path.glob("*.parquet")]).time
        assert {hour_of(int(t.timestamp() * 1000)) for t in times} == {f"{path.parent.name}T{path.name}"}


def test_an_hour_that_is_over_is_sealed_and_made_parquet_by_itself(tmp_path):
    now = [NOON]
    log = FeedbackLog(tmp_path, clock=lambda: now[0])
    log.put("lists", shown(0))
    assert eventually(lambda: log.state()["written"] == 1)
    assert not list(tmp_path.glob("lists/*/*/*.parquet"))
    now[0] += HOUR
    assert eventually(lambda: list(tmp_path.glob("lists/2025-11-26/12/*.parquet")))
    log.put("lists", shown(1, now[0]))
    log.close()
    assert eventually(lambda: list(tmp_path.glob("lists/2025-11-26/13/*.parquet")))


def test_a_compaction_that_was_broken_off_is_done_again(tmp_path):
    write(tmp_path, [shown(n) for n in range(3)], [done("r0")])
    kept = {p: p.read_bytes() for p in (tmp_path / "spool").glob("*.jsonl")}
    compact(tmp_path)
    for path, content in kept.items():  # it was killed before it deleted the lines
        path.write_bytes(content)
    assert len(read_rows(tmp_path, "lists")) == 3 and len(read_rows(tmp_path, "events")) == 1
    assert compact(tmp_path)[:2] == (3, 1)
    assert len(read_rows(tmp_path, "lists")) == 3 and len(read_rows(tmp_path, "events")) == 1


def test_one_compaction_at_a_time_and_none_of_what_a_living_worker_writes(tmp_path):
    log = opened(tmp_path)
    log.put("lists", shown(0))
    assert eventually(lambda: log.state()["written"] == 1)
    assert compact(tmp_path) == (0, 0, 0, 0) and list((tmp_path / "spool").glob("*.open"))
    assert len(read_rows(tmp_path, "lists")) == 1
    log.close()
    with FileLock(tmp_path / "spool" / "compact.lock"):
        assert compact(tmp_path) == (0, 0, 0, 0)
    assert compact(tmp_path).lists == 1


def test_hours_are_dropped_when_they_are_older_than_they_may_be(tmp_path):
    day = 24 * HOUR
    for n in range(4):
        write(tmp_path, [shown(n, NOON - n * day)], [done(f"r{n}", at=NOON - n * day)], at=NOON - n * day)
    made = compact(tmp_path, keep_days=2, now=NOON + HOUR // 2)
    assert made.hours_dropped == 2  # of lists and of events: the fourth day; the third ends half an hour too late
    assert sorted(read_rows(tmp_path, "lists").request_id) == ["r0", "r1", "r2"]
    assert compact(tmp_path, keep_days=0, now=NOON + 900 * day).hours_dropped == 0


@pytest.mark.parametrize("key", ["", "secret"])
def test_a_visitor_is_forgotten_in_all_files(tmp_path, key):
    write(tmp_path, [shown(n, user=f"visitor-{n % 2}", key=key) for n in range(6)], [done(f"r{n}") for n in range(6)])
    compact(tmp_path)
    write(tmp_path, [shown(n, user=f"visitor-{n % 2}", key=key) for n in range(6, 8)])
    log = opened(tmp_path)  # a living worker
    log.put("lists", shown(8, user="visitor-0", key=key))
    log.put("events", done("r8"))
    assert eventually(lambda: log.state()["written"] == 2)
    assert forget(tmp_path, "visitor-0", key, now=NOON + 1) == {"lists": 4, "events": 3, "waiting": 1}
    log.put("lists", shown(9, NOON + 2, user="visitor-0", key=key))  # comes again, and is not forgotten for good
    assert eventually(lambda: log.state()["written"] == 3)
    left = ["r1", "r3", "r5", "r7", "r9"]
    assert sorted(read_rows(tmp_path, "lists").request_id) == left
    assert sorted(read_rows(tmp_path, "events").request_id) == ["r1", "r3", "r5"]
    log.close()
    compact(tmp_path)
    assert sorted(read_rows(tmp_path, "lists").request_id) == left
    assert json.loads((tmp_path / "forgotten.json").read_text()) == {}
    assert forget(tmp_path, "visitor-0", key)["lists"] == 1 and forget(tmp_path, "nobody", key)["lists"] == 0
    mine = visitor_key("visitor-0", key)
    compact(tmp_path)
    users = {u for p in tmp_path.rglob("*.parquet") for u in pd.read_parquet(p).get("user", [])}
    assert mine not in users and not list(tmp_path.rglob("*.part"))


def test_a_damaged_line_is_named_and_a_torn_last_one_is_not_missed(tmp_path):
    write(tmp_path, [shown(n) for n in range(3)])
    path = next((tmp_path / "spool").glob("*.jsonl"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert read_rows(tmp_path, "lists").request_id.tolist() == ["r0", "r1"]
    path.write_bytes(whole.replace(b'"r1"', b'"r1'))
    with pytest.raises(DataError, match=r"lists~2025-11-26T12~.*jsonl, line 2: not valid JSON"):
        compact(tmp_path)
    assert path.exists() and not list(tmp_path.glob("lists/*/*/*"))
    with pytest.raises(UserError, match="nowhere is not a folder; name the one"):
        compact(tmp_path / "nowhere")


def test_events_count_for_the_list_that_showed_their_item_within_the_time(tmp_path):
    second = 1000
    lists = [shown(0), shown(1, NOON + second, items=("3",))]
    events = [
        done("r0", "1", "click"),
        done("r0", "1", "click"),  # told twice
        done("r0", "2", "purchase", price=2.5, quantity=4),
        done("r0", "2", "purchase", price=1.0, at=NOON + 2 * second),
        done("r0", "3", "click"),  # stood in another list
        done("r1", "3", "cart", at=NOON + 90_000 * second),  # a day later
        done("r1", "3", "cart", at=NOON),  # before it was shown
        done("r7", "1", "click"),
    ]
    write(tmp_path, lists, events)
    out, missed = list_outcomes(read_rows(tmp_path, "lists"), read_rows(tmp_path, "events"))
    assert out.click.tolist() == [True, False] and out.purchase.tolist() == [True, False]
    assert out.revenue.tolist() == [11.0, 0.0] and not out.cart.any()
    assert missed == {"unknown": 1, "elsewhere": 1, "late": 2}
    nothing, missed = list_outcomes(read_rows(tmp_path, "lists"), read_rows(tmp_path, "events").iloc[:0])
    assert not nothing.click.any() and set(missed.values()) == {0}
    nobody, missed = list_outcomes(read_rows(tmp_path, "lists").iloc[:0], read_rows(tmp_path, "events"))
    assert len(nobody) == 0 and missed["unknown"] == 7


def test_an_event_told_to_two_workers_counts_once_whatever_they_write_first(tmp_path):
    write(tmp_path / "a", [shown(0)], [done("r0"), done("r0", id="x"), done("r0", "2", id="x")])
    write(tmp_path / "b", [], [done("r0"), done("r0", "2", id="x", at=NOON)])
    shutil.copytree(tmp_path / "b" / "spool", tmp_path / "a" / "spool", dirs_exist_ok=True)
    found = read_rows(tmp_path / "a", "events")
    assert len(found) == 2 and found.received.is_monotonic_increasing
    compact(tmp_path / "a")
    pd.testing.assert_frame_equal(read_rows(tmp_path / "a", "events"), found)


def test_rows_are_read_between_two_moments(tmp_path):
    write(tmp_path, [shown(n, NOON + n) for n in range(5)])
    assert read_rows(tmp_path, "lists", NOON + 1, NOON + 3).request_id.tolist() == ["r1", "r2"]
    (tmp_path / "empty").mkdir()
    for kind in KINDS:
        empty = read_rows(tmp_path / "empty", kind)
        assert len(empty) == 0 and list(empty) == list(feedback.FIELDS[kind])


@settings(max_examples=60, deadline=None)
@given(ranked=st.integers(0, 120), k=st.integers(1, 50), share=st.floats(0, 1), draw=st.text(max_size=8))
@example(ranked=0, k=5, share=0.5, draw="")  # an empty list
def test_what_is_left_to_chance_holds_each_item_once_and_tells_its_chance(ranked, k, share, draw):
    found = explore(ranked, k, share, draw)
    own, pool = min(k, ranked), max(0, min(POOL, ranked - k))
    assert len(found.places) == len(set(found.places.tolist())) == own
    stays = found.places == np.arange(own)
    assert ((found.places[~stays] >= own) & (found.places[~stays] < own + pool)).all()
    if share and own and pool >= own:
        np.testing.assert_allclose(found.chances, np.where(stays, 1 - share, share / pool))
    else:
        assert stays.all() and (found.chances == 1).all()
    np.testing.assert_array_equal(found.places, explore(ranked, k, share, draw).places)


def test_the_stated_chances_are_those_of_the_draws():
    n, k, ranked, share = 20_000, 3, 9, 0.4
    stood = np.stack([explore(ranked, k, share, f"{i}").places for i in range(n)])
    for place in range(k):
        shares = np.bincount(stood[:, place], minlength=ranked) / n
        wanted = np.where(
            np.arange(ranked) == place, 1 - share, np.where(np.arange(ranked) < k, 0, share / (ranked - k))
        )
        assert (np.abs(shares - wanted) <= 4.5 * np.sqrt(np.maximum(wanted * (1 - wanted), 0) / n)).all()
    both = ((stood[:, 0] >= k) & (stood[:, 1] >= k)).mean()  # places are given away independently
    assert abs(both - share**2) < 4.5 * np.sqrt(share**2 * (1 - share**2) / n)
