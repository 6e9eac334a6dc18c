"""Commands for serving: the server's process gets the words of the command, and nothing else."""

import json
import os
import sys
import time

import numpy as np
import pytest

from recsys_lab.cli import main
from recsys_lab.lifecycle.feedback import FeedbackLog, visitor_key
from recsys_lab.serving.api import arguments, serve
from recsys_lab.serving.service import drift_metrics


@pytest.fixture
def started(monkeypatch):
    """What would have replaced this process."""
    calls = []
    monkeypatch.setattr(os, "execv", lambda path, words: calls.append(words))
    return calls


def test_the_server_gets_the_words_of_the_command(started):
    pytest.importorskip("fastapi_offline")
    words = [
        "serve",
        "my bundle",
        "--port",
        "9",
        "--workers",
        "2",
        "--traffic",
        "0.1",
        "--challenger",
        "als",
        "--quiet",
    ]
    assert main(words) == 0
    (call,) = started
    assert call[:3] == [sys.executable, "-m", "recsys_lab.serving.lean"]
    read = arguments(call[3:])
    assert (read.bundle, read.port, read.workers, read.traffic, read.challenger, read.quiet) == (
        "my bundle",
        9,
        2,
        0.1,
        "als",
        True,
    )
    assert read.token is None and read.redis is None  # which come from the environment then


def test_the_page_gets_its_address(started):
    pytest.importorskip("streamlit")
    assert main(["ui", "--port", "8600", "--api", "http://127.0.0.1:9"]) == 0
    assert "8600" in started[0] and os.environ["RECSYS_LAB_API"] == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    "words",
    [["serve", "b", "--traffic", "2"], ["serve", "b", "--workers", "0"], ["serve", "b", "--port", "99999"], ["serve"]],
)
def test_what_cannot_be_is_refused_before_a_process_starts(started, words, capsys):
    assert main(words) == 2 and not started and "recsys-lab: " in capsys.readouterr().err


def test_the_server_is_told_of_its_log(started, folder):
    pytest.importorskip("fastapi_offline")
    assert main(["serve", "b", "--log", "my log", "--keep-days", "30", "--explore", "0.05"]) == 0
    read = arguments(started[0][3:])
    assert (read.log, read.keep_days, read.explore) == ("my log", 30, 0.05)
    with pytest.raises(SystemExit) as refused:
        serve([str(folder), "--explore", "0.05"])
    assert "explore needs log" in str(refused.value)


def test_what_was_served_is_summed_up_compacted_and_forgotten(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RECSYS_LAB_LOG_KEY", "secret")
    log = FeedbackLog(tmp_path, key="secret", compacting=False)
    now = log.clock()
    for n in range(4):
        row = {"time": now, "request_id": f"r{n}", "user": visitor_key(n % 2, "secret"), "user_type": "warm"}
        log.put("lists", {**row, "route": "/", "arm": "ab"[n % 2], "model": "als", "items": ["1"], "chances": [1.0]})
    for n, request in enumerate(("r0", "r1", "gone")):
        row = {"request_id": request, "item_id": "1", "event": "purchase", "price": 10.0, "quantity": 1, "time": now}
        log.put("events", {**row, "received": now, "key": str(n)})
    log.close()
    assert main(["feedback", "summary", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(r["arm"], r["lists"], r["purchase"], r["revenue"]) for r in told["arms"]] == [
        ("a", 2, 0.5, 5.0),
        ("b", 2, 0.5, 5.0),
    ]
    assert told["not_attributed"] == {"unknown": 1, "elsewhere": 0, "late": 0} and told["lost"] == told["dropped"] == 0
    assert main(["feedback", "compact", str(tmp_path)]) == 0
    assert "4 lists and 3 events made Parquet, 0 hours dropped" in capsys.readouterr().out
    assert main(["feedback", "forget", str(tmp_path), "1"]) == 0
    assert capsys.readouterr().out == "2 lists and 1 events are gone\n"
    assert main(["feedback", "summary", str(tmp_path)]) == 0
    text = capsys.readouterr().out.splitlines()
    assert text[1].split() == ["a", "als", "2", "0.00%", "0.00%", "50.00%", "5.00"] and len(text) == 4
    monkeypatch.delenv("RECSYS_LAB_LOG_KEY")
    assert main(["feedback", "forget", str(tmp_path), "0"]) == 0
    assert "RECSYS_LAB_LOG_KEY is not set" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["summary", "compact", "forget"])
def test_a_folder_that_is_none_is_named(command, capsys):
    words = ["feedback", command, "nowhere", *(["1"] if command == "forget" else [])]
    assert main(words) == 2 and "nowhere is not a folder; name the one" in capsys.readouterr().err


def test_arms_are_compared_and_a_broken_assignment_is_told(tmp_path, capsys):
    log = FeedbackLog(tmp_path, compacting=False)
    then = log.clock() - 48 * 3_600_000
    for n in range(600):
        arm = "b" if n % 2 else "a"
        row = {"time": then + n, "request_id": f"r{n}", "user": f"u{n}", "user_type": "warm", "arm": arm}
        log.put("lists", {**row, "route": "/", "model": "als", "items": ["1"], "chances": [1.0]})
        if n % 2 and n % 3:
            row = {"request_id": f"r{n}", "item_id": "1", "event": "click", "time": then + n + 5}
            log.put("events", {**row, "received": then + n + 5, "key": str(n)})
    log.close()
    assert main(["feedback", "compare", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    row = next(r for r in told["arms"] if (r["measure"], r["arm"]) == ("click", "b"))
    assert (
        row["rate"] == row["difference"] == pytest.approx(2 / 3)
        and 0 < row["low"] < 2 / 3 < row["high"]
        and row["shown"]
    )
    assert told["left_out"] == {"early": 0, "moved": 0} and told["mismatch"]["p"] == 1
    assert main(["feedback", "compare", str(tmp_path), "--shares", "a=0.9,b=0.1"]) == 0
    text = capsys.readouterr().out
    assert "the assignment is broken" in text and "shown" in text and "click     b          300 visitors" in text
    for words, said in (
        (["--shares", "a"], "--shares must be arms with shares as a=0.9,b=0.1, not 'a'"),
        (["--shares", "c=0.5,d=0.5"], "no visitor was served by the arm 'c'"),
        (["--shares", "a=0.5,b=0.6"], "add up to 1"),
        (["--hours", "100"], "no visitor's 100 hours are over yet"),
    ):
        assert main(["feedback", "compare", str(tmp_path), *words]) == 2
        assert said in capsys.readouterr().err


def test_drift_of_what_was_served_is_found_written_and_told_by_its_exit_code(tmp_path, capsys):
    now = time.time_ns() // 1_000_000
    log = FeedbackLog(tmp_path / "log", compacting=False, clock=lambda: now, most=100_000)
    rng = np.random.default_rng(0)
    for n in range(40 * 60):
        age = n % 40 + 1
        row = {
            "time": now - age * 86_400_000,
            "request_id": f"r{n}",
            "user": f"u{n}",
            "route": "/",
            "arm": "a",
            "model": "als",
        }
        row |= {"user_type": "cold" if rng.random() < (0.9 if age <= 7 else 0.3) else "warm", "chances": [1.0]}
        log.put("lists", row | {"items": [str(rng.integers(5))], "scores": [float(rng.random())]})
    log.close()
    words = ["feedback", "drift", str(tmp_path / "log"), "--reference", "30"]
    assert main([*words, "--json"]) == 0
    told = {row["figure"]: row for row in json.loads(capsys.readouterr().out)["figures"]}
    assert told["user_type"]["alarm"] and not told["score"]["alarm"] and not told["first"]["alarm"]
    assert main([*words, "--fail"]) == 1
    text = capsys.readouterr().out
    assert "DRIFT user_type" in text and "ok    score" in text
    assert b'recsys_drift_alarm{figure="user_type"} 1.0' in drift_metrics(str(tmp_path / "log"))
    assert main([*words[:-1], "10"]) == 2
    assert "the reference has" in capsys.readouterr().err


def test_interleaved_lists_are_compared_by_their_teams(tmp_path, capsys):
    log = FeedbackLog(tmp_path, compacting=False)
    now = log.clock()
    for n in range(200):
        row = {"time": now, "request_id": f"r{n}", "user": f"u{n}", "user_type": "warm", "arm": "a+b", "model": "als"}
        log.put("lists", {**row, "route": "/", "items": ["1", "2"], "chances": [1.0, 1.0], "teams": ["a", "b"]})
        event = {"request_id": f"r{n}", "item_id": "1" if n % 10 == 0 else "2", "event": "click", "time": now}
        log.put("events", {**event, "received": now, "key": str(n)})
    log.close()
    assert main(["feedback", "compare", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (
        told["visitors"] == 200
        and told["preference"] == pytest.approx(0.8)
        and 0 < told["low"] < 0.8 < told["high"] <= 1
    )
    assert main(["feedback", "compare", str(tmp_path)]) == 0
    assert "200 visitors clicked more on one team's items: preference for b over a +0.800 [" in capsys.readouterr().out
