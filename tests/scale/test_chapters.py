"""Calls in processes of their own; runs over real workers are in `cluster_checks.py`."""

import os
import pickle
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from recsys_lab.chapters import ChapterFailed
from recsys_lab.scale import chapters
from recsys_lab.scale.chapters import call_apart, sees, variables_for
from recsys_lab.scale.cluster import Cluster, ClusterError


def wanted() -> bool:
    return False


def calls() -> list[psutil.Process]:
    """Processes below this one that answer a call."""
    return [p for p in psutil.Process().children(recursive=True) if "answer_call" in " ".join(p.cmdline())]


def test_a_call_has_its_variables_and_gives_its_result():
    assert call_apart({"RECSYS_LAB_WORD": "there"}, wanted, os.getenv, "RECSYS_LAB_WORD") == "there"
    assert "RECSYS_LAB_WORD" not in os.environ
    assert call_apart({}, wanted, os.getpid) != os.getpid()


def test_an_error_is_raised_here_as_it_was_there():
    with pytest.raises(ValueError, match="invalid literal for int"):
        call_apart({}, wanted, int, "ten")
    with pytest.raises(KeyError, match="missing"):
        call_apart({}, wanted, {}.__getitem__, "missing")


def test_a_chapter_that_fails_keeps_its_name():
    """`ChapterFailed` comes from another process whole, so that the run says which chapter it was."""
    with pytest.raises(ChapterFailed) as failed:
        raise pickle.loads(pickle.dumps(ChapterFailed("21_popularity", "no event")))
    assert (failed.value.chapter, failed.value.reason) == ("21_popularity", "no event")


def test_a_process_that_dies_is_told_with_what_it_was_at():
    def kill() -> None:
        while not calls():
            time.sleep(0.05)
        calls()[0].send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ClusterError, match=r"sleep\(60\): its process ended with -9, perhaps for want of memory"):
        call_apart({}, wanted, time.sleep, 60)
    killer.join()


@pytest.mark.parametrize("deaf", [False, True])
def test_a_call_that_is_no_longer_wanted_is_ended(monkeypatch, deaf, tmp_path):
    """By an interruption; where it does not listen, for good."""
    monkeypatch.setattr(chapters, "GRACE_SECONDS", 2.0 if deaf else 60.0)
    work, argument = (os.system, f"trap '' INT; touch {tmp_path / 'began'}; sleep 50") if deaf else (time.sleep, 50)
    start = time.monotonic()
    with pytest.raises(ClusterError, match="its process ended with"):
        call_apart({}, (tmp_path / "began").exists if deaf else lambda: True, work, argument)
    assert not calls() and time.monotonic() - start < 45


def test_the_lab_s_variables_go_with_a_chapter(monkeypatch):
    monkeypatch.setenv("RECSYS_LAB_RUN", "/some/run")
    monkeypatch.setenv("HOME_OF_SECRETS", "no")
    found = variables_for(Cluster())
    assert found["RECSYS_LAB_RUN"] == "/some/run" and found["OMP_NUM_THREADS"] == "1" and "HOME_OF_SECRETS" not in found


def test_what_is_not_seen_is_named(tmp_path):
    there, nowhere = str(tmp_path), str(Path(tmp_path) / "nowhere")
    assert (sees(there, there), sees(nowhere, there), sees(there, nowhere)) == ("", nowhere, nowhere)
