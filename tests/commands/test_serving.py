"""Commands for serving: the server's process gets the words of the command, and nothing else."""

import os
import sys

import pytest

from recsys_lab.cli import main
from recsys_lab.serving.api import arguments


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
